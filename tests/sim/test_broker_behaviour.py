"""The model's transactions and group behave as Kafka's do: the same tests on both, through the ports of the loop."""

from collections.abc import Sequence

import pytest

from tests.sim.rig_steps import alert, is_stable, joined, settled, until, values
from tests.sim.rigs import PARTITIONS, Rig
from worker.core.events import InputTopic, OutputTopic
from worker.ports import Commit, CommitOutcome, Position, PositionUnstableError, StateRecord

_ALERTS, _STATE = OutputTopic.ALERTS, InputTopic.STATE
_COMMITTED, _ABORTED = Commit(CommitOutcome.COMMITTED), Commit(CommitOutcome.ABORTED)
_FENCED = Commit(CommitOutcome.FENCED)


def test_outputs_state_and_positions_become_visible_together(rig: Rig) -> None:
    """One commit, each record once; the position and 4,095 bytes of metadata read back exactly, the rest is told."""
    member = joined(rig)
    sink = rig.sink(member)
    assert member.port.committed([0, 1]) == {0: None, 1: None}
    metadata = "m" * 4_095
    state = [StateRecord(2, b"a", b"1"), StateRecord(0, b"b", b"2"), StateRecord(2, b"c", None)]
    positions = {0: Position(7, metadata, 3), 3: Position(11, "")}
    assert sink.commit([alert(b"one"), alert(b"two"), alert(b"of 3", 3)], positions, state) == Commit(
        CommitOutcome.COMMITTED, (0, 0, 1)
    )
    assert settled(rig, member) == Position(7, metadata)
    assert settled(rig, member, 3) == Position(11, "")
    assert member.port.committed([0, 1]) == {0: Position(7, metadata), 1: None}
    assert (values(rig), values(rig, 3)) == ([b"one", b"two"], [b"of 3"])
    assert rig.visible(_STATE, 2) == [(0, b"1"), (1, None)]
    assert sink.commit([], {}) == _COMMITTED


def test_metadata_has_a_limit(rig: Rig) -> None:
    """One byte more than a broker takes is a bug of the caller, found before anything is sent."""
    member = joined(rig)
    sink = rig.sink(member)
    with pytest.raises(AssertionError, match="metadata"):
        sink.commit([alert(b"x")], {0: Position(1, "m" * 4_096)})
    assert sink.commit([alert(b"y")], {0: Position(1, "é" * 2_047)}) == _COMMITTED
    assert values(rig) == [b"y"]


def test_another_generation_aborts_and_the_same_bytes_go_through_later(rig: Rig) -> None:
    """Aborted records keep their offsets and each abort takes one more; nothing of them is visible."""
    member = joined(rig)
    sink = rig.stale_sink(member, 2)
    outputs, positions, state = [alert(b"again")], {0: Position(5)}, [StateRecord(0, b"k", b"v")]
    for _ in range(2):
        assert sink.commit(outputs, positions, state) == _ABORTED
    assert (values(rig), settled(rig, member)) == ([], None)
    assert sink.commit(outputs, positions, state) == Commit(CommitOutcome.COMMITTED, (4,))
    assert (values(rig), settled(rig, member)) == ([b"again"], Position(5))
    until(rig, lambda: rig.visible(_STATE, 0) == [(4, b"v")])


def test_label_offsets_are_committed_beside(rig: Rig) -> None:
    """Together with the position, or not at all; where none is given, the old one stays."""
    member = joined(rig)
    sink = rig.stale_sink(member, 1)
    assert sink.commit([], {0: Position(7, "", 70)}) == _ABORTED
    assert all(offset < 0 for offset in rig.committed_labels())
    assert sink.commit([], {0: Position(7, "", 70), 1: Position(1)}) == _COMMITTED
    assert settled(rig, member) == Position(7)
    assert rig.committed_labels()[0] == 70
    assert rig.committed_labels()[1] < 0


def test_a_zombie_commits_nothing(rig: Rig) -> None:
    """Thrown out while it hung: refused before it learns of it, told that all is lost, refused after that."""
    zombie = joined(rig, hasty=True)
    sink = rig.sink(zombie, "zombie")
    heir = rig.member()
    until(rig, lambda: len(heir.listener.owned) == PARTITIONS, heir)
    assert rig.sink(heir, "heir").commit([alert(b"heir")], {0: Position(20)}) == _COMMITTED
    assert sink.commit([alert(b"zombie")], {0: Position(10)}) == _ABORTED
    until(rig, lambda: not zombie.listener.owned, zombie, heir)
    assert {what for what, _ in zombie.listener.told[1:]} == {"lost"}
    assert sink.commit([alert(b"zombie")], {0: Position(10)}) == _ABORTED
    assert (values(rig), settled(rig, heir)) == ([b"heir"], Position(20))


