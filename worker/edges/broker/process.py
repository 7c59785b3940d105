"""One Java process that cannot outlive this Python process: the near side of `guard.py`."""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from worker.edges.broker import guard

_END_MAX_S: Final = 15.0


class GuardedProcess:
    """A running command and the guard that started it. Its output goes to the end of `log_path`.

    If this Python process dies, the command is killed and the directory `leftovers`, if any, is removed.
    """

    def __init__(self, command: Sequence[str], log_path: Path, leftovers: Path | None) -> None:
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(leftovers or ""), *command]
        with log_path.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own command, and no shell
                guarded,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for us: we stop the broker after our clients
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            self.pid = int(answer.readline() or 0)

    @property
    def running(self) -> bool:
        """Whether the command still runs."""
        return self._guard.poll() is None

    def stop(self) -> None:
        """Ask it to end (SIGTERM); kill it if that takes too long."""
        self._end(guard.STOP)

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._end(guard.KILL)

    def _end(self, order: bytes) -> None:
        orders = self._guard.stdin
        assert orders is not None
        with orders:
            for each in (order, guard.KILL):
                # The command may have ended by itself, and the guard with it: then there is nobody to order.
                with contextlib.suppress(BrokenPipeError):
                    orders.write(each)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._guard.wait(_END_MAX_S)
                    return
