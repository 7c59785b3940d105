"""Counts what the loop does, logs what is notable, and answers those who ask."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

import structlog

from worker.core.alerts.life import Severity
from worker.core.engine import Handled
from worker.core.events import Output, RawBatch
from worker.edges.ops_http import Answer, Page, json_answer
from worker.edges.telemetry import (
    CONTENT_TYPE,
    OUTPUT_COUNTS,
    Count,
    Exposition,
    Gauge,
    Metrics,
    PublishedFigures,
    Stage,
    Telemetry,
)
from worker.lagging import is_marked
from worker.observer import Census, MaintenanceCost, Observer, Shards
from worker.ports import CommitOutcome
from worker.recovery.problems import ProblemKind


class Reporting(Observer):
    """The observer of a real worker.

    Args:
        telemetry: counters, timings, gauges.
        log: for single lines.
        beat: the heartbeat that a watchdog listens to.
    """

    def __init__(self, telemetry: Telemetry, log: structlog.stdlib.BoundLogger, beat: Callable[[], None]) -> None:
        self._telemetry = telemetry
        self._log = log
        self._beat = beat
        self._series = telemetry.series
        self._models = telemetry.models
        self._published = PublishedFigures(telemetry)
        self._thinning = 0
        self._models_told: dict[int, int] = {}
        """How many models each shard had when they were looked at."""

    def alive(self) -> None:
        self._beat()

    def fetched(self, batches: Sequence[RawBatch], seconds: float) -> None:
        for batch in batches:
            self._telemetry.add(Count.RECORDS_CONSUMED, len(batch.offsets))
            self._series.count(Metrics.RECORDS_CONSUMED, batch.topic, by=len(batch.offsets))
        self._telemetry.spend(Stage.FETCH, seconds)

    def handled(self, handled: Handled, seconds: float) -> None:
        self._telemetry.add(Count.EVENTS_PROCESSED, handled.events)
        self._telemetry.add(Count.LABELS, handled.labels)
        self._telemetry.add(Count.RECORDS_REJECTED, len(handled.rejects))
        for code, rejected in Counter(reject.code for reject in handled.rejects).items():
            self._series.count(Metrics.RECORDS_REJECTED, code, by=rejected)
        self._telemetry.spend(Stage.HANDLE, seconds)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        for topic, written in Counter(output.topic for output in outputs).items():
            self._telemetry.add(OUTPUT_COUNTS[topic], written)
        unreadable = self._published.take(outputs)
        if unreadable:
            self._log.warning("published records could not be read for metrics; please report this", records=unreadable)
        self._telemetry.add(Count.OUTPUTS_LATE, sum(map(is_marked, outputs)))
        self._telemetry.add(Count.TRANSACTIONS_COMMITTED)
        self._series.count(Metrics.TRANSACTIONS, CommitOutcome.COMMITTED.value)
        self._telemetry.spend(Stage.COMMIT, seconds)

    def alerted(self, seconds: Sequence[float]) -> None:
        for each in seconds:
            self._series.observe(Metrics.EVENT_TO_ALERT, each)

    def aborted(self, outcome: CommitOutcome) -> None:
        self._telemetry.add(Count.TRANSACTIONS_ABORTED)
        self._series.count(Metrics.TRANSACTIONS, outcome.value)
        self._log.warning("transaction not committed, it is sent again", outcome=outcome.value)

    def captured(self, seconds: float) -> None:
        self._telemetry.spend(Stage.SNAPSHOT, seconds)

    def snapshot(self, partition: int, size: int, seconds: float) -> None:
        self._telemetry.add(Count.SNAPSHOTS)
        self._telemetry.add(Count.SNAPSHOT_BYTES, size)
        self._log.debug("snapshot complete", partition=partition, bytes=size, seconds=round(seconds, 3))

    def restored(self, partition: int, replayed: int, seconds: float) -> None:
        self._telemetry.add(Count.RESTORES)
        self._log.info("partition live", partition=partition, records_replayed=replayed, seconds=round(seconds, 3))

    def replaying(self, records: int, seconds: float) -> None:
        self._telemetry.add(Count.RESTORED_EVENTS, records)
        self._telemetry.spend(Stage.RESTORE, seconds)

    def refused(self, partition: int, kind: str, message: str) -> None:
        self._telemetry.add(Count.RESTORES_REFUSED)
        self._series.count(Metrics.RESTORES_REFUSED, kind)
        if kind == ProblemKind.DIGEST_MISMATCH:
            self._telemetry.add(Count.DIGEST_MISMATCHES)
        self._log.error(f"not worked on: {message}", partition=partition, reason=kind)

    def noted(self, partition: int, message: str) -> None:
        self._log.warning(message, partition=partition)

    def maintained(self, cost: MaintenanceCost) -> None:
        self._telemetry.spend(Stage.MAINTENANCE, cost.process_s)
        self._telemetry.spend(Stage.CHALLENGER_FITS, cost.children_s)
        self._telemetry.set_gauge(Gauge.MAINTENANCE_SHARE, cost.share)
        if cost.level > self._thinning:
            self._log.warning(
                "model maintenance takes too much of the CPU: it uses fewer events from here on",
                share=None if cost.share is None else round(cost.share, 3),
                one_event_in=2**cost.level,
            )
        elif cost.level < self._thinning:
            self._log.info("model maintenance uses more events again", one_event_in=2**cost.level)
        self._thinning = cost.level

    def artefact_stored(self, path: str, size: int, seconds: float) -> None:
        self._telemetry.add(Count.ARTEFACTS_STORED)
        self._log.info("model stored", artefact=path, bytes=size, seconds=round(seconds, 3))

    def artefact_failed(self, message: str) -> None:
        self._telemetry.add(Count.ARTEFACTS_FAILED)
        self._log.warning(message)

    def abandoned(self, partitions: Sequence[int]) -> None:
        self._log.warning("given up without a last commit: the new owner does it again", partitions=list(partitions))

    def partitions(self, what: str, partitions: Sequence[int]) -> None:
        telemetry = self._telemetry
        if what == "assigned":
            telemetry.joined = True
            # Until the loop tells what has become of them: not ready in between.
            telemetry.set_gauge(
                Gauge.SHARDS_RESTORING, (telemetry.gauge(Gauge.SHARDS_RESTORING) or 0) + len(partitions)
            )
        else:
            telemetry.joined = telemetry.joined and what != "lost"
            self._models.forget(partitions)
            self._models_told.clear()  # there may be places now for models that had none
        if partitions:
            self._series.count(Metrics.REBALANCES, what)
            self._log.info(f"partitions {what}", partitions=list(partitions))

    def lagging(self, seconds: float) -> None:
        self._log.warning(
            "lagging: records are processed late, and results are marked as late until that is over",
            lag_seconds=round(seconds, 1),
        )

    def caught_up(self) -> None:
        self._log.warning("not lagging any more")

    def shards(self, shards: Shards) -> None:
        telemetry = self._telemetry
        telemetry.set_gauge(Gauge.SHARDS_LIVE, shards.live)
        telemetry.set_gauge(Gauge.SHARDS_RESTORING, shards.restoring)
        telemetry.set_gauge(Gauge.SHARDS_REFUSED, shards.refused)
        telemetry.set_gauge(Gauge.RESTORE_RECORDS_LEFT, shards.records_left)
        seconds_left = None if shards.seconds_left is None else round(shards.seconds_left, 1)
        telemetry.set_gauge(Gauge.RESTORE_SECONDS_LEFT, seconds_left)
        telemetry.set_gauge(Gauge.STATE_AGE_SECONDS, round(shards.oldest_cut_seconds, 1))
        telemetry.set_gauge(Gauge.LAG_SECONDS, round(shards.lag_seconds, 1))
        telemetry.set_gauge(Gauge.MAINTENANCE_THINNING, shards.thinning)
        telemetry.report_if_due()

    def census(self, census: Census) -> None:
        for partition, models in census.models.items():
            # A shard forgets no model, so an equal number means the same ones.
            if self._models_told.get(partition) != len(models):
                self._models_told[partition] = len(models)
                for model_id in models:
                    self._models.appeared(model_id, partition)
        watched = [model_id for models in census.models.values() for model_id in models]
        self._series.set_all(Metrics.MODELS, {(): len(watched)})
        self._series.set_all(Metrics.MODELS_BEYOND_MAX, {(): self._models.beyond(watched)})
        self._series.set_all(Metrics.INCIDENTS_OPEN, self._incidents(census))
        lag: dict[tuple[str, ...], float] = {
            (topic.value, str(partition)): records for (topic, partition), records in census.lag.items()
        }
        self._series.set_all(Metrics.CONSUMER_LAG_RECORDS, lag)

    def _incidents(self, census: Census) -> dict[tuple[str, ...], float]:
        """Return the open incidents by model and severity; a model that has series has all of them, from 0."""
        found: dict[tuple[str, ...], float] = {
            (model_id, severity): 0 for model_id in self._models.here() for severity in get_args(Severity)
        }
        for (partition, model_id, severity), count in census.incidents.items():
            key = (self._models.label_of(model_id, partition), severity)
            found[key] = found.get(key, 0) + count
        return found


class Vitals:
    """What operators are told over HTTP: metrics, whether the process lives, whether it does all its work.

    Args:
        telemetry: where the figures are.
        silence_max_s: without a sign of life for so long the worker counts as hung.
        stopping: whether it has been told to stop.
    """

    def __init__(self, telemetry: Telemetry, silence_max_s: float, stopping: Callable[[], bool]) -> None:
        self._telemetry = telemetry
        self._silence_max_s = silence_max_s
        self._stopping = stopping
        self._exposition = Exposition(telemetry, self._age_s)
        self.heartbeat_age_s: Callable[[], float] | None = None
        """There is none before the loop begins: loading takes as long as it takes."""

    @property
    def pages(self) -> dict[str, Page]:
        """All pages, by path."""
        return {"/metrics": self._metrics, "/healthz": self._health, "/readyz": self._readiness}

    def _age_s(self) -> float | None:
        return None if self.heartbeat_age_s is None else self.heartbeat_age_s()

    def _metrics(self) -> Answer:
        return Answer(200, CONTENT_TYPE, self._exposition.render())

    def _health(self) -> Answer:
        age_s = self._age_s()
        if age_s is None:
            return json_answer(200, status="starting")
        hung = age_s > self._silence_max_s
        status = "the loop does not answer" if hung else "alive"
        return json_answer(503 if hung else 200, status=status, heartbeat_age_seconds=round(age_s, 3))

    def _readiness(self) -> Answer:
        ready, reason = self._telemetry.readiness()
        if self._stopping():
            ready, reason = False, "stopping"
        return json_answer(200 if ready else 503, ready=ready, reason=reason)
