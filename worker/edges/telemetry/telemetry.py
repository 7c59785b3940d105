"""Counters, timings and gauges of one process, told in one log line at a bounded rate, and read for `/metrics`."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from worker.edges.telemetry.log_fields import Count, Gauge, Stage
from worker.edges.telemetry.metrics import COUNTS, GAUGES, TIMES, Metric, Metrics
from worker.edges.telemetry.models import ModelBook
from worker.edges.telemetry.series import Labels, Series

REPORT_SECONDS = 10.0


class Readiness(NamedTuple):
    """Whether this process does all the work that it was given, and how far it is."""

    ready: bool
    reason: str


class Telemetry:
    """What one worker process says of itself.

    Args:
        logger: for one line every `REPORT_SECONDS`.
        clock: seconds that only go on.
        models: the figures of models, and which of them have series.
    """

    def __init__(
        self,
        logger: Any,  # noqa: ANN401 - structlog's
        clock: Callable[[], float] = time.monotonic,
        models: ModelBook | None = None,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self.models = models or ModelBook(models_max=0, features_max=0)
        self.series = Series()
        self.joined = False
        """The group has said which partitions this worker has, if any."""
        self._counts: Counter[Count] = Counter()
        self._seconds: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        self._gauges: dict[Gauge, float | None] = dict.fromkeys(Gauge)
        self._reported: Counter[Count] = Counter()
        self._reported_state = self._state()
        self._reported_at = clock()

    def add(self, count: Count, by: int = 1) -> None:
        """Add to a counter."""
        self._counts[count] += by

    def spend(self, stage: Stage, seconds: float) -> None:
        """Add to a stage's time."""
        self._seconds[stage] += seconds
        if stage not in TIMES:
            self.series.observe(Metrics.STAGE, seconds, stage)

    def set_gauge(self, name: Gauge, value: float | None) -> None:
        """Say what is true now; None where it is not known."""
        self._gauges[name] = value

    def gauge(self, name: Gauge) -> float | None:
        """Return what is true now, as far as it is known."""
        return self._gauges[name]

    def readiness(self) -> Readiness:
        """Tell whether all shards that this process owns are live; a spare one without any is ready, too."""
        gauges = self._gauges
        live, restoring, refused = (
            gauges[name] for name in (Gauge.SHARDS_LIVE, Gauge.SHARDS_RESTORING, Gauge.SHARDS_REFUSED)
        )
        if live is None or restoring is None or refused is None:
            return Readiness(ready=False, reason="starting")
        shards = int(live + restoring + refused)
        if refused:
            return Readiness(
                ready=False, reason=f"refused: the state of {refused:.0f} of {shards} partitions; see the log"
            )
        if restoring:
            return Readiness(ready=False, reason=f"restoring: {restoring:.0f} of {shards} partitions{self._left()}")
        if not live and not self.joined:
            return Readiness(ready=False, reason="waiting for the group")
        return Readiness(
            ready=True, reason=f"{shards} partitions" if shards else "spare: the group has no partition for it"
        )

    def _left(self) -> str:
        """Tell what restores still have to do, as far as it is known."""
        records, seconds = self._gauges[Gauge.RESTORE_RECORDS_LEFT], self._gauges[Gauge.RESTORE_SECONDS_LEFT]
        told = f", {records:,.0f} records left" if records else ""
        return told if seconds is None else f"{told}, {seconds:.0f} s"

    @property
    def ready(self) -> bool:
        """Whether this process does all the work that it was given."""
        return self.readiness().ready

    def counts(self) -> dict[Count, int]:
        """Return all counters."""
        return {count: self._counts[count] for count in Count}

    def values(self) -> dict[Metric, Mapping[Labels, float]]:
        """Return counters and gauges that have a value now, without those of models. Called from other threads."""
        found: dict[Metric, dict[Labels, float]] = {}
        for count, (metric, labels) in COUNTS.items():
            found.setdefault(metric, {})[labels] = self._counts[count]
        for gauge, (metric, labels) in GAUGES.items():
            value = self._gauges[gauge]
            if value is not None:
                found.setdefault(metric, {})[labels] = value
        for stage, metric in TIMES.items():
            found[metric] = {(): self._seconds[stage]}
        # Of counters that are in both places these have the labels.
        return {**self.series.values(), **found}

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
        seconds = {f"{stage.value}_seconds": round(self._seconds[stage], 3) for stage in Stage}
        gauges = {gauge.value: None if value is None else round(value, 3) for gauge, value in self._gauges.items()}
        self._logger.info(message, **more, ready=self.ready, **counts, **seconds, **gauges)
