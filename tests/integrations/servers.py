"""Prometheus and Alertmanager as real servers for tests and benchmarks, from Debian's packages, on ports of their own.

Rule 1: no server outlives this process; see `worker/edges/broker/guard.py`.
Rule 2: every wait is bounded, and ends early, with the end of the log, if the server does.
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integrations.debian import installed
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.process import GuardedProcess

WAIT_SECONDS_MAX = 60.0
_SHARE = Path("/usr/share")
_TEMPLATES = _SHARE / "prometheus" / "alertmanager" / "default.tmpl"
_LOG_TAIL = 1_500


class Server:
    """A running server, asked through its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: object) -> Any:  # noqa: ANN401 - JSON
        """Return an answer. Raises OSError, with what the server says where it says something."""
        query = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()})
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=10) as answer:  # noqa: S310 - on this machine
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise OSError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error


class Prometheus(Server):
    """A running Prometheus."""

    def now(self, expr: str) -> list[dict[str, Any]]:
        """Return what an expression gives now, one series each. Raises OSError if it is refused."""
        return list(self.ask("/api/v1/query", query=expr)["data"]["result"])

    def values(self, expr: str) -> list[float]:
        """Return the values of an expression now."""
        return [float(each["value"][1]) for each in self.now(expr)]

    def lately(self, expr: str, seconds: int, step_s: int = 1) -> list[dict[str, Any]]:
        """Return what an expression has given in the last seconds, as a graph shows it."""
        end = time.time()
        answer = self.ask("/api/v1/query_range", query=expr, start=end - seconds, end=end, step=step_s)
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules and how their last evaluation went."""
        return [rule for group in self.ask("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]


class Alertmanager(Server):
    """A running Alertmanager."""

    def active(self) -> list[dict[str, Any]]:
        """Return the alerts that fire, and that no other one inhibits."""
        return list(self.ask("/api/v2/alerts", active="true", silenced="false", inhibited="false"))

    def groups(self, label: str) -> dict[str, int]:
        """Return the number of alerts in each group, by the value of a label that groups."""
        return {each["labels"][label]: len(each["alerts"]) for each in self.ask("/api/v2/alerts/groups")}


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus with a configuration; its data is in the folder."""
    program = installed("prometheus").program("prometheus")
    (port,) = (reserved := ReservedPorts(1)).numbers
    command = [str(program), f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    server = Prometheus(f"http://127.0.0.1:{port}")
    with _running(command, folder / "prometheus.log", lambda: server.ask("/api/v1/status/buildinfo")):
        yield server
    del reserved


@contextmanager
def alertmanager(config: Path, folder: Path, program: Path | None = None) -> Iterator[Alertmanager]:
    """Run an Alertmanager with a configuration, Debian's or a given one; its data is in the folder."""
    program = program or alertmanager_program()
    (port,) = (reserved := ReservedPorts(1)).numbers
    command = [*_started_as(program), f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    server = Alertmanager(f"http://127.0.0.1:{port}")
    with _running(command, folder / "alertmanager.log", server.active):
        yield server
    del reserved


def alertmanager_program() -> Path:
    """Return the program: Debian calls it otherwise than its makers do. Raises DebianError."""
    return installed("prometheus-alertmanager").program("prometheus-alertmanager", "alertmanager")


def _started_as(program: Path) -> list[str]:
    """Return how to start it. Debian's opens templates below /usr/share: one that is only unpacked is shown its own.

    Only the process itself sees them there (a mount namespace); nothing of the machine changes.
    """
    share = program.resolve().parent.parent / "share"
    if _TEMPLATES.exists() or not (share / _TEMPLATES.relative_to(_SHARE)).exists():
        return [str(program)]
    mounted = 'mount -t overlay overlay -o "lowerdir=$0:/usr/share" /usr/share && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, str(share), str(program)]


@contextmanager
def _running(command: list[str], log: Path, answers: Callable[[], object]) -> Iterator[None]:
    process = GuardedProcess(command, log, None)
    try:
        end_s = time.monotonic() + WAIT_SECONDS_MAX
        while not _is_up(answers):
            told = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
            assert process.running, f"{command[0]} has ended: {told}"
            assert time.monotonic() < end_s, f"{command[0]} does not answer: {told}"
            time.sleep(0.05)
        yield
    finally:
        process.stop()


def _is_up(answers: Callable[[], object]) -> bool:
    try:
        answers()
    except OSError:
        return False
    return True


def until(reached: Callable[[], bool], what: str, seconds_max: float = WAIT_SECONDS_MAX) -> None:
    """Wait until something is so."""
    end_s = time.monotonic() + seconds_max
    while not reached():
        assert time.monotonic() < end_s, what
        time.sleep(0.1)
