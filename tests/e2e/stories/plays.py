"""The stories: what goes wrong while events flow. Each one gets a stage with a crew, and leaves a worker well."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.e2e.stories.stage import Stage

STEPS = (
    ("assign_begin", 1),
    ("assign", 1),
    ("committed_lookup", 1),
    ("init", 1),
    ("begin", 3),
    ("produce", 1),
    ("produce", 7),
    ("flush", 4),
    ("send_offsets", 3),
    ("commit:0", 2),
    ("commit:1", 4),
    ("commit:3", 6),
    ("committed", 1),
    ("committed", 5),
    ("poll", 1),
    ("poll", 9),
    ("state_produce", 1),
    ("state_produce", 5),
    ("state_read", 1),
    ("state_read", 2),
    ("replay_read", 1),
    ("replay_read", 1),
)
"""Named steps of `tests/e2e/faults/steps.py`, and at which occurrence; the last two: twice in a row in a restore."""

_STEP_MAX_S = 30.0


class Tally(NamedTuple):
    """What a play did."""

    faults: int
    missed: int = 0
    """Faults that did not come to pass: the step was not reached in time, and the worker was killed where it was."""


def killed_at_each_step(stage: Stage, steps: tuple[tuple[str, int], ...] = STEPS) -> Tally:
    """One worker after the other is killed at a named step; the next one takes over from there."""
    missed = 0
    for number, (step, count) in enumerate(steps):
        name = f"doomed-{number}"
        stage.crew.start(name, step=step, count=count)
        if stage.crew.wait(name, _STEP_MAX_S) is None:
            missed += 1
            stage.crew.kill(name)
    stage.crew.start("well")
    return Tally(len(steps), missed)


def storm(stage: Stage, seconds: float = 30.0, seed: int = 1, workers: int = 4) -> Tally:
    """Workers come, are killed and leave, about one each second."""
    rng = random.Random(seed)
    alive = [f"w{number}" for number in range(workers)]
    for name in alive:
        stage.crew.start(name)
    faults, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.5, 2.0))
        name = rng.choice(alive)
        if rng.random() < 0.6:
            stage.crew.kill(name)
        else:
            stage.crew.stop(name)
        stage.crew.start(name)
        faults += 1
    return Tally(faults)


def all_at_once(stage: Stage, times: int = 3) -> Tally:
    """All workers are killed at the same moment, again and again."""
    for _ in range(times):
        for name in ("a", "b"):
            stage.crew.start(name)
        time.sleep(6)
        for name in ("a", "b"):
            stage.crew.kill(name)
    stage.crew.start("a")
    return Tally(times)


def zombies(stage: Stage) -> Tally:
    """A worker sleeps longer than its session, then longer than its transaction, and wakes while another one writes."""
    for name in ("sleeper", "other"):
        stage.crew.start(name)
    for name in ("sleeper", "other"):
        stage.crew.wait_until_said(name, '"partition live"')
    for seconds in (1.0, 5.0, 9.0):
        stage.crew.pause("sleeper")
        time.sleep(seconds)
        stage.crew.resume("sleeper")
        time.sleep(3)
    return Tally(3)


def zombie_in_a_transaction(stage: Stage, steps: tuple[str, ...] = ("flush", "send_offsets", "produce")) -> Tally:
    """A worker falls asleep inside of a transaction, others take over, and it wakes with its finger on the button."""
    stage.crew.start("other")
    stage.crew.wait_until_said("other", '"partition live"', 4)
    for number, step in enumerate(steps):
        stage.crew.start_asleep(f"sleeper-{number}", step, 6)
        time.sleep(9)
        stage.crew.resume(f"sleeper-{number}")
        time.sleep(2)
        stage.crew.kill(f"sleeper-{number}")
    return Tally(len(steps))


def scaled(stage: Stage) -> Tally:
    """From one worker to five and back to one."""
    names = [f"w{number}" for number in range(5)]
    for name in names:
        stage.crew.start(name)
        time.sleep(1.5)
    for name in names[:-1]:
        # -15: told to stop before it had begun to listen.
        assert stage.crew.stop(name) in {0, -15}
    return Tally(8)


class Play(NamedTuple):
    """A story that needs nothing but a broker that stays up."""

    run: Callable[[Stage], Tally]
    environment: dict[str, str] | None = None
    settings: tuple[str, ...] = ()


PLAYS = {
    "kill -9 at each step": Play(killed_at_each_step),
    "group storm, 4 workers": Play(storm),
    "all workers killed at once": Play(all_at_once),
    "paused beyond session and transaction": Play(zombies),
    "asleep inside a transaction": Play(zombie_in_a_transaction),
    "scale 1 to 5 to 1": Play(scaled),
}
