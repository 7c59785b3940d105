"""The model's topics behave as Kafka's do: what a reader finds, what stops it, what retention and compaction leave."""

import pytest

from tests.sim.rig_steps import fetched, offsets, read, until
from tests.sim.rigs import Rig
from worker.core.events import InputTopic
from worker.ports import Bounds, PositionGoneError, SourceError

_PREDICTIONS, _LABELS, _STATE = InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.STATE
_FEEDBACK = InputTopic.FEEDBACK


def test_the_last_stable_offset_holds_readers_of_committed_records(rig: Rig) -> None:
    """What comes after the first record of an open transaction waits for it, whoever wrote it; aborted ones vanish."""
    first, second = rig.transaction("first"), rig.transaction("second")
    rig.fill(_PREDICTIONS, 0, [b"a"])
    first.write(_PREDICTIONS, 0, b"b")
    second.write(_PREDICTIONS, 0, b"c")
    rig.fill(_PREDICTIONS, 0, [b"d"])
    assert second.end(committed=True)
    source, reader = rig.source(), rig.history().open(_PREDICTIONS, 0, 0)
    source.attach(0, 0, 0, 0)
    assert offsets(fetched(rig, source, 1)) == [0]
    assert offsets(read(rig, reader, 1)) == [0]
    assert rig.history().bounds(_PREDICTIONS, 0) == Bounds(0, 5)
    assert source.fetch(10, 50) == []
    assert first.end(committed=False)
    assert offsets(fetched(rig, source, 2)) == [2, 3]
    assert offsets(read(rig, reader, 2)) == [2, 3]
    reader.close()


def test_state_is_read_whether_it_is_committed_or_not(rig: Rig) -> None:
    """A reader of state sees open and aborted records, unless it asks for committed ones; others never do."""
    transactions = [rig.transaction(name) for name in ("committed", "aborted", "open")]
    for number, transaction in enumerate(transactions):
        for topic in (_STATE, _PREDICTIONS):
            transaction.write(topic, 1, b"%d" % number)
    transactions[0].end(committed=True)
    transactions[1].end(committed=False)
    history = rig.history()
    state, predictions = history.open(_STATE, 1, 0), history.open(_PREDICTIONS, 1, 0)
    committed_state = history.open(_STATE, 1, 0, committed=True)
    assert offsets(read(rig, state, 3)) == [0, 1, 2]
    assert offsets(read(rig, predictions, 1)) == [0]
    assert offsets(read(rig, committed_state, 1)) == [0]
    for reader in (predictions, committed_state):
        assert list(reader.read(10, 50).offsets) == []
    until(rig, lambda: history.bounds(_STATE, 1) == Bounds(0, 5))
    transactions[2].end(committed=False)
    for reader in (state, predictions, committed_state):
        until(rig, lambda reader=reader: not reader.read(10, 10).offsets and reader.position() == 6)  # type: ignore[misc]  # mypy does not see that the default has a type
        reader.seek(0)
    assert offsets(read(rig, predictions, 1)) == [0]
    for reader in (state, predictions, committed_state):
        reader.close()


def test_bounds_move_with_deleted_records(rig: Rig) -> None:
    """What is gone is said to be gone: by bounds, by a reader, by the source; the end can be waited at."""
    rig.fill(_LABELS, 2, [b"x"] * 10)
    rig.fill(_PREDICTIONS, 2, [b"x"])
    history = rig.history()
    assert history.bounds(_LABELS, 2) == Bounds(0, 10)
    rig.forget(_LABELS, 2, 4)
    until(rig, lambda: history.bounds(_LABELS, 2) == Bounds(4, 10))
    reader = history.open(_LABELS, 2, 4)
    assert offsets(read(rig, reader, 6)) == [4, 5, 6, 7, 8, 9]
    for gone in (3, 11):
        reader.seek(gone)
        with pytest.raises(PositionGoneError):
            read(rig, reader, 1)
    reader.close()
    source = rig.source()
    source.attach(2, 1, 10, 0)
    assert source.fetch(10, 50) == []
    rig.fill(_LABELS, 2, [b"y"])
    assert offsets(fetched(rig, source, 1)) == [10]
    source.detach([2])
    source.attach(2, 1, 3, 0)
    with pytest.raises(SourceError):
        fetched(rig, source, 1)


