"""The composition root: settings become the core, the edges and the loop. The only place that builds clients."""

import os
import socket
import time
import uuid
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import structlog

from worker.artefact_publishing import ArtefactOptions
from worker.budget import BudgetOptions
from worker.cluster import (
    ClusterIdentity,
    connect,
    identify,
    refuse_contradicting_topics,
    refuse_missing_topics,
    writes_scores,
)
from worker.core.engine import Engine
from worker.core.events import InputTopic, OutputTopic
from worker.core.shard import Topics
from worker.core.warm_up import compile_kernels
from worker.edges.clock import SystemClock, WorkEffort, WorkMeter
from worker.edges.garbage import rare_collections
from worker.edges.kafka import KafkaConnection, KafkaHistory, KafkaMembership, KafkaSink, KafkaSource
from worker.edges.kafka.client import FencedMemberError
from worker.edges.kernel_cache import KernelCache
from worker.edges.ops_http import OpsServer, OpsServerError
from worker.edges.refit_pool import ProcessRefitPool, RefitFailedError
from worker.edges.registration import BackgroundRegistration
from worker.edges.stop_signals import stop_on_signals
from worker.edges.telemetry import Metrics, ModelBook, Stage, Telemetry, configure_logging
from worker.edges.threads import ThreadExecutor, threads_for
from worker.edges.watchdog import Watchdog
from worker.loop import CommitFailedError, FencedError, Loop, LoopOptions, Ports, StateRefusedError
from worker.observer import Observer
from worker.ports import ArtefactStore, ArtefactStoreError, Executor, ModelRegistry, SinkError, SourceError
from worker.recovery.restore_job import RestoreOptions
from worker.recovery.restores import RestoresOptions
from worker.recovery.snapshots import SnapshotOptions
from worker.reporting import Reporting, Vitals
from worker.settings import ARTEFACTS_FOLDER, Settings, SettingsError
from worker.state_identity import state_identity

_MODEL_LIBRARIES = ("modelvigil", "numpy", "river", "scikit-learn")
"""What makes models."""


class WorkerFencedError(Exception):
    """Another process works under this worker's identity."""


class TemporaryError(Exception):
    """Work cannot go on now; a restart continues where it stopped and loses nothing."""


class StateError(Exception):
    """Stored state cannot be used, and nobody said to begin anew; the message says why and what to do."""


class _Models(NamedTuple):
    """Where models go."""

    store: ArtefactStore | None
    registry: ModelRegistry | None


def run_worker(settings: Settings, connection: KafkaConnection | None = None) -> int:
    """Run one worker until a signal stops it; return 0 after a clean stop.

    Args:
        settings: all of it.
        connection: what builds the Kafka clients; without it, that of the settings.
    """
    configure_logging(settings.worker.log_format, settings.worker.log_level)
    log = structlog.get_logger("modelvigil.worker")
    refuse_missing_topics(settings)
    refuse_contradicting_topics(settings)
    cluster = identify(settings)
    if "feedback" not in cluster.partitions:
        log.warning("there is no feedback topic: alerts cannot be silenced or judged", topic=settings.topics.feedback)
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            telemetry = Telemetry(log, models=ModelBook(settings.ops.models_max, settings.ops.features_max))
            vitals = Vitals(telemetry, settings.worker.watchdog_ms / 1000, stop.is_set)
            server = stack.enter_context(OpsServer(settings.ops, vitals.pages, log.warning))
            store = _artefact_store(settings, log)
            registry = None if store is None else _model_registry(settings, stack, log)
            pool = stack.enter_context(_refit_pool(settings, telemetry))
            if settings.engine.uses("one_class_svm"):
                pool.warm()
            _prepare_kernels(log)
            watchdog = stack.enter_context(Watchdog(settings.worker.watchdog_ms / 1000))
            vitals.heartbeat_age_s = watchdog.age_s
            observer = Reporting(telemetry, log, watchdog.beat)
            kafka = connection or connect(settings)
            threads = threads_for(settings.worker.engine_threads)
            executor = stack.enter_context(ThreadExecutor(threads))
            stack.enter_context(rare_collections())
            loop = _build_loop(settings, kafka, cluster, pool, _Models(store, registry), observer, executor)
            topic, address = settings.topics.predictions, server.url
            log.info(
                "started",
                group=settings.kafka.group_id,
                topic=topic,
                process=os.getpid(),
                engine_threads=threads,
                metrics=address,
            )
            loop.run(stop.is_set)
            telemetry.report_at_end()
            log.info("stopped")
    except ArtefactStoreError as error:
        raise SettingsError(f"artefacts.url: {error}") from error
    except OpsServerError as error:
        raise SettingsError(str(error)) from error
    except StateRefusedError as error:
        raise StateError(str(error)) from error
    except FencedMemberError as error:
        raise WorkerFencedError(str(error)) from error
    except FencedError as error:
        raise WorkerFencedError(f"{error}: is a second worker running with the same transactional id?") from error
    except (CommitFailedError, SourceError, SinkError, RefitFailedError) as error:
        raise TemporaryError(str(error)) from error
    return 0


def _refit_pool(settings: Settings, telemetry: Telemetry) -> ProcessRefitPool:
    waited = partial(telemetry.spend, Stage.REFIT_WAIT)
    fitted = partial(telemetry.series.observe, Metrics.REFIT)
    return ProcessRefitPool(settings.worker.refit_processes, waited, fitted)


