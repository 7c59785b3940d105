"""One member: a worker process, and what became of it."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess

Start = Callable[[int, Path], "subprocess.Popen[bytes]"]
"""Starts the process of a member: its number, and the socket to serve its pages at."""


class State(Enum):
    """Where a member is.

    WAITING --start--> STARTING --ready to work--> WORKING
       ^                  |                           |
       +-----pause--------+----------- ended ---------+
    """

    WAITING = "waiting"
    STARTING = "starting"
    WORKING = "working"


class Status(NamedTuple):
    """A member at one moment, for other threads."""

    number: int
    socket: Path
    state: State
    restarts: int
    reason: str
    """Why it does not run, if so."""


class Member:
    """Starts, watches and ends one process. For one thread; others get `status`."""

    def __init__(self, number: int, socket: Path, start: Start) -> None:
        self.number = number
        self.socket = socket
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked = False
        self.state = State.WAITING
        self.starts = 0
        self.failures = 0
        """Ends since it last did good work."""
        self.due_s = 0.0
        """When to start it, while it waits."""
        self.since_s = 0.0
        """When it came to the state that it is in."""
        self.is_proven = False
        """Whether it has done good work since its start."""
        self.reason = "waits for the first process to load its kernels"

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return None if self._process is None else self._process.pid

    def start(self, now_s: float) -> None:
        """Start the process. Raises OSError if the system has none to give."""
        assert self._process is None
        self._is_asked = False
        self._process = self._start(self.number, self.socket)
        self.starts += 1
        self.is_proven = False
        self.go(State.STARTING, now_s)

    def go(self, state: State, now_s: float) -> None:
        """Come to another state."""
        self.state, self.since_s = state, now_s

    def ended(self) -> int | None:
        """Return the exit code if it has ended since the last call; negative: the signal."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def wait_until(self, due_s: float, now_s: float, reason: str) -> None:
        """Have no process until then."""
        self.due_s, self.reason = due_s, reason
        self.go(State.WAITING, now_s)

    def terminate(self) -> None:
        """Ask it to stop, once: a second signal would cut its stop short. May be called by a signal handler."""
        if self._process is not None and not self._is_asked:
            self._is_asked = True
            self._process.terminate()

    def kill(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()

    def status(self) -> Status:
        """Return how it is now."""
        return Status(self.number, self.socket, self.state, max(0, self.starts - 1), self.reason)