def test_compaction_keeps_the_last_committed_record_of_each_key(compacting: Rig) -> None:
    """An aborted record hides nothing, what is open stops it, nothing moves, and the first offset stays."""
    rig, history = compacting, compacting.history()
    for key, value, committed in ((b"a", b"a1", True), (b"a", b"a2", False), (b"b", b"b1", True), (b"b", b"b2", True)):
        transaction = rig.transaction("writer")
        transaction.write(_STATE, 0, value, key)
        assert transaction.end(committed=committed)
    _until_a_new_segment(rig)
    held = rig.transaction("held")
    held.write(_STATE, 0, b"a3", b"a")
    until(rig, lambda: _compacted(rig, [b"a1", b"b2"]))
    assert rig.visible(_STATE, 0) == [(0, b"a1"), (6, b"b2")]
    reader = history.open(_STATE, 0, 7)
    assert offsets(read(rig, reader, 1))[0] == 8
    assert history.bounds(_STATE, 0).first == 0
    assert held.end(committed=True)
    until(rig, lambda: _compacted(rig, [b"b2", b"a3"]))
    assert rig.visible(_STATE, 0)[:2] == [(6, b"b2"), (8, b"a3")]
    assert history.bounds(_STATE, 0).first == 0
    reader.close()


def _until_a_new_segment(rig: Rig) -> None:
    """Wait until the next record begins a new segment: a broker compacts whole ones."""
    for _ in range(12):
        rig.pause()


def _compacted(rig: Rig, expected: list[bytes]) -> bool:
    """Write something after the records in question, let it be compacted, and look whether these are left."""
    filler = rig.transaction("filler")
    filler.write(_STATE, 0, b"filler", b"filler")
    filler.end(committed=True)
    _until_a_new_segment(rig)
    rig.compact_state()
    return [value for _, value in rig.visible(_STATE, 0) if value != b"filler"] == expected


def test_a_source_reads_both_topics_from_exactly_the_given_offsets(rig: Rig) -> None:
    """Each record once, in order; what is detached is silent, and begins anew where it is told."""
    for partition in (0, 1):
        rig.fill(_PREDICTIONS, partition, [b"p%d" % n for n in range(50)])
        rig.fill(_LABELS, partition, [b"l%d" % n for n in range(20)])
    source = rig.source()
    source.attach(0, 10, 5, 0)
    source.attach(1, 50, 0, 0)
    batches = fetched(rig, source, 40 + 15 + 20)
    for topic, partition, begin, end in ((_PREDICTIONS, 0, 10, 50), (_LABELS, 0, 5, 20), (_LABELS, 1, 0, 20)):
        mine = [batch for batch in batches if (batch.topic, batch.partition) == (topic, partition)]
        assert offsets(mine) == list(range(begin, end))
        assert [value for batch in mine for value in batch.values] == [
            b"%s%d" % (topic[0].encode(), n) for n in range(begin, end)
        ]
    source.detach([0, 1, 3])
    rig.fill(_PREDICTIONS, 0, [b"more"])
    assert source.fetch(10, 50) == []
    source.attach(0, 49, 20, 0)
    assert offsets(fetched(rig, source, 2)) == [49, 50]


def test_every_shard_gets_all_feedback_from_its_own_offset(rig: Rig) -> None:
    """Each record once for each shard, in order; who comes later with less behind it takes nobody along."""
    rig.fill(_FEEDBACK, 0, [b"f%d" % n for n in range(30)])
    source, got = rig.source(), dict[int, list[int]]()

    def note(count: int) -> None:
        for batch in fetched(rig, source, count):
            assert batch.topic is _FEEDBACK
            assert list(batch.values) == [b"f%d" % offset for offset in batch.offsets]
            got.setdefault(batch.partition, []).extend(batch.offsets)

    source.attach(1, 0, 0, 20)
    note(10)
    source.attach(3, 0, 0, 25)
    source.attach(2, 0, 0, 5)
    note(25 + 5)
    rig.fill(_FEEDBACK, 0, [b"f%d" % n for n in range(30, 40)])
    note(30)
    assert got == {1: list(range(20, 40)), 2: list(range(5, 40)), 3: list(range(25, 40))}
    source.detach([1, 2, 3])
    rig.fill(_FEEDBACK, 0, [b"f40"])
    assert source.fetch(10, 50) == []
    got.clear()
    source.attach(0, 0, 0, 38)
    note(3)
    assert got == {0: [38, 39, 40]}
