"""Counts what the loop does, and logs what is notable."""

from collections.abc import Callable, Sequence

import structlog

from worker.core.engine import Handled
from worker.core.events import Output, RawBatch
from worker.edges.telemetry import OUTPUT_COUNTS, Count, Gauge, Stage, Telemetry
from worker.lagging import is_marked
from worker.observer import MaintenanceCost, Observer, Shards
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
        self._thinning = 0

    def alive(self) -> None:
        self._beat()

    def fetched(self, batches: Sequence[RawBatch], seconds: float) -> None:
        self._telemetry.add(Count.RECORDS_CONSUMED, sum(len(batch.offsets) for batch in batches))
        self._telemetry.spend(Stage.FETCH, seconds)

    def handled(self, handled: Handled, seconds: float) -> None:
        self._telemetry.add(Count.EVENTS_PROCESSED, handled.events)
        self._telemetry.add(Count.LABELS, handled.labels)
        self._telemetry.add(Count.RECORDS_REJECTED, len(handled.rejects))
        self._telemetry.spend(Stage.HANDLE, seconds)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        for output in outputs:
            self._telemetry.add(OUTPUT_COUNTS[output.topic])
        self._telemetry.add(Count.OUTPUTS_LATE, sum(map(is_marked, outputs)))
        self._telemetry.add(Count.TRANSACTIONS_COMMITTED)
        self._telemetry.spend(Stage.COMMIT, seconds)

    def aborted(self, outcome: CommitOutcome) -> None:
        self._telemetry.add(Count.TRANSACTIONS_ABORTED)
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
        if partitions:
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
        if shards.seconds_left is not None:
            telemetry.set_gauge(Gauge.RESTORE_SECONDS_LEFT, round(shards.seconds_left, 1))
        telemetry.set_gauge(Gauge.STATE_AGE_SECONDS, round(shards.oldest_cut_seconds, 1))
        telemetry.set_gauge(Gauge.LAG_SECONDS, round(shards.lag_seconds, 1))
        telemetry.set_gauge(Gauge.MAINTENANCE_THINNING, shards.thinning)
        telemetry.report_if_due()
