"""The engine in this process, without Kafka, for as many models and events as are wanted.

Events are put together from a few encoded ones with other ids, models and times: millions of them take little time and
no memory. A forest is fitted once and copied for each request: fits, which another thread of the worker does, are left
out, and each model has a forest of its own all the same.
"""

import copy
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import orjson

from benchmarks.events import EVENTS_PER_SECOND, FEATURES, PARTITIONS, START_MS, Shape, generate
from worker.core.detectors.forest_fit import InHand, ModelInHand, fit_request
from worker.core.detectors.refit import FittedHere, FittedModel, RefitRequest
from worker.core.engine import Engine
from worker.core.events import RawBatch
from worker.core.options import EngineOptions
from worker.core.shard import Topics

BATCH = 1250
"""Records of one partition in a fetch, as the worker gets them with four partitions."""
WARM_EVENTS = 1_200
"""Of each model, before what is measured: warm-up is over, the first forest is at work, and there are verdicts."""
ROWS = 19_997
"""A prime: each model meets all rows, however many models take turns."""

_Fitted = TypeVar("_Fitted")


class CopiedFits:
    """Fits once for each number of features; whoever asks gets a copy."""

    def __init__(self) -> None:
        self._fitted: dict[tuple[type, int], FittedModel] = {}

    def submit(self, request: RefitRequest) -> ModelInHand:
        """Return a model that somebody else's rows have given."""
        key = (type(request), request.rows.shape[1])
        if key not in self._fitted:
            self._fitted[key] = fit_request(request)
        return ModelInHand(copy.deepcopy(self._fitted[key]))

    def fit_challenger(self, request: FittedHere[_Fitted]) -> InHand[_Fitted]:
        """Fit now."""
        return InHand(request.fit())


class Stream:
    """Batches of events of `models` models, whose numbers and times go on from call to call.

    Args:
        models: models, spread over the partitions.
        features: numbers of each event.
        rows: different events; after them they come again.
    """

    def __init__(self, models: int, features: int = FEATURES, rows: int = ROWS) -> None:
        self._models = models
        self._ends = [_end(value) for _, value in generate(rows, shape=Shape(models=1, numbers=features))]
        self._number = 0
        self._offsets = [0] * PARTITIONS
        _give_back()

    def one_after_the_other(self, each: int) -> Iterator[RawBatch]:
        """Yield `each` events of the first model, then as many of the second one, and so on."""
        for model in range(self._models):
            for begin in range(0, each, BATCH):
                yield self._batch(model % PARTITIONS, [model] * min(BATCH, each - begin))

    def mixed(self, events: int) -> Iterator[RawBatch]:
        """Yield about so many events, a batch of each partition in turn, the models of each one after the other."""
        own = [range(partition, self._models, PARTITIONS) for partition in range(PARTITIONS)]
        turns = [0] * PARTITIONS
        done = 0
        while done < events:
            for partition, models in enumerate(own):
                if models:
                    count = len(models)
                    begin = turns[partition]
                    yield self._batch(partition, [models[(begin + place) % count] for place in range(BATCH)])
                    turns[partition] = (begin + BATCH) % count
                    done += BATCH

    def _batch(self, partition: int, models: list[int]) -> RawBatch:
        size, ends = len(models), self._ends
        first, count = self._number, len(self._ends)
        values = [
            b'{"event_id":"e%d","model_id":"model-%d","timestamp":%d%b'
            % (number, model, START_MS + number * 1000 // EVENTS_PER_SECOND, ends[number % count])
            for number, model in enumerate(models, first)
        ]
        begin = self._offsets[partition]
        self._number += size
        self._offsets[partition] += size
        time_ms = START_MS + self._number * 1000 // EVENTS_PER_SECOND
        offsets, nothing = range(begin, begin + size), [None] * size
        return RawBatch(partition, offsets, [time_ms] * size, values, nothing, nothing)


def _give_back() -> None:
    """Give free memory back to the system (glibc): what grows later would use it, and not be seen as growth."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _end(value: bytes) -> bytes:
    """Return what follows id, model and time in an encoded event."""
    event = orjson.loads(value)
    kept = {name: event[name] for name in ("model_version", "features", "prediction")}
    return b"," + orjson.dumps(kept)[1:]


def new_engine(fits: CopiedFits, options: EngineOptions | None = None) -> Engine:
    """Return an engine with all partitions."""
    engine = Engine(options or EngineOptions(), Topics(), fits)
    for partition in range(PARTITIONS):
        engine.add_shard(partition)
    return engine


def resident_bytes() -> int:
    """Return what this process has in memory (Linux), once garbage is collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
