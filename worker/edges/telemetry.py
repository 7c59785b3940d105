"""What the worker says of itself: structured logs, and counters and timings told at a bounded rate.

Logs are one JSON line per notable thing, with the field names of the Elastic Common Schema (ECS 8); on a terminal they
are written for a person. There is no line per event.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.core.events import OutputTopic

REPORT_SECONDS = 10.0
_DATASET = "modelvigil.worker"


class Count(StrEnum):
    """Counters, all since the start of the process. Never renamed; each name is its field in the log."""

    RECORDS_CONSUMED = "records_consumed"
    """Input records read; those of feedback once for each shard."""
    EVENTS_PROCESSED = "events_processed"
    """Records that were prediction events and are in the statistics."""
    LABELS = "labels"
    """Label records processed."""
    RECORDS_REJECTED = "records_rejected"
    """Records that went to the dead-letter topic."""
    ALERTS = "alerts"
    """Records committed to the alert topic."""
    INCIDENTS = "incidents"
    """Records committed to the topic of open incidents, tombstones among them."""
    METRICS = "metrics"
    """Records committed to the metric topic."""
    MAINTENANCE = "maintenance"
    """Records committed to the maintenance topic."""
    SCORES = "scores"
    """Verdicts on single events, where they are asked for."""
    DEAD_LETTERS = "dead_letters"
    """Records committed to the dead-letter topic."""
    OUTPUTS_LATE = "outputs_late"
    """Records among these that are marked as late: computed while the worker was lagging."""
    TRANSACTIONS_COMMITTED = "transactions_committed"
    """Transactions that became visible."""
    TRANSACTIONS_ABORTED = "transactions_aborted"
    """Transactions that had to be sent again, or whose outcome was looked up."""
    SNAPSHOTS = "snapshots"
    """Snapshots of a shard completed."""
    SNAPSHOT_BYTES = "snapshot_bytes"
    """Bytes of the records committed to the state topic."""
    RESTORES = "restores"
    """Shards restored from a snapshot or the journal and now live."""
    RESTORED_EVENTS = "restored_events"
    """Records read again to restore state; nothing was published for them."""
    RESTORES_REFUSED = "restores_refused"
    """Shards whose state is missing or foreign; a human decides."""
    DIGEST_MISMATCHES = "digest_mismatches"
    """Restores that did not lead to the state that was recorded."""
    ARTEFACTS_STORED = "artefacts_stored"
    """Models put into the artefact store."""
    ARTEFACTS_FAILED = "artefacts_failed"
    """Attempts to put one there, or to remove old ones, that failed."""


class Stage(StrEnum):
    """Where the time goes; the sum of seconds since the start of the process."""

    FETCH = "fetch"
    """Waiting for records and taking them over."""
    HANDLE = "handle"
    """Decoding, statistics, detectors, decisions, encoding."""
    REFIT_WAIT = "refit_wait"
    """The part of `handle` in which events waited for a fit to be taken over."""
    MAINTENANCE = "maintenance"
    """The part of `handle` for model maintenance."""
    CHALLENGER_FITS = "challenger_fits"
    """Fits of challengers, of the CPU in other processes."""
    COMMIT = "commit"
    """Producing, committing."""
    SNAPSHOT = "snapshot"
    """Capturing and packing state."""
    RESTORE = "restore"
    """Reading state back, and records again."""


class Gauge(StrEnum):
    """What is true right now. Never renamed; each name is its field in the log, null where it is not known."""

    SHARDS_LIVE = "shards_live"
    """Shards that process their input."""
    SHARDS_RESTORING = "shards_restoring"
    """Shards whose state is being read back."""
    SHARDS_REFUSED = "shards_refused"
    """Shards that wait for a human, because their state is missing or foreign."""
    RESTORE_RECORDS_LEFT = "restore_records_left"
    """Records still to be read again before all shards are live."""
    RESTORE_SECONDS_LEFT = "restore_seconds_left"
    """The time that this will take, by the pace so far."""
    STATE_AGE_SECONDS = "state_age_seconds"
    """Age of the oldest snapshot among the live shards."""
    LAG_SECONDS = "lag_seconds"
    """How long after Kafka's timestamp records are taken: the latest one of the last turn that took any."""
    MAINTENANCE_SHARE = "maintenance_share"
    """Of the time of `handle` and fits, that for model maintenance, in the last few seconds; null: next to no work."""
    MAINTENANCE_THINNING = "maintenance_thinning"
    """Level of the shard that is thinned most: one event in 2^level is used for model maintenance."""


