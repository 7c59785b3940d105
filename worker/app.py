"""The composition root: settings become the core, the edges and the loop. The only place that builds clients."""

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

import structlog

from worker.cluster import connect, refuse_missing_topics
from worker.core.engine import Engine, Handled
from worker.core.events import Output, OutputTopic, RawBatch
from worker.core.warm_up import compile_kernels
from worker.edges.clock import SystemClock
from worker.edges.kafka import KafkaConnection, KafkaMembership, KafkaSink, KafkaSource
from worker.edges.refit_pool import ProcessRefitPool, RefitFailedError
from worker.edges.telemetry import OUTPUT_COUNTS, Count, Stage, Telemetry, configure_logging
from worker.loop import CommitFailedError, FencedError, Loop, LoopOptions, Observer
from worker.ports import CommitOutcome, SinkError, SourceError
from worker.settings import Settings

_SECOND_SIGNAL_EXIT = 130


class WorkerFencedError(Exception):
    """Another process works under this worker's identity."""


class TemporaryError(Exception):
    """Work cannot go on now; a restart continues where it stopped and loses nothing."""


def run_worker(settings: Settings) -> int:
    """Run one worker until a signal stops it; return 0 after a clean stop."""
    configure_logging(settings.worker.log_format, settings.worker.log_level)
    log = structlog.get_logger("modelvigil.worker")
    refuse_missing_topics(settings)
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(_stop_on_signals())
            telemetry = Telemetry(log)
            refit_wait = partial(telemetry.spend, Stage.REFIT_WAIT)
            pool = stack.enter_context(ProcessRefitPool(settings.worker.refit_processes, refit_wait))
            pool.warm()
            _compile_kernels(log)
            observer = _Reporting(telemetry, log)
            loop = _build_loop(settings, connect(settings), pool, observer)
            log.info("started", group=settings.kafka.group_id, topic=settings.topics.predictions, process=os.getpid())
            loop.run(lambda: bool(stop))
            telemetry.report_at_end()
            log.info("stopped")
    except FencedError as error:
        raise WorkerFencedError(f"{error}: is a second worker running with the same transactional id?") from error
    except (CommitFailedError, SourceError, SinkError, RefitFailedError) as error:
        raise TemporaryError(str(error)) from error
    return 0


def _build_loop(settings: Settings, connection: KafkaConnection, pool: ProcessRefitPool, observer: Observer) -> Loop:
    topics, worker, group_id = settings.topics, settings.worker, settings.kafka.group_id
    membership = KafkaMembership(connection, group_id=group_id, topic=topics.predictions)
    source = KafkaSource(connection, group_id=group_id, topic=topics.predictions, start_at=worker.start_at)
    sink = KafkaSink(
        connection,
        transactional_id=f"{group_id}-{socket.gethostname()}-{uuid.uuid4().hex[:12]}",
        group_metadata=membership.group_metadata,
        input_topic=topics.predictions,
        topic_names={
            OutputTopic.ALERTS: topics.alerts,
            OutputTopic.METRICS: topics.metrics,
            OutputTopic.MAINTENANCE: topics.maintenance,
            OutputTopic.DEAD_LETTERS: topics.dead_letters,
        },
        transaction_timeout_ms=worker.transaction_timeout_ms,
    )
    options = LoopOptions(
        commit_interval_ms=worker.commit_interval_ms,
        fetch_records_max=worker.fetch_records_max,
        outputs_max=worker.outputs_max,
        idle_close_ms=worker.idle_close_ms,
    )
    engine = Engine(settings.engine, topics.predictions, pool)
    return Loop(engine, membership, source, sink, SystemClock(), options, observer)


def _compile_kernels(log: structlog.stdlib.BoundLogger) -> None:
    """Compile before joining the group: the first time on a machine it takes longer than a poll may."""
    begun = time.monotonic()
    log.info("loading kernels; the first start on a machine compiles them, which takes some 10 s")
    compile_kernels()
    log.info("kernels ready", seconds=round(time.monotonic() - begun, 2))


class _Reporting(Observer):
    """Counts what the loop does, and logs what is notable."""

    def __init__(self, telemetry: Telemetry, log: structlog.stdlib.BoundLogger) -> None:
        self._telemetry = telemetry
        self._log = log

    def fetched(self, batches: Sequence[RawBatch], seconds: float) -> None:
        self._telemetry.add(Count.RECORDS_CONSUMED, sum(len(batch.offsets) for batch in batches))
        self._telemetry.spend(Stage.FETCH, seconds)

    def handled(self, handled: Handled, seconds: float) -> None:
        self._telemetry.add(Count.EVENTS_PROCESSED, handled.events)
        self._telemetry.add(Count.RECORDS_REJECTED, len(handled.rejects))
        self._telemetry.spend(Stage.HANDLE, seconds)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        for output in outputs:
            self._telemetry.add(OUTPUT_COUNTS[output.topic])
        self._telemetry.add(Count.TRANSACTIONS_COMMITTED)
        self._telemetry.spend(Stage.COMMIT, seconds)
        self._telemetry.report_if_due()

    def aborted(self, outcome: CommitOutcome) -> None:
        self._telemetry.add(Count.TRANSACTIONS_ABORTED)
        self._log.warning("transaction not committed, it is sent again", outcome=outcome.value)

    def abandoned(self, partitions: Sequence[int]) -> None:
        self._log.error("given up without a last commit: what open panes held is lost", partitions=list(partitions))

    def partitions(self, what: str, partitions: Sequence[int]) -> None:
        if partitions:
            self._log.info(f"partitions {what}", partitions=list(partitions))


@contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """Yield a list that is no longer empty once SIGTERM or SIGINT came; a second one ends the process at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            os._exit(_SECOND_SIGNAL_EXIT)
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
