"""Runs `modelvigil notify`: builds what each target needs, serves each on a thread of its own, and stops them together.

A thread that fails for good ends the process, and whoever supervises it starts it again: what was not committed is
delivered then. A receiver that fails is no reason: it is tried again (`retrying.py`).
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import structlog

from worker.cluster import connect, refuse_missing_topics
from worker.edges.clock import SystemClock
from worker.edges.http_client import HttpClient
from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.dead_letters import KafkaDeadLetters, NoDeadLetters
from worker.edges.ops_http import OpsServer
from worker.edges.stop_signals import stop_on_signals
from worker.edges.telemetry import configure_logging
from worker.notify.alertmanager import Board
from worker.notify.courier import Composer, Counts, Courier
from worker.notify.dry_run import PrintingSender
from worker.notify.figures import Figures, Watched
from worker.notify.health import Lookout, TargetHealth, silent_s_max
from worker.notify.open_incidents import KafkaIncidents
from worker.notify.ports import CourierPorts, DeadLetters, Sender
from worker.notify.resending import Resending, ResendPorts
from worker.notify.subscription import AssignedAlerts, KafkaAlerts, SeenAlerts
from worker.notify_settings import OPS_PORT, NotifySettings, TargetSettings
from worker.ops_pages import NOWHERE, serving
from worker.ops_settings import OpsSettings
from worker.settings import Settings, SettingsError

_STEP_MS = 200
_STOP_EXTRA_S = 10.0
"""Given to a thread beyond the timeout of its request, to commit and to leave its group."""


class Mode(NamedTuple):
    """What the command was told."""

    once: bool = False
    """End when all is delivered that is there."""
    say: Callable[[str], None] | None = None
    """Print through this instead of sending."""


def run_notify(settings: Settings, mode: Mode, stop: threading.Event | None = None) -> dict[str, Counts]:
    """Serve all targets until a signal, or `stop`, ends it; return what became of the records, by target.

    Args:
        settings: with the secrets of all targets (`with_secrets`).
        mode: what the command was told.
        stop: ends it, for those who run it beside something else; then signals are theirs.

    Raises:
        SettingsError: there is no target, or the address for metrics cannot be used.
        HttpClientError: certificates of a target cannot be read.
        TopicsError, BrokerUnreachableError: Kafka is not as it must be.
        SourceError, SinkError: Kafka fails; nothing is lost.
    """
    targets = settings.notify.targets
    if not targets:
        raise SettingsError("notify.targets is empty: write a table [[notify.targets]] for each receiver")
    configure_logging(settings.worker.log_format, settings.worker.log_level, program="notify")
    log = structlog.get_logger("modelvigil.notify")
    refuse_missing_topics(settings, _roles(targets, dry=mode.say is not None))
    with ExitStack() as stack:
        stopping = stop or stack.enter_context(stop_on_signals())
        connection = connect(settings)
        dead = NoDeadLetters(mode.say) if mode.say else KafkaDeadLetters(connection, settings.topics.dead_letters)
        services = [_Service(settings, target, mode, connection, dead, stopping) for target in targets]
        server = stack.enter_context(_serving(settings.notify, mode, services, log))
        names = [target.name for target in targets]
        log.info("started", targets=names, topic=settings.topics.alerts, metrics=server.url)
        _serve(services, stopping)
        log.info("stopped", **{service.name: _told(service.counts) for service in services})
    return {service.name: service.counts for service in services}


def group_of(settings: Settings, target: TargetSettings) -> str:
    """Return the consumer group of a target."""
    return f"{settings.notify.group_id or f'{settings.kafka.group_id}-notify'}-{target.name}"


class _Service:
    """One target and its thread."""

    def __init__(
        self,
        settings: Settings,
        target: TargetSettings,
        mode: Mode,
        connection: KafkaConnection,
        dead_letters: DeadLetters,
        stopping: threading.Event,
    ) -> None:
        self.name = target.name
        self.failure: BaseException | None = None
        self._settings = settings
        self._target = target
        self._mode = mode
        self._connection = connection
        self._dead_letters = dead_letters
        self._stopping = stopping
        self._log = structlog.get_logger("modelvigil.notify").bind(target=target.name)
        self._webhook = HttpClient(timeout_ms=target.timeout_ms, ca_file=target.ca_file)
        self.counts = Counts()
        self.health = TargetHealth(target.name, SystemClock())
        self.thread = threading.Thread(target=self._run, name=f"notify-{target.name}", daemon=True)

    def join(self) -> bool:
        """Wait for the thread; tell whether it has ended in time."""
        self.thread.join(2 * self._target.timeout_ms / 1000 + _STOP_EXTRA_S)
        return not self.thread.is_alive()

    def _run(self) -> None:
        try:
            self._deliver()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it again
            self.failure = error
            self._stopping.set()
        finally:
            self.health.ended = True

    def _deliver(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(closing(self._webhook))
            sender: Sender = PrintingSender(self._target, self._mode.say) if self._mode.say else self._webhook
            resending, board = None, None
            if self._target.kind == "alertmanager":
                board = Board(self._target.open_max)
                resending = stack.enter_context(self._resending(board, sender))
            alerts = stack.enter_context(closing(self._alerts()))
            courier = Courier(
                self._target,
                Composer(self._target, self._settings.notify.runbooks_url, board),
                CourierPorts(alerts, sender, self._dead_letters, SystemClock(), self.health),
                resending,
                self.counts,
                self._log,
                random.random,
            )
            lookout = Lookout(alerts, self.health, SystemClock())
            while not self._is_stopped() and not (self._mode.once and courier.finished):
                courier.step(_STEP_MS)
                lookout.step()

    @contextmanager
    def _resending(self, board: Board, sender: Sender) -> Iterator[Resending]:
        topic = self._settings.topics.incidents
        incidents = KafkaIncidents(self._connection, topic=topic, group_id=group_of(self._settings, self._target))
        with closing(incidents):
            resending = Resending(
                board,
                self._target,
                self._settings.notify.runbooks_url,
                ResendPorts(incidents, sender, SystemClock(), self.health),
                self._log,
                random.random,
            )
            resending.begin(incidents.fetch_all(self._is_stopped))
            yield resending

    def _is_stopped(self) -> bool:
        """Tell whether to stop; whoever asks is alive."""
        self.health.beat()
        return self._stopping.is_set()

    def _alerts(self) -> KafkaAlerts:
        kind = KafkaAlerts
        if self._mode.once or self._mode.say:
            kind = SeenAlerts if self._mode.say else AssignedAlerts
        return kind(
            self._connection,
            topic=self._settings.topics.alerts,
            group_id=group_of(self._settings, self._target),
            start_at=self._settings.notify.start_at,
            log=self._log,
        )


def _serving(
    settings: NotifySettings,
    mode: Mode,
    services: Sequence[_Service],
    log: Any,  # noqa: ANN401 - structlog's
) -> AbstractContextManager[OpsServer]:
    """Serve pages to operators, but not to one who only looks. Raises SettingsError."""
    where = OpsSettings(listen=settings.ops_listen, port=settings.ops_port, socket=settings.ops_socket)
    figures = Figures([Watched(service.counts, service.health) for service in services])
    pages = figures.pages(silent_s_max([target.timeout_ms for target in settings.targets]))
    return serving(NOWHERE if mode.say else where, pages, log, table="notify", default_port=OPS_PORT)


def _serve(services: Sequence[_Service], stopping: threading.Event) -> None:
    for service in services:
        service.thread.start()
    while not stopping.is_set() and any(service.thread.is_alive() for service in services):
        stopping.wait(_STEP_MS / 1000)
    late = [service.name for service in services if not service.join()]
    if late:
        structlog.get_logger("modelvigil.notify").warning("targets did not end in time", targets=late)
    for service in services:
        if service.failure is not None:
            raise service.failure


def _roles(targets: Sequence[TargetSettings], *, dry: bool) -> list[str]:
    """Return the topics that are needed."""
    incidents = ["incidents"] if any(target.kind == "alertmanager" for target in targets) else []
    return ["alerts", *incidents] if dry else ["alerts", "dead_letters", *incidents]


def _told(counts: Counts) -> dict[str, Any]:
    return {"delivered": counts.delivered, "given_up": counts.given_up, "passed_over": counts.passed_over}
