"""Segments: bounded values whose ids are never used again, and a stored state that is taken back or refused."""

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.performance.segments import OTHER, OTHER_NAME, VALUE_CHARS_MAX, Segment, Segments, StoredValue

Row = Sequence[str | None]
VALUES_MAX, IDLE = 2, 3


def ids_of(segments: Segments, rows: Sequence[Row], size: int, begin: int = 0) -> tuple[list[list[int]], list[str]]:
    """The ids of events that come in batches of a size, and the values that gave way: `number place name`."""
    ids: list[list[int]] = []
    gone: list[str] = []
    while len(ids) < len(rows):
        done = len(ids)
        some, evicted = segments.ids(rows[done : done + size], begin + done)
        assert some
        ids += some
        gone += [f"{done} {each.place} {each.value.name}" for each in evicted]
    return ids, gone


def naive_ids(rows: Sequence[Row]) -> tuple[list[list[int]], list[str]]:
    """The naive twin: for each segment a dictionary of (id, last event), one event after the other."""
    places = len(rows[0]) if rows else 0
    tables: list[dict[str, tuple[int, int]]] = [{} for _ in range(places)]
    used = [0] * places
    ids: list[list[int]] = []
    gone = []
    for number, row in enumerate(rows):
        for place, (table, name) in enumerate(zip(tables, row, strict=True)):
            if name is not None and name not in table and len(table) == VALUES_MAX:
                oldest = min(table, key=lambda each: table[each][::-1])
                if number - table[oldest][1] > IDLE:
                    del table[oldest]
                    gone.append(f"{number} {place} {oldest}")
        ids.append([])
        for place, (table, name) in enumerate(zip(tables, row, strict=True)):
            if name is not None and (name in table or len(table) < VALUES_MAX):
                if name not in table:
                    used[place] += 1
                table[name] = table[name][0] if name in table else used[place], number
                ids[-1].append(table[name][0])
            else:
                ids[-1].append(OTHER)
    return ids, gone


@given(
    rows=st.lists(st.tuples(*[st.sampled_from(["a", "b", "c", "d", None])] * 2), max_size=40),
    size=st.integers(1, 41),
)
@settings(max_examples=300, deadline=None)
def test_equals_its_naive_twin_in_any_cut(rows: list[Row], size: int) -> None:
    """Ids, and which value gives way at which event, are those of one event after the other; no id comes twice."""
    segments = Segments(("one", "two"), VALUES_MAX, IDLE)
    ids, gone = ids_of(segments, rows, size)
    assert (ids, gone) == naive_ids(rows)
    for place in (0, 1):
        names: dict[int, set[str | None]] = {}
        for row, found in zip(rows, ids, strict=True):
            names.setdefault(found[place], set()).add(row[place])
        assert all(len(each) == 1 for value_id, each in names.items() if value_id != OTHER)
        assert len(segments.all[place].values) <= VALUES_MAX


def test_a_value_without_room_is_other() -> None:
    """Until a value was idle for long enough, a new one counts as `(other)`, and so does an event without a value."""
    segments = Segments(("region",), 2, 3)
    rows: list[Row] = [["a"], ["b"], ["c"], [None], ["b"], ["c"]]
    assert ids_of(segments, rows, 10) == ([[1], [2], [0], [0], [2], [3]], ["5 0 a"])
    assert (segments.name(0, 3), segments.name(0, 1), segments.name(0, OTHER)) == ("c", OTHER_NAME, OTHER_NAME)
    assert (segments.is_live(0, 3), segments.is_live(0, 1), segments.is_live(0, OTHER)) == (True, False, False)


def test_a_value_that_comes_back_has_a_new_id() -> None:
    """What was published of the old one is not continued."""
    segments = Segments(("region",), 1, 1)
    ids, gone = ids_of(segments, [["a"], [None], ["b"], [None], ["a"]], 10)
    assert ids == [[1], [0], [2], [0], [3]]
    assert gone == ["2 0 a", "4 0 b"]


def test_a_batch_stops_before_a_value_gives_way() -> None:
    """Except at its first event, so that the caller finishes what came before."""
    segments = Segments(("region",), 1, 1)
    ids, evicted = segments.ids([["a"], [None], ["b"], ["b"]], 0)
    assert (ids, evicted) == ([[1], [0]], [])
    ids, evicted = segments.ids([["b"], ["b"]], 2)
    assert ids == [[2], [2]]
    assert [(each.place, each.value.name, each.value.id) for each in evicted] == [(0, "a", 1)]


def test_long_values_are_one_if_they_begin_alike() -> None:
    """A value is published with every record, so it is cut."""
    segments = Segments(("region",), 3, 10)
    assert segments.ids([["x" * 200], ["x" * 300], ["x" * VALUE_CHARS_MAX]], 0)[0] == [[1], [1], [1]]
    assert segments.name(0, 1) == "x" * VALUE_CHARS_MAX


def stored() -> list[Segment]:
    """The state of a segment with the values b (2) and c (3), as it comes from bytes."""
    segments = Segments(("region",), 2, 3)
    ids_of(segments, [["a"], ["b"], [None], [None], ["b"], ["c"]], 10)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(segments.all), type=list[Segment])


def restored(state: Sequence[Segment]) -> Segments:
    """Segments with a state."""
    segments = Segments(("region",), 2, 3)
    segments.restore(state)
    return segments


def test_what_was_stored_goes_on() -> None:
    """Known values keep their ids, the next one is new, and who is idle is remembered."""
    segments = restored(stored())
    assert segments.all == stored()
    assert ids_of(segments, [["c"], ["b"], [None], [None], [None], ["d"]], 10, begin=6) == (
        [[3], [2], [0], [0], [0], [4]],
        ["5 0 c"],
    )


DAMAGES: dict[str, Callable[[Segment], object]] = {
    "they are others": lambda segment: setattr(segment, "name", "device"),
    "there are too many values": lambda segment: segment.values.update(x=StoredValue("x", 1, 0)),
    "a value has another's name": lambda segment: setattr(segment.values["b"], "name", "c"),
    "ids are out of range": lambda segment: setattr(segment, "next_id", 3),
    "an id is there twice": lambda segment: setattr(segment.values["b"], "id", 3),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_what_cannot_be_is_refused(reason: str) -> None:
    """Other segments, too many values, names and ids that contradict each other."""
    state = stored()
    DAMAGES[reason](state[0])
    with pytest.raises(ValueError, match=f"stored segments: {reason}"):
        restored(state)


@pytest.mark.parametrize("damaged", [0, -1])
def test_ids_of_no_value_are_refused(damaged: int) -> None:
    """0 is `(other)`, and less is nothing at all."""
    state = stored()
    state[0].values["b"].id = damaged
    with pytest.raises(ValueError, match="ids are out of range"):
        restored(state)


def test_segments_that_are_missing_are_refused() -> None:
    """The state of no segment does not pass for that of one."""
    with pytest.raises(ValueError, match="they are others"):
        restored([])


def test_ids_end_before_they_overflow() -> None:
    """They are stored in 32 bits: a state beyond is refused, and at the end new values count as `(other)`."""
    state = stored()
    state[0].next_id = 2**31
    with pytest.raises(ValueError, match="ids are out of range"):
        restored(state)
    state = [Segment("region", {}, 2**31 - 2)]
    assert ids_of(restored(state), [["a"], ["b"], ["a"]], 10)[0] == [[2**31 - 2], [OTHER], [2**31 - 2]]