def test_the_same_transactional_id_fences_the_older_producer(rig: Rig) -> None:
    """The older one is told so, and nothing of it is visible; a replaced sink fences its own former producer only."""
    member = joined(rig)
    older, newer = rig.sink(member), rig.sink(member)
    assert older.commit([alert(b"older")], {0: Position(1)}) == _FENCED
    with pytest.raises(AssertionError, match="replace"):
        older.commit([alert(b"older")], {0: Position(1)})
    assert newer.commit([alert(b"newer")], {0: Position(2)}) == _COMMITTED
    newer.replace()
    assert newer.commit([alert(b"newest")], {0: Position(3)}) == _COMMITTED
    assert values(rig) == [b"newer", b"newest"]


@pytest.mark.parametrize("committed", [True, False])
def test_positions_in_an_open_transaction_are_not_told(rig: Rig, committed: bool) -> None:  # noqa: FBT001 - two cases
    """Until it ends, nobody learns the position of its partitions; others are told. Then the end decides."""
    member = joined(rig)
    assert rig.sink(member).commit([alert(b"before")], {0: Position(1)}) == _COMMITTED
    transaction = rig.transaction("open")
    transaction.write(_ALERTS, 0, b"inside")
    assert settled(rig, member) == Position(1)
    transaction.send_positions(member, {0: Position(2)})
    with pytest.raises(PositionUnstableError):
        member.port.committed([0])
    assert member.port.committed([1]) == {1: None}
    assert transaction.end(committed=committed)
    assert settled(rig, member) == Position(2 if committed else 1)
    assert values(rig) == ([b"before", b"inside"] if committed else [b"before"])


def test_a_new_producer_of_the_same_name_aborts_what_the_old_one_left(rig: Rig) -> None:
    """The old one cannot end it any more."""
    member = joined(rig)
    transaction = rig.transaction("worker")
    transaction.write(_ALERTS, 0, b"orphan")
    transaction.send_positions(member, {0: Position(9)})
    sink = rig.sink(member)
    assert (settled(rig, member), values(rig)) == (None, [])
    assert not transaction.end(committed=True)
    assert sink.commit([alert(b"mine")], {0: Position(1)}) == _COMMITTED
    assert (settled(rig, member), values(rig)) == (Position(1), [b"mine"])


def test_a_transaction_that_takes_too_long_is_aborted(rig: Rig) -> None:
    """The broker does it by itself; who wakes up later is told that it is fenced."""
    member = joined(rig)
    transaction = rig.transaction("sleeper", timeout_ms=1_000)
    transaction.write(_ALERTS, 0, b"late")
    transaction.send_positions(member, {0: Position(9)})
    until(rig, lambda: is_stable(member), member)
    assert member.port.committed([0]) == {0: None}
    assert not transaction.end(committed=True)
    assert values(rig) == []


def test_a_partition_is_given_up_before_it_is_taken_over(rig: Rig) -> None:
    """The old owner commits in its callback, in the new generation; the new one finds that; the rest stays in place."""
    old = joined(rig)
    sink, outcomes, new_owned = rig.sink(old), list[Commit](), list[set[int]]()

    def give_up(partitions: Sequence[int]) -> None:
        new_owned.append(set(new.listener.owned))
        old.port.poll(old.listener)
        outcomes.append(sink.commit([alert(b"handed over")], {part: Position(100 + part) for part in partitions}))

    old.listener.on_revoke = give_up
    new = rig.member()
    until(rig, lambda: len(old.listener.owned) == len(new.listener.owned) == PARTITIONS // 2, old, new)
    assert (outcomes, new_owned) == ([_COMMITTED], [set()])
    assert old.listener.told[:2] == [("assigned", (0, 1, 2, 3)), ("revoked", tuple(sorted(new.listener.owned)))]
    # Each further generation is told as well: nothing comes.
    assert set(old.listener.told[2:]) == {("assigned", ())}
    assert old.listener.owned.isdisjoint(new.listener.owned)
    for partition in new.listener.owned:
        assert settled(rig, new, partition) == Position(100 + partition)
    kept = set(old.listener.owned)
    rig.leave(old)
    assert old.listener.told[-1] == ("revoked", tuple(sorted(kept)))
    until(rig, lambda: len(new.listener.owned) == PARTITIONS, new)
    assert settled(rig, new, min(kept)) == Position(100 + min(kept))
    assert {what for what, _ in new.listener.told} == {"assigned"}


def test_a_member_keeps_what_it_has_when_others_come(rig: Rig) -> None:
    """A generation in which nothing changes for a member takes nothing from it, and it goes on committing."""
    members = [rig.member() for _ in range(PARTITIONS)]
    until(rig, lambda: all(len(member.listener.owned) == 1 for member in members), *members)
    told, sink = list(members[0].listener.told), rig.sink(members[0])
    one_more = rig.member()
    until(rig, lambda: sink.commit([], {0: Position(1)}) == _COMMITTED, *members, one_more)
    assert set(members[0].listener.told[len(told) :]) <= {("assigned", ())}
    assert one_more.listener.owned == set()
