"""All state of one input partition: decodes its records and routes each to the monitor of its model.

Rule 1: every record of a batch becomes an event of exactly one monitor or exactly one dead letter.
Rule 2: outputs leave in the order of the offsets that caused them, however the stream was cut into batches.
"""

from collections import defaultdict
from hashlib import blake2b
from operator import attrgetter

import numpy as np

from worker.core.codec import DecodedBatch, Reject, dead_letter, decode_predictions
from worker.core.detectors.refit import RefitPool
from worker.core.events import Output, RawBatch, RejectCode
from worker.core.monitor import Monitor
from worker.core.options import EngineOptions

_OFFSET = attrgetter("offset")


class Shard:
    """The monitors of one partition of the topic `topic`."""

    def __init__(self, partition: int, topic: str, options: EngineOptions, refits: RefitPool) -> None:
        self._partition = partition
        self._topic = topic
        self._options = options
        self._refits = refits
        self._monitors: dict[str, Monitor] = {}
        self._last_offset = -1

    @property
    def models(self) -> int:
        """How many models are watched."""
        return len(self._monitors)

    def handle(self, batch: RawBatch) -> tuple[list[Output], list[Reject]]:
        """Process consecutive records; return the outputs, dead letters among them, and what was rejected."""
        if not batch.offsets:
            return [], []
        options = self._options
        decoded = decode_predictions(
            batch, record_bytes_max=options.record_bytes_max, future_max_ms=options.future_max_ms
        )
        groups = self._route(decoded)
        out = [dead_letter(batch, reject, self._topic) for reject in decoded.rejects]
        offsets, times = np.array(batch.offsets, dtype=np.int64), np.array(decoded.timestamps_ms, dtype=np.int64)
        offsets = offsets[decoded.rows]
        for model_id, places in groups.items():
            events = [decoded.events[place] for place in places]
            out += self._monitors[model_id].process(events, offsets[places], times[places])
        self._last_offset = batch.offsets[-1]
        out.sort(key=_OFFSET)  # stable: the outputs of one event stay in their order
        return out, decoded.rejects

    def _route(self, decoded: DecodedBatch) -> dict[str, list[int]]:
        """Group the places of events by model, in order of first appearance; reject what is beyond `models_max`."""
        groups: dict[str, list[int]] = defaultdict(list)
        for place, event in enumerate(decoded.events):
            groups[event.model_id].append(place)
        for model_id in [model_id for model_id in groups if model_id not in self._monitors]:
            if len(self._monitors) < self._options.models_max:
                monitor = Monitor(model_id, self._partition, self._topic, self._options, self._refits)
                self._monitors[model_id] = monitor
            else:
                detail = f"{self._options.models_max} other models are watched already (engine.models_max)"
                refused = groups.pop(model_id)
                decoded.rejects.extend(Reject(decoded.rows[place], RejectCode.MODELS_MAX, detail) for place in refused)
        return groups

    def tick(self, now_ms: int) -> list[Output]:
        """The partition has been idle: let every monitor close what is over at `now_ms`."""
        return [output for monitor in self._monitors.values() for output in monitor.tick(now_ms, self._last_offset)]

    def drain(self) -> list[Output]:
        """Publish what the open panes hold before this shard's state is dropped."""
        return [output for monitor in self._monitors.values() for output in monitor.drain()]

    def digest(self) -> str:
        """Return a checksum of all state: equal digests, equal futures. It walks everything; not for every batch."""
        total = blake2b(digest_size=16)
        for model_id, monitor in self._monitors.items():
            total.update(model_id.encode())
            for name, array in sorted(monitor.state().items()):
                total.update(f"{name} {array.dtype.str} {array.shape}".encode())
                total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()
