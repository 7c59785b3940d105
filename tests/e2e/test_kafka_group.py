"""The group against a real broker: who owns what, who may commit, and what a static member is."""

import time
from collections.abc import Mapping, Sequence

import pytest

from tests.e2e.kafka_corner import QUICK, Cluster, alert, joined, until
from tests.sim.rigs import PARTITIONS, Listener
from worker.core.events import InputTopic, OutputTopic
from worker.edges.kafka import FencedMemberError
from worker.ports import Commit, CommitOutcome, Position, SourceError

_COMMITTED = Commit(CommitOutcome.COMMITTED)
_ABORTED = Commit(CommitOutcome.ABORTED)
_ALL = set(range(PARTITIONS))
_IN_ORDER = tuple(sorted(_ALL))


def test_two_members_share_and_hand_over(cluster: Cluster) -> None:
    """The second member gets half, with what the first one committed while giving it up; then all, when that leaves."""
    first = cluster.member()
    sink = cluster.sink(first)
    outcomes: list[Commit] = []

    def commit(partitions: Sequence[int]) -> None:
        positions = {partition: Position(100 + partition) for partition in partitions}
        outcomes.append(sink.commit([alert(b"handed over")], positions))

    one, two = Listener(commit), Listener()
    until(lambda: len(one.owned) == PARTITIONS, (first, one))
    second = cluster.member()
    until(lambda: len(one.owned) == len(two.owned) == PARTITIONS // 2, (first, one), (second, two))
    assert one.owned.isdisjoint(two.owned)
    assert second.committed(sorted(two.owned)) == {partition: Position(100 + partition) for partition in two.owned}
    first.close(one)
    until(lambda: len(two.owned) == PARTITIONS, (second, two))
    assert second.committed([0, 1, 2, 3]) == {partition: Position(100 + partition) for partition in range(4)}
    assert set(outcomes) == {_COMMITTED}
    assert cluster.values(OutputTopic.ALERTS) == [b"handed over"] * len(outcomes)
    second.close(two)


def test_a_zombie_cannot_commit(cluster: Cluster) -> None:
    """A worker that hung until others took its partitions gets nothing through, before and after it learns of it."""
    hung, mine = joined(cluster, QUICK)
    sink = cluster.sink(hung, "hung")
    successor, theirs = cluster.member(), Listener()
    until(lambda: len(theirs.owned) == PARTITIONS, (successor, theirs))
    heir = cluster.sink(successor, "heir")
    assert heir.commit([alert(b"heir")], {0: Position(20)}) == _COMMITTED
    assert sink.commit([alert(b"zombie")], {0: Position(10)}) == _ABORTED
    until(lambda: mine.lost_ones == {0, 1, 2, 3}, (hung, mine))
    assert sink.commit([alert(b"zombie")], {0: Position(10)}) == _ABORTED
    assert cluster.values(OutputTopic.ALERTS) == [b"heir"]
    assert successor.committed([0]) == {0: Position(20)}
    hung.close(mine)
    successor.close(theirs)


def test_a_topic_that_is_deleted_stops_the_worker(cluster: Cluster) -> None:
    """A worker without its topic must not look idle. The data consumer does not notice; the membership does."""
    member, listener = joined(cluster, {"topic.metadata.refresh.interval.ms": "300"})
    cluster.delete(cluster.input)
    with pytest.raises(SourceError, match="does not exist"):
        until(lambda: False, (member, listener))
    member.close(listener)


def test_a_group_without_its_topic_says_so(cluster: Cluster) -> None:
    """A group whose topic does not exist never assigns anything: it says so instead of waiting."""
    cluster.topics[InputTopic.PREDICTIONS] = "no-such-topic"
    member, listener = cluster.member({"topic.metadata.propagation.max.ms": "500"}), Listener()
    with pytest.raises(SourceError, match="does not exist"):
        until(lambda: False, (member, listener))
    member.close(listener)


def test_an_exception_in_a_group_callback_reaches_the_loop(cluster: Cluster) -> None:
    """A failed assertion inside a callback must crash the worker, not vanish in librdkafka."""

    class Broken(Listener):
        def assigned(self, partitions: Sequence[int]) -> None:
            assert not partitions, "broken on purpose"

    member = cluster.member()
    with pytest.raises(AssertionError, match="on purpose"):
        until(lambda: False, (member, Broken()))
    member.close(Listener())


@pytest.mark.parametrize(("protocol", "fenced"), [("classic", 0), ("consumer", 1)])
def test_a_static_id_used_twice_is_named(cluster: Cluster, protocol: str, fenced: int) -> None:
    """Two workers with one instance id: one of them stops, says why, and gets nothing through; the other one works on.

    Under the classic protocol the newer one wins, under the newer protocol the older one.
    """
    properties = {"group.protocol": protocol}
    pairs = [joined(cluster, properties, "twin")]
    sink = cluster.sink(pairs[0][0])
    pairs.append((cluster.member(properties, "twin"), Listener()))
    with pytest.raises(FencedMemberError, match=r"static member id twin: give each worker .*\[worker\] instance_id"):
        until(lambda: False, *pairs)
    (loser, told), (winner, listener) = pairs[fenced], pairs[1 - fenced]
    until(lambda: listener.owned == _ALL, (winner, listener))
    assert told.owned == set()
    if fenced == 0:
        assert told.lost_ones == _ALL
        assert sink.commit([alert(b"loser")], {0: Position(1)}) == _ABORTED
    assert cluster.sink(winner).commit([alert(b"winner")], {0: Position(2)}) == _COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"winner"]
    loser.close(told)
    winner.close(listener)


