"""Threads that work on shards at the same time, and how many of them this process can make use of.

The kernels let go of the interpreter's lock (GIL), so that two of them run at once; the Python code between them takes
turns.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

THREADS_MAX = 4
"""By itself: what is done under the GIL takes turns, so that more of them gain little."""

_SWITCH_SECONDS = 0.001
"""A thread that comes back from a kernel waits for the GIL until another one calls a kernel, or for so long. Between
0.05 and Python's own 5 ms no setting was clearly the best (`benchmarks/threads.py`): this is in the middle."""

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Of cgroup v2, as a container sees its own: quota (or "max") and period in microseconds."""


def usable_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Return how many cores this process may keep busy: of the machine, its affinity, its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # there is no such file, or no limit


def threads_for(wanted: int, processes: int = 1) -> int:
    """Return how many threads each of some processes gets: as many as wanted, or, with 0, its part of the cores."""
    return wanted or max(1, min(THREADS_MAX, usable_cores() // processes))


class ThreadExecutor:
    """Implements `ports.Executor`. One thread is that of the caller: then nothing goes on beside.

    What was submitted is done before the context ends. What is submitted then, as the rest of a lane when an error ends
    everything, is let be.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1
        self._ended = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine") if threads > 1 else None

    @property
    def is_beside(self) -> bool:
        """Whether the caller goes on while work is done."""
        return self._pool is not None

    def submit(self, task: Callable[[], None]) -> None:
        """Let the next free thread do this."""
        if self._pool is None:
            task()
        elif not self._ended:
            self._pool.submit(task)

    def __enter__(self) -> Self:
        if self._pool is not None:
            sys.setswitchinterval(_SWITCH_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._pool is not None:
            self._pool.shutdown(wait=True)
