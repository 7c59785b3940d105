"""The clock of the machine, for pacing only: it never reaches the core except as a journalled tick."""

import time

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