OUTPUT_COUNTS: Mapping[OutputTopic, Count] = {
    OutputTopic.ALERTS: Count.ALERTS,
    OutputTopic.INCIDENTS: Count.INCIDENTS,
    OutputTopic.METRICS: Count.METRICS,
    OutputTopic.MAINTENANCE: Count.MAINTENANCE,
    OutputTopic.SCORES: Count.SCORES,
    OutputTopic.DEAD_LETTERS: Count.DEAD_LETTERS,
}


class Telemetry:
    """Counters, stage timings and gauges of one process, reported as one log line every `REPORT_SECONDS`."""

    def __init__(self, logger: Any, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401 - structlog's
        self._logger = logger
        self._clock = clock
        self._counts: Counter[Count] = Counter()
        self._seconds: Counter[Stage] = Counter()
        self._gauges: dict[Gauge, float | None] = dict.fromkeys(Gauge)
        self._reported: Counter[Count] = Counter()
        self._reported_state = self._state()
        self._reported_at = clock()

    def add(self, count: Count, by: int = 1) -> None:
        """Add to a counter."""
        self._counts[count] += by

    def spend(self, stage: Stage, seconds: float) -> None:
        """Add to a stage's time."""
        self._seconds[stage] += seconds  # type: ignore[assignment]  # a Counter of floats

    def set_gauge(self, name: Gauge, value: float | None) -> None:
        """Say what is true now; None where it is not known."""
        self._gauges[name] = value

    @property
    def ready(self) -> bool:
        """Whether this process does all the work it was given: every shard that it owns is live, and there is one."""
        restoring, refused = self._gauges[Gauge.SHARDS_RESTORING], self._gauges[Gauge.SHARDS_REFUSED]
        return not restoring and not refused and bool(self._gauges[Gauge.SHARDS_LIVE])

    def counts(self) -> dict[Count, int]:
        """Return all counters."""
        return {count: self._counts[count] for count in Count}

    def report_if_due(self) -> None:
        """Write one line of progress when the last one is `REPORT_SECONDS` old and something has happened."""
        now = self._clock()
        elapsed = now - self._reported_at
        if elapsed < REPORT_SECONDS:
            return
        state = self._state()
        if self._counts != self._reported or state != self._reported_state:
            processed = self._counts[Count.EVENTS_PROCESSED] - self._reported[Count.EVENTS_PROCESSED]
            self._report("progress", events_per_second=round(processed / elapsed, 1))
        self._reported, self._reported_state, self._reported_at = self._counts.copy(), state, now

    def report_at_end(self) -> None:
        """Write the totals."""
        self._report("totals")

    def _state(self) -> dict[Gauge, float | None]:
        """All gauges but those that change by themselves: they are no reason for a line."""
        changing = (Gauge.STATE_AGE_SECONDS, Gauge.LAG_SECONDS, Gauge.MAINTENANCE_SHARE)
        return {gauge: value for gauge, value in self._gauges.items() if gauge not in changing}

    def _report(self, message: str, **more: float) -> None:
        counts = {count.value: value for count, value in self.counts().items()}
        seconds = {f"{stage.value}_seconds": round(float(self._seconds[stage]), 3) for stage in Stage}
        gauges = {gauge.value: None if value is None else round(value, 3) for gauge, value in self._gauges.items()}
        self._logger.info(message, **more, ready=self.ready, **counts, **seconds, **gauges)


def configure_logging(log_format: Literal["auto", "json", "console"], level: str, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process; both write to `stream` (stderr)."""
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        ending += [structlog.processors.format_exc_info, _to_ecs, structlog.processors.JSONRenderer(_dumps)]
    else:
        ending += [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=ending, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _to_ecs(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Rename the common fields to ECS; the rest goes below `modelvigil`."""
    renamed: EventDict = {
        "@timestamp": event.pop("timestamp", None),
        "log.level": event.pop("level", None),
        "message": event.pop("event", None),
        "event.dataset": _DATASET,
        "service.name": "modelvigil",
        "ecs.version": "8.11.0",
    }
    if (trace := event.pop("exception", None)) is not None:
        renamed["error.stack_trace"] = trace
    if (message := event.pop("error", None)) is not None:
        renamed["error.message"] = str(message)
    renamed.update({f"modelvigil.{name}": value for name, value in event.items()})
    return renamed


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
