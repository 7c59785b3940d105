"""The course of the demo: set up, let events flow, let the worker catch up, stop it, say what came of it.

Rule 1: whatever happens, worker and broker are stopped before `run_demo` returns or raises, in this order.
Rule 2: the result is read from the worker's topics after it has left, so that open panes are counted too.
"""

import json
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.markup import escape

from worker import app
from worker.demo.fault import planned
from worker.demo.model import Deployed, deploy
from worker.demo.processes import WorkerProcess, ended_like_ctrl_c, undisturbed
from worker.demo.report import Result
from worker.demo.screen import Now, Plan, Screen, opened
from worker.demo.stream import Stream
from worker.demo.watch import Watch
from worker.edges.broker import LocalBroker
from worker.settings import Settings, TopicSettings, load_settings

PARTITIONS = 4
OVERRIDES = {
    "engine.pane_ms": 5_000,
    "engine.pane_grace_ms": 1_000,
    "engine.incident.quiet_ms": 3_000,
    "engine.incident.update_ms": 5_000,
}
"""What differs from the defaults, all of it to make a short demo lively. Detectors and thresholds are the defaults."""

_TURN_S = 0.05
_SHOW_S = 0.25
_LAG_S = 1.0
_CATCH_UP_S = 90.0
_DELETE_S = 10.0
_CATCH_UP_AFTER_CTRL_C_S = 10.0


class Options(NamedTuple):
    """What the command line says. `bootstrap_servers` None: start a Kafka of our own."""

    seconds: float | None
    rate: int
    bootstrap_servers: str | None
    environ: Mapping[str, str]


class WorkerEndedError(Exception):
    """The worker process has ended by itself; the message holds its last lines."""


def run_demo(options: Options, console: Console) -> Result:
    """Run the demo and return what came of it. A Ctrl-C while events flow ends it early, but in order."""
    stack = ExitStack()
    try:
        with ended_like_ctrl_c():
            return _Demo(options, console, stack).run()
    finally:
        with undisturbed():
            stack.close()


