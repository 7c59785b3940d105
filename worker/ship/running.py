"""Runs `modelvigil ship elasticsearch`: builds what is needed, ships until a signal, and stops cleanly."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import structlog

from worker.cluster import connect, refuse_missing_topics
from worker.edges.clock import SystemClock
from worker.edges.kafka.dead_letters import KafkaDeadLetters, NoDeadLetters
from worker.edges.ops_http import OpsServer
from worker.edges.stop_signals import stop_on_signals
from worker.edges.telemetry import configure_logging
from worker.elasticsearch_settings import OPS_PORT, ElasticsearchSettings, Stream
from worker.ops_pages import NOWHERE, serving
from worker.ops_settings import OpsSettings
from worker.settings import Settings
from worker.ship.cluster import Cluster
from worker.ship.dry_run import PrintingCluster
from worker.ship.figures import Figures
from worker.ship.health import Health
from worker.ship.installing import install
from worker.ship.outputs import AssignedOutputs, KafkaOutputs, SeenOutputs
from worker.ship.pool import Pool
from worker.ship.preparing import hurried, prepare
from worker.ship.settling import ClusterPort, DeadLetters, Refusals, Settler
from worker.ship.shipper import Shipper

_STEP_MS = 200


class Mode(NamedTuple):
    """What the command was told."""

    once: bool = False
    """End when all is shipped that is there."""
    say: Callable[[str], None] | None = None
    """Print documents through this instead of sending them."""


def run_setup(settings: ElasticsearchSettings) -> Iterator[str]:
    """Install what the cluster needs; yield lines. Raises ClusterError, HttpClientError."""
    with closing(Cluster(settings)) as cluster:
        yield from install(settings, cluster)


def run_ship(settings: Settings, mode: Mode, stop: threading.Event | None = None) -> int:
    """Ship until a signal, or `stop`, ends it; return how many records were.

    Args:
        settings: with its secrets.
        mode: what the command was told.
        stop: ends it, for those who run it beside something else; then signals are theirs.

    Raises:
        SettingsError: the address for metrics cannot be used.
        HttpClientError: certificates cannot be read.
        ClusterError: the cluster cannot be used as it is configured.
        TopicsError, BrokerUnreachableError: Kafka is not as it must be.
        SourceError, SinkError: Kafka fails; nothing is lost.
    """
    configure_logging(settings.worker.log_format, settings.worker.log_level, program="ship")
    log, clock = structlog.get_logger("modelvigil.ship"), SystemClock()
    streams = _topics_of(settings)
    refuse_missing_topics(settings, {*streams.values(), *(() if mode.say else ("dead_letters",))})
    health = Health(log, clock)
    figures = Figures(health)
    with ExitStack() as stack:
        stopping = stop or stack.enter_context(stop_on_signals())
        server = stack.enter_context(_serving(settings.elasticsearch, mode, figures, log))
        empty: frozenset[Stream] | None = frozenset()
        if mode.say is None:
            with closing(Cluster(hurried(settings.elasticsearch))) as cluster:
                empty = prepare(settings.elasticsearch, cluster, health, clock, log, stopping.is_set)
        if empty is None:
            return 0
        cluster = stack.enter_context(closing(Cluster(settings.elasticsearch)))
        log.info("started", topics=list(streams), namespace=settings.elasticsearch.namespace, metrics=server.url)
        sides = _sides(settings, mode, cluster)
        settlers = _settlers(settings.elasticsearch, sides, health, figures, log, stopping)
        shipper = Shipper(settings.elasticsearch, streams, empty, Pool(settlers), health, figures, clock, log)
        _ship(settings, mode, shipper, log, stopping)
        log.info("stopped", records=shipper.records)
    return shipper.records


def group_of(settings: Settings) -> str:
    """Return the consumer group."""
    return settings.elasticsearch.group_id or f"{settings.kafka.group_id}-ship-elasticsearch"


class _Sides(NamedTuple):
    """Where documents go, and where those go that are refused."""

    cluster: ClusterPort
    dead_letters: DeadLetters


def _sides(settings: Settings, mode: Mode, cluster: Cluster) -> _Sides:
    if mode.say is not None:
        return _Sides(PrintingCluster(mode.say), NoDeadLetters(mode.say))
    return _Sides(cluster, KafkaDeadLetters(connect(settings), settings.topics.dead_letters))


def _settlers(
    settings: ElasticsearchSettings,
    sides: _Sides,
    health: Health,
    figures: Figures,
    log: Any,  # noqa: ANN401 - structlog's
    stopping: threading.Event,
) -> list[Settler]:
    refusals, clock = Refusals(settings.refused_max), SystemClock()
    build = partial(Settler, settings, sides.cluster, sides.dead_letters, refusals, health, figures, clock, log)
    return [build(stopping.is_set, f"ship-{number}") for number in range(settings.requests_max)]


def _ship(settings: Settings, mode: Mode, shipper: Shipper, log: Any, stopping: threading.Event) -> None:  # noqa: ANN401 - structlog's
    kind = SeenOutputs if mode.say else AssignedOutputs if mode.once else KafkaOutputs
    outputs = kind(
        connect(settings),
        topics=list(_topics_of(settings)),
        group_id=group_of(settings),
        start_at=settings.elasticsearch.start_at,
        listener=shipper,
        log=log,
    )
    with closing(outputs):
        shipper.read_from(outputs)
        while not stopping.is_set() and not (mode.once and shipper.finished):
            shipper.step(_STEP_MS)
        shipper.stop()


def _topics_of(settings: Settings) -> Mapping[str, Stream]:
    return {getattr(settings.topics, stream): stream for stream in settings.elasticsearch.streams}


def _serving(
    settings: ElasticsearchSettings,
    mode: Mode,
    figures: Figures,
    log: Any,  # noqa: ANN401 - structlog's
) -> AbstractContextManager[OpsServer]:
    """Serve the pages, but not to one who only looks. Raises SettingsError."""
    where = OpsSettings(listen=settings.ops_listen, port=settings.ops_port, socket=settings.ops_socket)
    return serving(NOWHERE if mode.say else where, figures.pages(), log, table="elasticsearch", default_port=OPS_PORT)