def _build_loop(
    settings: Settings,
    connection: KafkaConnection,
    cluster: ClusterIdentity,
    pool: ProcessRefitPool,
    models: _Models,
    observer: Observer,
    executor: Executor,
) -> Loop:
    topics = settings.topics
    meter = WorkMeter()
    engine = Engine(settings.engine, Topics(topics.predictions, topics.labels, topics.feedback), pool, meter)
    pinned = min(cluster.partitions["labels"], cluster.partitions["state"])
    identity = state_identity(settings, cluster)
    has_feedback = "feedback" in cluster.partitions
    effort = WorkEffort(meter, lambda: pool.challenger_children_cpu_s)
    ports = _ports(settings, connection, has_feedback=has_feedback)
    ports = ports._replace(effort=effort, artefacts=models.store, registry=models.registry, executor=executor)
    return Loop(engine, ports, identity, _loop_options(settings, pinned, has_feedback=has_feedback), observer)


def _ports(settings: Settings, connection: KafkaConnection, *, has_feedback: bool) -> Ports:
    topics, worker, group_id = settings.topics, settings.worker, settings.kafka.group_id
    inputs = {InputTopic.PREDICTIONS: topics.predictions, InputTopic.LABELS: topics.labels}
    if has_feedback:
        inputs[InputTopic.FEEDBACK] = topics.feedback
    membership = KafkaMembership(
        connection,
        group_id=group_id,
        topic=topics.predictions,
        instance_id=worker.instance_id if worker.static_membership else None,
    )
    # Without a name of its own, nobody takes over a dead worker's transaction: the broker ends it after its timeout.
    instance_id = worker.instance_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    sink = KafkaSink(
        connection,
        transactional_id=f"{group_id}-{instance_id}",
        group_metadata=membership.group_metadata,
        input_topic=topics.predictions,
        label_topic=topics.labels,
        state_topic=topics.state,
        topic_names=_output_topics(settings),
        transaction_timeout_ms=worker.transaction_timeout_ms,
        exclusive=not worker.instance_id,
    )
    return Ports(
        membership,
        KafkaSource(connection, group_id=group_id, topics=inputs),
        KafkaHistory(connection, group_id=group_id, topics={**inputs, InputTopic.STATE: topics.state}),
        sink,
        SystemClock(),
    )


def _output_topics(settings: Settings) -> dict[OutputTopic, str]:
    topics = settings.topics
    names = {
        OutputTopic.ALERTS: topics.alerts,
        OutputTopic.INCIDENTS: topics.incidents,
        OutputTopic.METRICS: topics.metrics,
        OutputTopic.MAINTENANCE: topics.maintenance,
        OutputTopic.DEAD_LETTERS: topics.dead_letters,
    }
    return names | {OutputTopic.SCORES: topics.scores} if writes_scores(settings) else names


def _loop_options(settings: Settings, partitions: int, *, has_feedback: bool) -> LoopOptions:
    worker = settings.worker
    job = RestoreOptions(
        start_at=worker.start_at, on_digest_mismatch=worker.on_digest_mismatch, has_feedback=has_feedback
    )
    return LoopOptions(
        commit_interval_ms=worker.commit_interval_ms,
        fetch_records_max=worker.fetch_records_max,
        outputs_max=worker.outputs_max,
        idle_close_ms=worker.idle_close_ms,
        handover_ms=worker.handover_ms,
        label_hold_ms=worker.label_hold_ms,
        lagging_ms=worker.lagging_ms,
        restores=RestoresOptions(
            job=job, on_missing_state=worker.on_missing_state, jobs_max=worker.restores_max, partitions=partitions
        ),
        snapshots=SnapshotOptions(
            interval_ms=worker.snapshot_interval_ms,
            records_max=worker.snapshot_records_max,
            commit_bytes_max=worker.snapshot_commit_bytes_max,
            time_share=worker.snapshot_time_share,
        ),
        budget=BudgetOptions(share_max=worker.maintenance_cpu_share_max),
        artefacts=ArtefactOptions(artefacts_max=settings.artefacts.artefacts_max, libraries=_versions()),
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _MODEL_LIBRARIES}


def _artefact_store(settings: Settings, log: structlog.stdlib.BoundLogger) -> ArtefactStore | None:
    """Open the store of models, if there will be any. Where nothing is configured, nothing must fail for it."""
    url = settings.artefacts.url
    maintenance = settings.engine.maintenance
    if not url or not (maintenance.enabled or any(own.enabled for own in maintenance.models)):
        return None
    folder = Path(url)
    if url == ARTEFACTS_FOLDER and not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        log.warning(
            "models of challengers are not kept: the working directory is read-only; set [artefacts] url to a folder "
            "or a bucket, or to nothing if they are not needed"
        )
        return None
    # fsspec takes 0.1 s to load, and only a worker with maintenance needs it.
    from worker.edges.artefacts import ArtefactStore as Store  # noqa: PLC0415 - see above

    return Store(url, settings.artefacts.options)


def _prepare_kernels(log: structlog.stdlib.BoundLogger) -> None:
    """Have all kernels compiled before joining the group: the first time that takes longer than a poll may."""
    begun = time.monotonic()
    KernelCache.of_this_program().complete(compile_kernels, log.info)
    log.info("kernels ready", seconds=round(time.monotonic() - begun, 2))


def _model_registry(
    settings: Settings, stack: ExitStack, log: structlog.stdlib.BoundLogger
) -> BackgroundRegistration | None:
    """Connect to the registry of models, if there is one; it ends with the stack."""
    uri = settings.artefacts.mlflow_tracking_uri
    if not uri:
        return None
    from worker.edges.model_registry import MlflowRegistry, RegistryError  # noqa: PLC0415 - seldom needed

    try:
        registry = MlflowRegistry(uri)
    except RegistryError as error:
        raise SettingsError(f"artefacts.mlflow_tracking_uri: {error}") from error
    return stack.enter_context(BackgroundRegistration(registry.register, log.warning))