class _Demo:
    """One run. What it starts goes onto the stack at once."""

    def __init__(self, options: Options, console: Console, stack: ExitStack) -> None:
        self._options = options
        self._console = console
        self._stack = stack
        self._second = 0.0
        self._behind = 0
        self._shown_s = self._lag_asked_s = 0.0
        self._recent = (0.0, 0)
        self._rate = 0.0

    def run(self) -> Result:
        servers = self._kafka()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="modelvigil-demo-")))
        settings = self._settings(folder / "modelvigil.toml", servers)
        self._create_topics(settings)
        models = self._deploy()
        self._say("Starting the worker as its own process ...")
        self._worker = WorkerProcess(folder / "modelvigil.toml", settings.kafka, folder)
        self._stack.callback(self._worker.stop)
        client = _client(settings)
        self._watch = Watch(settings.topics, client, settings.kafka.group_id)
        self._stack.callback(self._watch.close)
        fault = planned(self._options.seconds)
        started_ms = int(time.time() * 1000)
        self._plan = Plan(servers, models, self._options.seconds, fault, started_ms)
        self._stream = Stream(models, self._options.rate, fault, settings.topics.predictions, client, started_ms)
        with opened(self._console, self._plan) as screen:
            return self._course(screen)

    # Set-up.

    def _kafka(self) -> str:
        if self._options.bootstrap_servers:
            self._say(f"Using the Kafka at {self._options.bootstrap_servers}.")
            return self._options.bootstrap_servers
        self._say("Starting a local Kafka ...")
        return self._stack.enter_context(LocalBroker(say=self._say)).bootstrap_servers

    def _settings(self, config: Path, servers: str) -> Settings:
        """Write the worker's configuration: names that nobody else uses, so that every demo starts clean."""
        name = f"modelvigil-demo-{uuid.uuid4().hex[:8]}"
        topics = {f"topics.{field}": f"{name}.{field.replace('_', '-')}" for field in TopicSettings.__struct_fields__}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (topics | OVERRIDES).items()]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        named = {"kafka.bootstrap_servers": servers, "kafka.group_id": name}
        return load_settings(config, self._options.environ, named)

    def _create_topics(self, settings: Settings) -> None:
        if self._options.bootstrap_servers:
            self._stack.callback(_delete_topics, settings)
        app.create_topics(settings, PARTITIONS, None)

    def _deploy(self) -> list[Deployed]:
        self._say("Training three models on River's image segments (1,155 rows to train, 1,155 to serve) ...")
        models = deploy()
        for model in models:
            self._say(
                f"  {model.model_id}: {len(model.features)} features, right on {model.accuracy:.1%} of these rows"
            )
        return models

    def _say(self, line: str) -> None:
        self._console.print(escape(line), highlight=False, soft_wrap=True)

    # Events flow.

    def _course(self, screen: Screen) -> Result:
        interrupted = False
        try:
            self._flow(screen)
        except KeyboardInterrupt:
            interrupted = True
        self._stream.close()
        self._catch_up(screen, _CATCH_UP_AFTER_CTRL_C_S if interrupted else _CATCH_UP_S)
        self._rate = self._stream.sent / self._second if self._second else 0.0
        exit_code = self._worker.stop()
        self._watch.read_to_end()
        self._show(screen, "the worker has left")
        return self._result(exit_code, interrupted=interrupted)

    def _flow(self, screen: Screen) -> None:
        """Send what is due and show what comes out, until the time is over."""
        begin_s = time.monotonic()
        end_s = self._options.seconds
        while end_s is None or self._second < end_s:
            elapsed_s = time.monotonic() - begin_s
            self._second = elapsed_s if end_s is None else min(elapsed_s, end_s)
            self._stream.advance(self._second)
            self._turn(screen, "events flow")
            time.sleep(_TURN_S)

    def _catch_up(self, screen: Screen, seconds_max: float) -> None:
        """Wait until the worker has committed everything that was written."""
        deadline_s = time.monotonic() + seconds_max
        self._behind = self._watch.behind(self._stream.written)
        while self._behind and time.monotonic() < deadline_s:
            self._turn(screen, "no more events; the worker catches up")
            time.sleep(_TURN_S)

    def _turn(self, screen: Screen, doing: str) -> None:
        self._watch.poll()
        if self._worker.exit_code is not None:
            raise WorkerEndedError(
                f"the worker ended by itself with exit code {self._worker.exit_code}; its last lines are above\n"
                + self._worker.log_tail()
            )
        now_s = time.monotonic()
        if now_s - self._lag_asked_s >= _LAG_S:
            self._lag_asked_s = now_s
            self._behind = self._watch.behind(self._stream.written)
            then_s, then_sent = self._recent
            self._rate = (self._stream.sent - then_sent) / (now_s - then_s) if then_s else 0.0
            self._recent = (now_s, self._stream.sent)
        if now_s - self._shown_s >= _SHOW_S:
            self._shown_s = now_s
            self._show(screen, doing)

    def _show(self, screen: Screen, doing: str) -> None:
        watch = self._watch
        if not watch.models and doing == "events flow":
            doing = "events flow; the worker starts, and compiles its kernels the first time"
        screen.show(
            Now(
                second=self._second,
                doing=doing,
                sent=self._stream.sent,
                rate=self._rate,
                behind=self._behind,
                dead_letters=watch.dead_letters,
                opened=watch.opened,
                models=watch.models,
                new_alerts=watch.new_alerts(),
            )
        )

    def _result(self, exit_code: int, *, interrupted: bool) -> Result:
        stream, watch = self._stream, self._watch
        return Result(
            seconds=self._second,
            interrupted=interrupted,
            sent=stream.sent,
            written=stream.written,
            delivery_error=stream.lost,
            counted=watch.counted,
            dead_letters=watch.dead_letters,
            behind=self._behind,
            opened=watch.opened,
            worker_exit_code=exit_code,
            fault=self._plan.fault,
            started_ms=self._plan.started_ms,
            criticals=watch.criticals,
            asked_in_fault=stream.asked_in_fault,
            right_in_fault=stream.right_in_fault,
        )


def _client(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return what every client of the demo needs. librdkafka would write its log across the screen."""
    return {"log_level": 0, **settings.kafka.properties, "bootstrap.servers": settings.kafka.bootstrap_servers}


def _delete_topics(settings: Settings) -> None:
    """Leave nothing of the demo in somebody's Kafka."""
    client = AdminClient(_client(settings))
    names = [getattr(settings.topics, field) for field in TopicSettings.__struct_fields__]
    for future in client.delete_topics(names, operation_timeout=_DELETE_S).values():
        with suppress(KafkaException):  # one that was not created, or a cluster that allows no deletion
            future.result(_DELETE_S)
