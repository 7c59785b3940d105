"""How long labels wait for predictions, where fetches are full of other records."""

import pytest

from worker.alignment import Alignment
from worker.core.events import InputTopic, RawBatch

HOLD_MS = 2_000
LONG_MS = 10 * HOLD_MS


def batch(topic: InputTopic, *stamps_ms: int) -> RawBatch:
    """Return records of partition 0 with these timestamps."""
    nothing = [None] * len(stamps_ms)
    return RawBatch(0, range(len(stamps_ms)), list(stamps_ms), nothing, nothing, nothing, topic)


@pytest.fixture
def alignment() -> Alignment:
    """One that holds a label of a time to which the predictions have not come."""
    made = Alignment(HOLD_MS, 100)
    made.begin(0, 0)
    made.predictions_came(batch(InputTopic.PREDICTIONS, 10))
    assert not made.release(0, lambda _: True, is_dry=False)
    made.hold(batch(InputTopic.LABELS, 90_000), 0)
    return made


def released_at(alignment: Alignment, *, is_dry: bool, comes: bool, is_more: bool = True) -> int | None:
    """Return when the label is taken, if there is a fetch each 5 s; None: not within ten times as long."""
    for now_ms in range(5_000, 10 * LONG_MS, 5_000):
        if comes:
            alignment.predictions_came(batch(InputTopic.PREDICTIONS, 10))
        if alignment.release(now_ms, lambda _: is_more, is_dry=is_dry):
            return now_ms
    return None


def test_full_fetches_of_others_are_no_silence(alignment: Alignment) -> None:
    """The partition's predictions are still in Kafka."""
    assert released_at(alignment, is_dry=False, comes=False) is None
    assert alignment.release(20 * LONG_MS, lambda _: False, is_dry=True)


def test_fetches_that_take_all_there_is_are_silence(alignment: Alignment) -> None:
    """Behind a transaction Kafka seems to have more for ever."""
    assert released_at(alignment, is_dry=True, comes=False) == LONG_MS


def test_labels_behind_the_last_prediction_do_not_wait_for_others(alignment: Alignment) -> None:
    """Kafka has none of the partition any more, however long other partitions fill the fetches."""
    assert released_at(alignment, is_dry=False, comes=False, is_more=False) == 5_000


def test_a_wrong_timestamp_holds_labels_up_for_a_while_only(alignment: Alignment) -> None:
    """In a backlog, too: the predictions come, but never as far."""
    assert released_at(alignment, is_dry=False, comes=True) == LONG_MS


def test_a_long_turn_is_no_silence(alignment: Alignment) -> None:
    """What was fetched before it comes as far as the first labels; the others go on waiting for theirs."""
    alignment.hold(batch(InputTopic.LABELS, 95_000), 0)
    alignment.predictions_came(batch(InputTopic.PREDICTIONS, 90_000))
    assert len(alignment.release(2 * LONG_MS, lambda _: True, is_dry=True)) == 1
    assert not alignment.release(3 * LONG_MS - 1, lambda _: True, is_dry=True)
    assert len(alignment.release(3 * LONG_MS, lambda _: True, is_dry=True)) == 1
