"""Ends a process whose loop has stopped, so that its supervisor starts it again. Restart is the recovery (crash-only).

Three layers, each for the case in which the one before it cannot act:

1. A thread sees that the last beat is older than `limit_s`: all stacks go to stderr, exit code 75.
2. A native call that holds the GIL stops that thread, too. faulthandler's own thread needs no GIL: at the latest
   `margin_s` after the limit it writes "Timeout", all stacks, and ends the process with exit code 1.
3. Nobody reads stderr and its pipe is full, so layer 1 cannot write: SIGALRM ends the process.

A process that was stopped for longer than the limit (SIGSTOP, a frozen machine) is ended when it wakes up: by then,
its partitions have other owners.
"""

import faulthandler
import math
import os
import signal
import sys
import threading
import time
from types import TracebackType
from typing import NoReturn, Self

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: starting again may help."""

MARGIN_SECONDS = 5.0
_ARM_SECONDS = 1.0  # faulthandler starts a thread each time it is armed, 40 µs; a beat alone is 0.15 µs
_TELL_SECONDS_MAX = 5
_STDERR = 2  # not sys.stderr: the thread that hangs may hold its lock


class Watchdog:
    """Watches one thread, which calls `beat`. Begins with `with`, counted as the first beat, and ends with it.

    There can be only one in a process, because faulthandler has a single timer.
    """

    def __init__(self, limit_s: float, *, margin_s: float = MARGIN_SECONDS) -> None:
        assert limit_s > 0
        assert margin_s > _ARM_SECONDS, "faulthandler would be earlier than the thread, which tells more"
        self._limit_s = limit_s
        self._fatal_s = limit_s + margin_s
        self._beat_at = time.monotonic()
        self._armed_at = math.inf
        """Infinite outside of the `with`: a beat there arms nothing."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._beat_at = time.monotonic()
        self._arm(self._beat_at)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._armed_at = math.inf
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Say that the loop is alive."""
        now = time.monotonic()
        self._beat_at = now
        if now - self._armed_at >= _ARM_SECONDS:
            self._arm(now)

    def age_s(self) -> float:
        """Return for how long there has been no beat."""
        return time.monotonic() - self._beat_at

    def _arm(self, now: float) -> None:
        """Start faulthandler's timer anew; up to `_ARM_SECONDS` of it are over when a later beat is the last one."""
        self._armed_at = now
        faulthandler.dump_traceback_later(self._fatal_s, exit=True, file=_STDERR)

    def _watch(self) -> None:
        """Sleep until the last known beat would be too old; look whether there was one since then."""
        while not self._stopped.wait(max(0.0, self._limit_s - self.age_s())):
            age_s = self.age_s()
            if age_s >= self._limit_s:
                _end_process(age_s, self._limit_s)


def _end_process(age_s: float, limit_s: float) -> NoReturn:
    """Tell what happened and leave without any clean-up: whatever hangs would hang that, too."""
    try:
        if sys.platform != "win32":
            signal.alarm(_TELL_SECONDS_MAX)  # nobody handles it: it works even while the dump below holds the GIL
        line = (
            f"modelvigil watchdog: the loop has been silent for {age_s:.1f} s, at most {limit_s:.1f} s are allowed. "
            f"This process ends with exit code {EXIT_CODE}; its supervisor should restart it. Stacks of all threads:\n"
        )
        os.write(_STDERR, line.encode())
        faulthandler.dump_traceback(_STDERR)
    finally:
        os._exit(EXIT_CODE)
