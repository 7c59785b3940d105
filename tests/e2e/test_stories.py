"""The fault stories that are short enough for every run; `make soak` tells all of them."""

from functools import partial

import pytest

from tests.e2e.stories.performance import perform
from tests.e2e.stories.plays import killed_at_each_step, zombie_in_a_transaction
from tests.e2e.stories.stage import Stage

STEPS = (
    ("send_offsets", 3),
    ("commit:1", 4),
    ("state_produce", 5),
    ("replay_read", 1),
)
"""The four that leave most behind; the soak kills at all of them."""


@pytest.mark.timeout(180)
def test_workers_killed_at_named_steps(kafka: str, topic_prefix: str) -> None:
    """Each one dies at another step; together they answer everything once, with the state of an undisturbed run."""
    result = perform(Stage(kafka, topic_prefix), partial(killed_at_each_step, steps=STEPS))
    result.check()
    assert result.tally.missed == 0


@pytest.mark.timeout(180)
def test_a_worker_asleep_inside_its_transaction(kafka: str, topic_prefix: str) -> None:
    """It wakes when others have taken over, and nothing that it still writes is visible."""
    perform(Stage(kafka, topic_prefix), partial(zombie_in_a_transaction, steps=("send_offsets",))).check()
