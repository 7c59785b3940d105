"""A real Alertmanager behind `modelvigil notify`: does it receive, group, keep and resolve incidents?

    python -m benchmarks.alertmanager --alertmanager PATH      or without it; the last line is JSON

Without either, Debian's package is fetched and unpacked, once; nothing is installed.

Incidents go to a real Kafka as a worker writes them (in transactions, to `alerts` and to the compacted `incidents`),
from there through notify's own code to Alertmanager with the configuration of deploy/alertmanager, made quicker, and
from there to a receiver. Each expectation that is not met ends the run with an AssertionError.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__
from rich.console import Console

from tests.integrations.servers import Alertmanager, alertmanager, alertmanager_program
from worker.core.events import AlertEvent
from worker.core.events.alerts import Situation
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts
from worker.notify.running import Mode, run_notify
from worker.settings import Settings, load_settings

CONFIG = Path(__file__).parent.parent / "deploy" / "alertmanager" / "alertmanager.yml"
SITUATIONS = 20
PER_SITUATION = 10
RESOLVE_TIMEOUT_S = 6
RESEND_MS = 2_000
WAIT_S = 60.0
QUICKER = {
    "resolve_timeout: 5m": f"resolve_timeout: {RESOLVE_TIMEOUT_S}s",
    "group_wait: 15s": "group_wait: 1s",
    "group_interval: 1m": "group_interval: 1s",
}
CONSOLE = Console(stderr=True)


def main() -> None:
    """Run the story and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="A real Alertmanager behind modelvigil notify.")
    parser.add_argument("--alertmanager", help="the program; without it, the one on the PATH, or Debian's")
    program = _program(parser.parse_args().alertmanager)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalBroker(say=CONSOLE.print) as broker,
        _receiver() as received,
        alertmanager(_quick_config(Path(folder), received.url), Path(folder), program) as manager,
    ):
        figures = _story(broker.bootstrap_servers, manager, received)
    print(json.dumps({"alertmanager": _version(program), **figures}))


def _program(named: str | None) -> Path:
    if named is None:
        return alertmanager_program()
    found = shutil.which(named)
    if found is None:
        raise SystemExit(f"{named} is no program; leave --alertmanager out, and Debian's is fetched")
    return Path(found)


def _version(program: Path) -> str:
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return (done.stdout or done.stderr).split()[2]


# Alertmanager and what is behind it.


class Received:
    """What Alertmanager has sent: its messages, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.messages: list[dict[str, Any]] = []

    def alerts(self, status: str) -> set[str]:
        """Return the fingerprints of alerts that were in messages with this status of their own."""
        return {
            alert["labels"]["fingerprint"]
            for message in list(self.messages)
            for alert in message["alerts"]
            if alert["status"] == status
        }


@contextmanager
def _receiver() -> Iterator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Note a message."""
            received.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    reserved = ReservedPorts(1)
    server = ThreadingHTTPServer(("127.0.0.1", reserved.numbers[0]), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}/people"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


def _quick_config(folder: Path, receiver: str) -> Path:
    text = CONFIG.read_text(encoding="utf-8")
    for line, quicker in {**QUICKER, "http://127.0.0.1:9095/people": receiver}.items():
        assert line in text, f"{CONFIG} has no {line}"
        text = text.replace(line, quicker)
    config = folder / "alertmanager.yml"
    config.write_text(text, encoding="utf-8")
    return config


# The story.


class Writer:
    """Writes steps of incidents as a worker does."""

    def __init__(self, settings: Settings) -> None:
        self._topics = settings.topics
        self._producer = Producer(
            {"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": "benchmark", "linger.ms": 5}
        )
        self._producer.init_transactions(WAIT_S)

    def write(self, events: Sequence[AlertEvent]) -> None:
        """Write steps to both topics, in one transaction."""
        self._producer.begin_transaction()
        for event in events:
            value = msgspec.json.encode(event)
            kept = None if event.status == "resolved" else value
            self._producer.produce(self._topics.alerts, value, event.fingerprint, event.shard)
            self._producer.produce(self._topics.incidents, kept, event.fingerprint, event.shard)
        self._producer.commit_transaction(WAIT_S)


def _story(servers: str, manager: Alertmanager, received: Received) -> dict[str, Any]:
    settings = _settings(servers, manager.url)
    _create_topics(settings)
    writer = Writer(settings)
    incidents = [_opened(place) for place in range(SITUATIONS * PER_SITUATION)]
    figures: dict[str, Any] = {"incidents": len(incidents), "situations": SITUATIONS}
    with _notifying(settings):
        figures |= _opening(writer, incidents, manager, received)
        figures |= _lasting(manager, len(incidents))
        figures |= _worsening(writer, incidents, manager)
        figures |= _ending(writer, incidents[1:], manager, received)
    return figures | _forgetting(manager)


def _opening(writer: Writer, incidents: list[AlertEvent], manager: Alertmanager, received: Received) -> dict[str, Any]:
    """All arrive, each once, and come to the receiver in one group for each situation."""
    CONSOLE.print(f"{len(incidents)} incidents open")
    began_s = time.monotonic()
    writer.write(incidents)
    _until(lambda: len(manager.active()) == len(incidents), "incidents do not arrive")
    arrived_s = time.monotonic() - began_s
    assert manager.groups("situation_id") == {f"s{place}": PER_SITUATION for place in range(SITUATIONS)}
    wanted = {incident.fingerprint for incident in incidents}
    _until(lambda: received.alerts("firing") == wanted, "the receiver does not hear of all")
    assert all(set(message["groupLabels"]) == {"situation_id"} for message in received.messages)
    assert all(
        alert["labels"]["situation_id"] == message["groupLabels"]["situation_id"]
        for message in received.messages
        for alert in message["alerts"]
    )
    return {"all_active_s": round(arrived_s, 2), "messages_of_openings": len(received.messages)}


