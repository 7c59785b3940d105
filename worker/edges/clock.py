"""The clock of the machine, for pacing only: it never reaches the core except as what the journal holds."""

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


class WorkMeter:
    """Implements `ports.Meter`: sums the time between `begin` and `end`.

    That of the wall, because the core asks for it with each batch of a model: some 0.1 us, where the CPU's takes a
    system call. So it counts when events wait for a fit, which they do only when it holds them up.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """All together."""
        self._began = 0.0

    def begin(self) -> None:
        """Work begins."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """The work that began last has ended."""
        self.seconds += time.perf_counter() - self._began


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
