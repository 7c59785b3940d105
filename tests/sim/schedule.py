"""Runs several workers, each on a thread of its own, but only ever one at a time: chance and simulated time decide.

Rule 1: a worker runs until it sleeps. Only then does time go by, events of the world happen, or another worker run.
Rule 2: nothing here looks at a real clock, so the same seed gives the same run.
"""

import heapq
import random
import threading
from collections.abc import Callable

from tests.sim.faults import SimCrash


class StuckError(Exception):
    """The simulation does not come to its end."""


class Task:
    """One worker's thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wake_ms = 0
        self.gate = threading.Lock()
        self.gate.acquire()


class Scheduler:
    """The simulated time and who runs next.

    Args:
        rng: the source of all chance.
        tick: told the new time whenever it has moved.
        steps_max: so many turns, and the simulation counts as stuck.
    """

    def __init__(self, rng: random.Random, tick: Callable[[int], None], steps_max: int) -> None:
        self.now_ms = 0
        self.steps = 0
        self.failure: BaseException | None = None
        self._rng = rng
        self._tick = tick
        self._steps_max = steps_max
        self._tasks: list[Task] = []
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._events_ever = 0
        self._over = False
        self._main = threading.Lock()
        self._main.acquire()

    def at(self, time_ms: int, event: Callable[[], object]) -> None:
        """Let something happen at a time."""
        self._events_ever += 1
        heapq.heappush(self._events, (max(time_ms, self.now_ms), self._events_ever, event))

    def spawn(self, name: str, body: Callable[[Task], object]) -> Task:
        """Start a worker; it runs when its turn comes."""
        task = Task(name)
        task.wake_ms = self.now_ms
        self._tasks.append(task)
        threading.Thread(target=self._live, args=(task, body), name=name, daemon=True).start()
        return task

    def run(self) -> None:
        """Run until `finish`, or until something fails: that is raised here. Then all workers are killed."""
        self._hand_over()
        self._main.acquire()
        self._over = True
        while self._tasks:
            self._tasks[0].gate.release()
            self._main.acquire()
        if self.failure is not None:
            raise self.failure

    def finish(self) -> None:
        """End the simulation when the worker that runs sleeps."""
        self._over = True

    def sleep(self, task: Task, wait_ms: int) -> None:
        """The running worker waits; others run."""
        if self._over:
            raise SimCrash
        task.wake_ms = self.now_ms + wait_ms
        following = self._guarded_next()
        if following is not task:
            (self._main if following is None else following.gate).release()
            task.gate.acquire()
        if self._over:
            raise SimCrash

    def _live(self, task: Task, body: Callable[[Task], object]) -> None:
        task.gate.acquire()
        try:
            if not self._over:
                body(task)
        except SimCrash:
            pass
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it belongs to the run and is raised there
            self._fail(failure)
        self._tasks.remove(task)
        self._hand_over()

    def _hand_over(self) -> None:
        following = None if self._over else self._guarded_next()
        (self._main if following is None else following.gate).release()

    def _fail(self, failure: BaseException) -> None:
        if self.failure is None:
            self.failure = failure
        self._over = True

    def _guarded_next(self) -> Task | None:
        """Return who runs next; None when it is over."""
        try:
            return self._next()
        except BaseException as failure:  # noqa: BLE001 - as above
            self._fail(failure)
            return None

    def _next(self) -> Task | None:
        while not self._over:
            self.steps += 1
            if self.steps > self._steps_max:
                raise StuckError(f"not at its end after {self._steps_max} turns, at {self.now_ms} ms")
            task = self._earliest()
            if self._events and (task is None or self._events[0][0] <= task.wake_ms):
                time_ms, _, event = heapq.heappop(self._events)
                self._advance(time_ms)
                event()
                continue
            if task is None:
                raise StuckError(f"nobody is left to run at {self.now_ms} ms")
            self._advance(task.wake_ms)
            return task
        return None

    def _earliest(self) -> Task | None:
        """Return the worker that wakes first; among several, chance decides."""
        if len(self._tasks) < 2:
            return self._tasks[0] if self._tasks else None
        wake_ms = max(self.now_ms, min(task.wake_ms for task in self._tasks))
        ready = [task for task in self._tasks if task.wake_ms <= wake_ms]
        return ready[0] if len(ready) == 1 else self._rng.choice(ready)

    def _advance(self, time_ms: int) -> None:
        if time_ms > self.now_ms:
            self.now_ms = time_ms
            self._tick(time_ms)
