"""The worker as its own process, and the promise that nothing of the demo outlives the demo.

The worker runs under the guard that also keeps the local Kafka: it is killed when the demo dies, however that happens.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from worker.edges.broker import guard
from worker.own_program import own_program
from worker.settings import KafkaSettings

_STOP_S = 30.0
_LOG_TAIL_LINES = 12


class WorkerEndedError(Exception):
    """The worker process has ended by itself; the message holds its last lines."""


class WorkerProcess:
    """`modelvigil run` in a process of its own. `folder` holds its log, and goes away with the demo."""

    def __init__(self, config: Path, kafka: KafkaSettings, folder: Path) -> None:
        self._log_path = folder / "worker.log"
        command = [*own_program(), "run", "--config", str(config)]
        # The environment may name another group or cluster; what is on the command line wins.
        command += ["--bootstrap-servers", kafka.bootstrap_servers, "--group-id", kafka.group_id]
        with self._log_path.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", guard.__file__, str(folder), *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for us: we stop the worker when it has caught up
            )

    def check(self) -> None:
        """Raise WorkerEndedError if it has ended by itself."""
        code = self._guard.poll()
        if code is not None:
            raise WorkerEndedError(
                f"the worker ended by itself with exit code {code}; its last lines are above\n{self._log_tail()}"
            )

    def stop(self) -> int:
        """Ask it to leave (SIGTERM), kill it if that takes too long, and return its exit code. Can be called again."""
        for order in (guard.STOP, guard.KILL):
            self._order(order)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._guard.wait(_STOP_S)
        self._guard.kill()
        return self._guard.wait(_STOP_S)

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(f"  | {line}" for line in lines)

    def _order(self, order: bytes) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._guard.stdin.write(order)


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, and a terminal that is closed, as a Ctrl-C."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(signal.Signals[name], _interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note the first signal that asks for an end instead of raising: an exception in a library's callback is lost."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            _interrupt(number, frame)
        received.append(number)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(signal.Signals[name], note) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal cut the clean-up short; each step of it has a bound."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(signal.Signals[name], signal.SIG_IGN) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
