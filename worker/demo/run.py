"""Sets the demo up, runs its course, and clears everything away again.

Rule 1: whatever happens, the worker and then the broker are stopped before `run_demo` returns or raises.
"""

import json
import tempfile
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.markup import escape

from worker.cluster import create_topics
from worker.demo.course import Course, Parts
from worker.demo.fault import planned
from worker.demo.model import Deployed, deploy
from worker.demo.processes import WorkerProcess, ended_like_ctrl_c, undisturbed
from worker.demo.report import Result
from worker.demo.screen import Plan, opened
from worker.demo.stream import Stream
from worker.demo.watch import Watch
from worker.edges.broker import LocalBroker
from worker.settings import Settings, TopicSettings, load_settings

PARTITIONS = 4
OVERRIDES = {
    "engine.pane_ms": 5_000,
    "engine.pane_grace_ms": 1_000,
    "engine.incident.quiet_ms": 3_000,
    "engine.alerts.noise.update_ms": 5_000,
    "engine.performance.pane_ms": 5_000,
    "engine.performance.label_wait_max_ms": 60_000,
    "engine.performance.windows_ms": [10_000, 30_000],
    "engine.performance.reference_labels": 1_000,
    "worker.idle_close_ms": 1_000,
}
"""What differs from the defaults, all of it to make a short demo lively. Detectors and thresholds are the defaults."""

_CONFIG = "modelvigil.toml"
_READY_S = 120.0
_ASK_S = 10.0
_ASK_AGAIN_S = 0.2
_DELETE_S = 10.0


class Options(NamedTuple):
    """What the command line says. `bootstrap_servers` None: start a Kafka of our own."""

    seconds: float | None
    rate: int
    bootstrap_servers: str | None
    environ: Mapping[str, str]
    keep: Path | None = None
    """Where to write the worker's configuration, to stay there with its topics."""


def run_demo(options: Options, console: Console) -> Result:
    """Run the demo and return what came of it."""
    stack = ExitStack()
    try:
        with ended_like_ctrl_c():
            parts = _Setup(options, console, stack).run()
            with opened(console, parts.plan) as screen:
                return Course(parts, screen).run()
    finally:
        with undisturbed():
            stack.close()


class _Setup:
    """Starts everything, and puts what it starts onto the stack at once."""

    def __init__(self, options: Options, console: Console, stack: ExitStack) -> None:
        self._options = options
        self._console = console
        self._stack = stack

    def run(self) -> Parts:
        """Set everything up; the plan begins when it is done."""
        servers = self._kafka()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="modelvigil-demo-")))
        settings = self._settings(folder / _CONFIG, servers)
        self._create_topics(settings)
        models = self._deploy()
        self._say("Starting the worker as its own process (the first time it compiles, for about 20 s) ...")
        worker = WorkerProcess(folder / _CONFIG, settings.kafka, folder)
        self._stack.callback(worker.stop)
        self._await(worker, settings)
        client = _client(settings)
        watch = Watch(settings.topics, client, settings.kafka.group_id)
        self._stack.callback(watch.close)
        fault, started_ms = planned(self._options.seconds), int(time.time() * 1000)
        plan = Plan(servers, models, self._options.seconds, fault, started_ms)
        stream = Stream(models, self._options.rate, fault, settings.topics, client, started_ms)
        return Parts(plan, worker, stream, watch)

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
        named = {"kafka.bootstrap_servers": servers, "kafka.group_id": name}
        for path, values in ((config, topics | OVERRIDES), (self._options.keep, topics | OVERRIDES | named)):
            if path is not None:
                lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_settings(config, self._options.environ, named)

    def _create_topics(self, settings: Settings) -> None:
        create_topics(settings, PARTITIONS, None)
        if self._options.bootstrap_servers and self._options.keep is None:
            self._stack.callback(_delete_topics, settings)

    def _deploy(self) -> list[Deployed]:
        self._say("Training three models on River's image segments (1,155 rows to train, 1,155 to serve) ...")
        models = deploy()
        for model in models:
            self._say(f"  {model.model_id}: {len(model.features)} features, {model.accuracy:.1%} of the others right")
        return models

    def _await(self, worker: WorkerProcess, settings: Settings) -> None:
        """Wait until the worker owns partitions; if that takes very long, go on: it catches up."""
        client, group_id = AdminClient(_client(settings)), settings.kafka.group_id
        deadline_s = time.monotonic() + _READY_S
        while time.monotonic() < deadline_s:
            worker.check()
            with suppress(KafkaException):  # no such group yet
                group = client.describe_consumer_groups([group_id])[group_id].result(_ASK_S)
                if any(member.assignment and member.assignment.topic_partitions for member in group.members):
                    return
            time.sleep(_ASK_AGAIN_S)

    def _say(self, line: str) -> None:
        self._console.print(escape(line), highlight=False, soft_wrap=True)


def _client(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return what every client of the demo needs. librdkafka would write its log across the screen."""
    return {"log_level": 0, **settings.kafka.properties, "bootstrap.servers": settings.kafka.bootstrap_servers}


def _delete_topics(settings: Settings) -> None:
    """Leave nothing of the demo in somebody's Kafka."""
    client = AdminClient(_client(settings))
    names = [getattr(settings.topics, field) for field in TopicSettings.__struct_fields__]
    answers = client.delete_topics(names, operation_timeout=_DELETE_S, request_timeout=_DELETE_S)
    wait(answers.values(), _DELETE_S)  # whatever the answers are: a cluster may not allow it
