"""Law 3: any way of cutting a shard's stream into batches gives bit-identical state and outputs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams import cut, records, run
from worker.core.events import OutputTopic

EVENTS = 600


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, EVENTS - 1), max_size=40))
def test_random_cuts_change_nothing(seed: int, cuts: set[int]) -> None:
    """A stream with missing features, new models and bad records gives the same bytes however it is cut."""
    stream = records(seed, EVENTS)
    whole, one = run(cut(stream, []))
    parts, many = run(cut(stream, cuts))
    assert parts == whole
    assert many.digest(0) == one.digest(0)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_equal_cuts_change_nothing(size: int) -> None:
    """Batches of one record give the same bytes as one batch of all."""
    stream = records(size, 2 * EVENTS)
    whole, one = run(cut(stream, []))
    parts, many = run(cut(stream, range(0, len(stream), size)))
    assert parts == whole
    assert many.digest(0) == one.digest(0)


def test_the_streams_reach_everything() -> None:
    """The property is not empty: its streams close panes, freeze schemas, refit, open and resolve incidents."""
    outputs, engine = run(cut(records(1, 3000), []))
    topics = {output.topic for output in outputs}
    assert topics == set(OutputTopic)
    text = b"".join(output.value or b"" for output in outputs)
    for part in (
        b'"opened"',
        b'"updated"',
        b'"resolved"',
        b'"schema_frozen"',
        b'"detector_refitted"',
        b'"late_events":1',
    ):
        assert part in text
    assert engine.models == 4


def test_outputs_leave_in_the_order_of_offsets() -> None:
    """Outputs are ordered by the offset that caused them, over all models of the shard."""
    outputs, _ = run(cut(records(2, EVENTS), range(0, EVENTS, 50)))
    offsets = [output.offset for output in outputs]
    assert offsets == sorted(offsets)
