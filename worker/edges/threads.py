"""Threads that work on shards at the same time, and how many of them this process can make use of.

The kernels let go of the interpreter's lock (GIL), so that two of them run at once; the Python code between them takes
turns.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

THREADS_MAX = 4
"""By itself: what is done under the GIL takes turns, so that more of them gain little."""

_SWITCH_SECONDS = 0.0002
"""A thread that comes back from a kernel waits for the GIL until the other one calls a kernel, or for so long. Python's
5 ms are a convoy: kernels take some 0.1 ms. Even shorter only adds switches (`benchmarks/threads.py`)."""

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Of cgroup v2, as a container sees its own: quota (or "max") and period in microseconds."""

_Result = TypeVar("_Result")


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
    """Implements `ports.Executor`. The thread of the caller is one of its threads; with one there is no other."""

    def __init__(self, threads: int) -> None:
        assert threads >= 1
        self._helpers = threads - 1
        self._pool = ThreadPoolExecutor(self._helpers, thread_name_prefix="engine") if self._helpers else None

    def run(self, tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
        """Do all tasks, each thread the next one that is left; return the results in their order.

        All of them are done, or have failed, when the error of the first one that failed is raised.
        """
        if self._pool is None or len(tasks) <= 1:
            return [task() for task in tasks]
        results: dict[int, _Result] = {}
        errors: dict[int, BaseException] = {}
        left = iter(range(len(tasks)))  # `next` of it is one step of C: no two threads get the same

        def work() -> None:
            for place in left:
                try:
                    results[place] = tasks[place]()
                except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the caller
                    errors[place] = error

        helping = [self._pool.submit(work) for _ in range(min(self._helpers, len(tasks) - 1))]
        work()
        for helper in helping:
            helper.result()
        if errors:
            raise errors[min(errors)]
        return [results[place] for place in range(len(tasks))]

    def __enter__(self) -> Self:
        if self._pool is not None:
            sys.setswitchinterval(_SWITCH_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