def test_a_static_member_that_comes_back_in_time_has_its_partitions_again(cluster: Cluster) -> None:
    """A restart within the session timeout is no rebalance: no partition moves, neither its own nor the others'."""
    stays, quiet = cluster.member({}, "stays"), Listener()
    until(lambda: quiet.owned == _ALL, (stays, quiet))
    leaves = cluster.member({}, "leaves")
    sink = cluster.sink(leaves)
    first = Listener(lambda partitions: sink.commit([], {partition: Position(100) for partition in partitions}))
    until(lambda: len(first.owned) == len(quiet.owned) == PARTITIONS // 2, (stays, quiet), (leaves, first))
    owned, told = set(first.owned), list(quiet.told)
    leaves.close(first)
    assert first.told[-1] == ("revoked", tuple(sorted(owned)))
    again, second = cluster.member({}, "leaves"), Listener()
    until(lambda: second.owned == owned, (stays, quiet), (again, second))
    # The end of the rebalance before may reach it late, and moves nothing either.
    assert set(quiet.told[len(told) :]) <= {("assigned", ())}
    assert again.committed(sorted(owned)) == {partition: Position(100) for partition in owned}
    assert cluster.sink(again).commit([], {min(owned): Position(3)}) == _COMMITTED
    again.close(second)
    stays.close(quiet)


def test_a_static_member_that_stays_away_is_replaced_within_12_seconds(cluster: Cluster) -> None:
    """It says nothing when it leaves, as one that was killed: with our own settings, that is how long others wait."""
    heir, theirs = cluster.member({}, "heir"), Listener()
    until(lambda: theirs.owned == _ALL, (heir, theirs))
    leaves, mine = cluster.member({}, "leaves"), Listener()
    until(lambda: len(mine.owned) == PARTITIONS // 2, (leaves, mine), (heir, theirs))
    leaves.close(mine)
    left = time.monotonic()
    until(lambda: theirs.owned == _ALL, (heir, theirs))
    assert 4.0 < time.monotonic() - left < 12.0
    heir.close(theirs)


@pytest.mark.parametrize("properties", [QUICK, {"group.protocol": "consumer", "max.poll.interval.ms": "1500"}])
def test_a_static_member_that_hung_joins_again_under_its_id(cluster: Cluster, properties: Mapping[str, str]) -> None:
    """Its former self must not be taken for another process with the same id."""
    member, listener = joined(cluster, properties, "hangs")
    for _ in range(2):
        time.sleep(2.5)
        listener.told.clear()
        until(lambda: listener.told[:1] == [("lost", _IN_ORDER)] and listener.owned == _ALL, (member, listener))
        # A busy broker may first assign nothing, and then all.
        assert [what for what, partitions in listener.told if partitions] == ["lost", "assigned"]
    assert cluster.sink(member).commit([], {0: Position(3)}) == _COMMITTED
    member.close(listener)


def test_a_user_may_choose_the_session_timeout(cluster: Cluster) -> None:
    """Ours is a default: one who has set another one keeps it."""
    heir, theirs = cluster.member(QUICK, "heir"), Listener()
    leaves, mine = cluster.member(QUICK, "leaves"), Listener()
    until(lambda: len(mine.owned) == PARTITIONS // 2, (leaves, mine), (heir, theirs))
    leaves.close(mine)
    left = time.monotonic()
    until(lambda: theirs.owned == _ALL, (heir, theirs))
    assert time.monotonic() - left < 4.0
    heir.close(theirs)
