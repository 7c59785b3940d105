"""The clock of the machine, for pacing only: it never reaches the core except as what the journal holds."""

import threading
import time
from collections.abc import Callable

from worker.ports import Spent

_NANOSECONDS_PER_MS = 1_000_000


class SystemClock:
    """Implements `ports.Clock`."""

    def monotonic_ms(self) -> int:
        """Return milliseconds that never go backwards."""
        return time.monotonic_ns() // _NANOSECONDS_PER_MS

    def epoch_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // _NANOSECONDS_PER_MS

    def pause(self, wait_ms: int) -> None:
        """Wait."""
        time.sleep(wait_ms / 1000)


class _ThreadTime(threading.local):
    """What one thread has measured: nobody else writes it, so that nothing is lost and nobody waits."""

    def __init__(self, known: "list[_Sum]") -> None:
        self.own = _Sum()
        known.append(self.own)


class _Sum:
    __slots__ = ("began", "seconds")

    def __init__(self) -> None:
        self.began = 0.0
        self.seconds = 0.0


class WorkMeter:
    """Implements `ports.Meter`: sums the time between `begin` and `end`, which are of the same thread.

    That of the wall, because the core asks for it with each batch of a model: some 0.1 us, where the CPU's takes a
    system call. So it counts when events wait for a fit, which they do only when it holds them up; and when a thread
    waits for another one, which makes the time of the engine and its part for maintenance longer alike.
    """

    def __init__(self) -> None:
        self._sums: list[_Sum] = []
        self._time = _ThreadTime(self._sums)

    def begin(self) -> None:
        """Work begins."""
        self._time.own.began = time.perf_counter()

    def end(self) -> None:
        """The work that began last in this thread has ended."""
        own = self._time.own
        own.seconds += time.perf_counter() - own.began

    @property
    def seconds(self) -> float:
        """All together, of all threads: with two of them up to twice the time that goes by."""
        return sum(each.seconds for each in self._sums)


class WorkEffort:
    """Implements `ports.Effort`.

    Args:
        maintenance: what the core gets.
        children_s: tells the CPU seconds of fits of challengers in other processes.
    """

    def __init__(self, maintenance: WorkMeter, children_s: Callable[[], float]) -> None:
        self._engine = WorkMeter()
        self._maintenance = maintenance
        self._children_s = children_s
        self.begin = self._engine.begin
        self.end = self._engine.end

    def spent(self) -> Spent:
        """Return what was spent so far."""
        return Spent(self._engine.seconds, self._maintenance.seconds, self._children_s())