def _lasting(manager: Alertmanager, count: int) -> dict[str, Any]:
    """Open incidents outlast `resolve_timeout`, because they are told again."""
    seconds = 3 * RESOLVE_TIMEOUT_S
    CONSOLE.print(f"they stay open for {seconds} s")
    end_s = time.monotonic() + seconds
    looks = Counter[int]()
    while time.monotonic() < end_s:
        looks[len(manager.active())] += 1
        time.sleep(0.25)
    assert set(looks) == {count}, f"open at different looks: {looks}"
    return {"held_s": seconds, "resolve_timeout_s": RESOLVE_TIMEOUT_S}


def _worsening(writer: Writer, incidents: list[AlertEvent], manager: Alertmanager) -> dict[str, Any]:
    """A new severity takes the place of the old one at once."""
    CONSOLE.print("all become critical")
    worse = {"alert_id": "worse", "status": "updated", "severity": "critical", "updates": 1}
    incidents[:] = [
        msgspec.structs.replace(each, **{**worse, "alert_id": f"worse-{each.incident_id}"}) for each in incidents
    ]
    began_s = time.monotonic()
    writer.write(incidents)
    wanted = Counter(critical=len(incidents))
    _until(lambda: Counter(each["labels"]["severity"] for each in manager.active()) == wanted, "severities stay")
    return {"all_critical_s": round(time.monotonic() - began_s, 2)}


def _ending(writer: Writer, incidents: list[AlertEvent], manager: Alertmanager, received: Received) -> dict[str, Any]:
    """All but one are resolved."""
    CONSOLE.print(f"{len(incidents)} of them are over")
    now_ms = int(time.time() * 1000)
    ends = {"status": "resolved", "resolved_at_ms": now_ms, "timestamp_ms": now_ms, "updates": 1}
    began_s = time.monotonic()
    writer.write(
        [msgspec.structs.replace(each, alert_id=f"over-{each.incident_id}", **ends) for each in incidents],
    )
    _until(lambda: len(manager.active()) == 1, "incidents stay open")
    resolved_s = time.monotonic() - began_s
    wanted = {incident.fingerprint for incident in incidents}
    _until(lambda: wanted <= received.alerts("resolved"), "the receiver does not hear of all ends")
    time.sleep(2 * RESEND_MS / 1000)
    assert len(manager.active()) == 1, "incidents that are over have come back"
    return {"all_resolved_s": round(resolved_s, 2)}


def _forgetting(manager: Alertmanager) -> dict[str, Any]:
    """The one that is left runs out without `notify`: what held the others was that they were told again."""
    CONSOLE.print("notify has ended")
    began_s = time.monotonic()
    _until(lambda: not manager.active(), "Alertmanager keeps what nobody tells")
    return {"forgotten_without_notify_s": round(time.monotonic() - began_s, 1)}


def _opened(place: int) -> AlertEvent:
    now_ms = int(time.time() * 1000)
    situation = place // PER_SITUATION
    first = f"i{situation * PER_SITUATION}"
    return AlertEvent(
        alert_id=f"opened-i{place}",
        incident_id=f"i{place}",
        fingerprint=f"f{place}",
        kind="drift.input",
        status="opened",
        severity="warning",
        summary=f"feature {place} has drifted",
        runbook="drift.input",
        model_id=f"model-{situation}",
        model_version="1",
        shard=situation % 2,
        timestamp_ms=now_ms,
        opened_at_ms=now_ms,
        last_flagged_ms=now_ms,
        resolved_at_ms=None,
        situation=Situation(
            situation_id=f"s{situation}",
            opened_at_ms=now_ms,
            incidents=place % PER_SITUATION + 1,
            open_incidents=place % PER_SITUATION + 1,
            cause_incident_id=first,
            cause_kind="drift.input",
            cause_summary=f"feature {situation * PER_SITUATION} has drifted",
        ),
    )


def _settings(servers: str, url: str) -> Settings:
    target = {"name": "manager", "kind": "alertmanager", "url": url, "resend_ms": RESEND_MS}
    overrides = {
        "kafka.bootstrap_servers": servers,
        "notify.start_at": "earliest",
        "notify.targets": [target],
        "worker.log_level": "warning",
    }
    return load_settings(None, {}, overrides)


def _create_topics(settings: Settings) -> None:
    topics = settings.topics
    compacted = {"cleanup.policy": "compact"}
    new = [
        NewTopic(topics.alerts, 2, 1),
        NewTopic(topics.incidents, 2, 1, config=compacted),
        NewTopic(topics.dead_letters, 1, 1),
    ]
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for created in admin.create_topics(new).values():
        created.result(WAIT_S)


@contextmanager
def _notifying(settings: Settings) -> Iterator[None]:
    stop, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            counts = run_notify(settings, Mode(), stop)["manager"]
            assert counts.given_up == 0, "Alertmanager has refused alerts"
        except BaseException as error:  # noqa: BLE001 - told at the end
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


def _until(reached: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


if __name__ == "__main__":
    main()
