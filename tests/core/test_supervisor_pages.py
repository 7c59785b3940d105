"""Pages of several processes as one, asked for over real sockets."""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.edges.ops_http import Answer, OpsServer, json_answer
from worker.edges.telemetry import Gauge, Telemetry
from worker.ops_settings import OpsSettings
from worker.supervisor.asking import ask
from worker.supervisor.member import Member, State, Status
from worker.supervisor.pages import Pages, is_past_start, is_spare

TEXT = '# TYPE modelvigil_shards gauge\nmodelvigil_shards{state="live"} 2.0\nmodelvigil_shards{state="refused"} 1.0\n'


@contextmanager
def serving(path: Path, ready: dict[str, Any], status: int = 200, wait_s: float = 0.0) -> Iterator[None]:
    """Serve the pages of a member."""

    def metrics() -> Answer:
        time.sleep(wait_s)
        return Answer(200, "text/plain", TEXT.encode())

    pages = {"/metrics": metrics, "/readyz": lambda: json_answer(status, **ready)}
    with OpsServer(OpsSettings(socket=str(path)), pages, lambda _: None):
        yield


@contextmanager
def saying(path: Path, answer: bytes, *, pause_s: float = 0.0) -> Iterator[None]:
    """Answer one request with these bytes, one by one if there is a pause."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                for piece in [answer] if not pause_s else [bytes([each]) for each in answer]:
                    try:
                        connection.sendall(piece)
                    except OSError:
                        return
                    time.sleep(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
    thread.join(5)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets; that of tmp_path may not be."""
    with tempfile.TemporaryDirectory(prefix="mv-") as made:
        yield Path(made)


def statuses(folder: Path, *states: State) -> list[Status]:
    """Return members in these states."""
    return [
        Status(number, folder / f"{number}.sock", state, number, "waits" if state is State.WAITING else "")
        for number, state in enumerate(states)
    ]


def samples(answer: Answer) -> dict[tuple[str, str, str], float]:
    """Return values by name, process and state."""
    return {
        (sample.name, sample.labels.get("process", ""), sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_metrics_of_all(folder: Path) -> None:
    """Those that answer are there, one that hangs and one that waits are not, and gauges tell which is which."""
    members = statuses(folder, State.WORKING, State.WORKING, State.WAITING, State.STARTING)
    pages = Pages(lambda: members, lambda: 0.0)
    begun = time.monotonic()
    with serving(members[0].socket, {}), serving(members[1].socket, {}, wait_s=1.5):
        found = samples(pages.metrics())
    assert time.monotonic() - begun < 3.0
    assert {process for name, process, _ in found if name == "modelvigil_shards"} == {"0"}
    up = {process: value for (name, process, _), value in found.items() if name == "modelvigil_process_up"}
    assert up == {"0": 1, "1": 0, "2": 0, "3": 0}
    assert found["modelvigil_processes", "", "running"] == 3
    assert found["modelvigil_processes", "", "waiting"] == 1
    assert found["modelvigil_process_restarts_total", "3", ""] == 3


def test_ready_when_all_are(folder: Path) -> None:
    """One that is not ready, does not answer or does not run is enough, and the page says which and why."""
    members = statuses(folder, State.WORKING, State.WORKING)
    pages = Pages(lambda: members, lambda: 0.0)
    with serving(members[0].socket, {"ready": True}), serving(members[1].socket, {"ready": True}):
        assert pages.readyz().status == 200
        members[1] = members[1]._replace(state=State.WAITING, reason="ended: exit code 8")
        answer = pages.readyz()
    assert answer.status == 503
    assert json.loads(answer.body)["processes"]["1"] == {"ready": False, "reason": "ended: exit code 8"}
    members[1] = members[1]._replace(state=State.WORKING)
    with serving(members[0].socket, {"reason": "restoring"}, 503):
        answer = pages.readyz()
    assert answer.status == 503
    assert json.loads(answer.body)["processes"] == {
        "0": {"ready": False, "reason": "restoring"},
        "1": {"ready": False, "reason": "does not answer"},
    }


def test_healthy_while_the_supervisor_turns() -> None:
    """A supervisor that hangs is not healthy, whatever its members are."""
    assert Pages(list, lambda: 1.0).healthz().status == 200
    assert Pages(list, lambda: 31.0).healthz().status == 503


@pytest.mark.parametrize(
    ("reason", "status", "past_start", "spare"),
    [
        ("starting", 503, False, False),
        ("waiting for the group", 503, True, False),
        ("4 partitions", 200, True, False),
        ("spare: the group has no partition for it", 200, True, True),
    ],
)
def test_what_a_member_says(folder: Path, reason: str, status: int, *, past_start: bool, spare: bool) -> None:
    """It is past its start when it waits for something else than its kernels, and a spare when it has no partition."""
    member = Member(0, folder / "0.sock", lambda _, __: pytest.fail("not to be started"))
    assert not is_past_start(member)
    assert not is_spare(member)
    with serving(member.socket, {"reason": reason}, status):
        assert is_past_start(member) is past_start
        assert is_spare(member) is spare


def test_the_words_of_a_worker() -> None:
    """What a worker says of its readiness is what the supervisor looks for."""
    telemetry = Telemetry(None)
    assert telemetry.readiness().reason.startswith("starting")
    for gauge in (Gauge.SHARDS_LIVE, Gauge.SHARDS_RESTORING, Gauge.SHARDS_REFUSED):
        telemetry.set_gauge(gauge, 0.0)
    telemetry.joined = True
    assert telemetry.readiness().reason.startswith("spare")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nmodelvigil_models 1",
    ],
)
def test_half_an_answer_is_none(folder: Path, answer: bytes) -> None:
    """What ended early is not taken for the whole."""
    with saying(folder / "0.sock", answer):
        assert ask(folder / "0.sock", "/metrics") is None


def test_who_speaks_too_slowly_is_left(folder: Path) -> None:
    """A byte now and then does not hold the connection open for longer than allowed."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    begun = time.monotonic()
    with saying(folder / "0.sock", head + b"x" * 100, pause_s=0.02):
        assert ask(folder / "0.sock", "/metrics", 0.3) is None
        assert time.monotonic() - begun < 1.5


def test_nobody_there(folder: Path) -> None:
    """A socket that is missing, or that a dead process has left, is no answer."""
    assert ask(folder / "0.sock", "/metrics") is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(folder / "1.sock"))
    assert ask(folder / "1.sock", "/metrics") is None
