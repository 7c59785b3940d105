"""The loop's order, against scripted ports: what is committed together, sent again, dropped, and when."""

import json
from collections.abc import Mapping, Sequence

import pytest

from tests.streams import SMALL, START_MS, Record, batch, records
from tests.world import World
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine, Handled
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch
from worker.core.journal import Entry, EntryKind, Origin, decode_entries, decode_pointer
from worker.core.shard import Topics
from worker.lagging import AlertCause, Lag
from worker.loop import CommitFailedError, FencedError, Loop, LoopOptions, Ports, StateRefusedError
from worker.observer import Observer, Shards
from worker.ports import Commit, CommitOutcome, Position, StateRecord
from worker.recovery.restores import RestoresOptions
from worker.recovery.snapshots import SnapshotOptions
from worker.recovery.track import Identity

IDENTITY = Identity("group", Origin("cluster", "p", "l", "s", "f"), "options", "libraries", policy="alerts")
NEVER = SnapshotOptions(interval_ms=10**9)


@pytest.fixture
def world() -> World:
    """A world in which this worker owns partition 0."""
    made = World()
    made.group.append(("assigned", [0]))
    return made


class Listener(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def refused(self, partition: int, kind: str, message: str) -> None:
        self.told.append(f"refused {partition} {kind}")

    def noted(self, partition: int, message: str) -> None:
        self.told.append(f"noted {partition} {message}")

    def abandoned(self, partitions: Sequence[int]) -> None:
        self.told.append(f"abandoned {list(partitions)}")


def loop_of(
    world: World,
    options: LoopOptions | None = None,
    identity: Identity = IDENTITY,
    observer: Observer | None = None,
) -> Loop:
    """Return a loop whose every port is the world."""
    engine = Engine(SMALL, Topics(), InlineRefits())
    return Loop(
        engine, Ports(world, world, world, world, world), identity, options or LoopOptions(snapshots=NEVER), observer
    )


def digest_of(loop: Loop, partition: int = 0) -> str:
    """Return the checksum of a shard's whole state."""
    return loop._engine.digest(partition)


def live(world: World, loop: Loop) -> Loop:
    """Let the loop take its partitions: that there is no position must be told twice, half a second apart."""
    for _ in range(5):
        loop.step()
    return loop


def bad(count: int) -> list[Record]:
    """Records that each give one output at once: a dead letter."""
    return [(b"bad", START_MS)] * count


def good(count: int) -> list[Record]:
    """Records that give no output yet."""
    event = {"event_id": "e", "model_id": "m", "features": {"a": 1}, "prediction": 1}
    return [(json.dumps(event).encode(), START_MS)] * count


def labels(count: int) -> list[Record]:
    """Labels of the same model."""
    return [(b'{"event_id":"e","model_id":"m","label":1}', START_MS)] * count


def said(count: int, begin: int = 0) -> list[Record]:
    """Silences, each of another model that does not exist: they are state, and tell an audit record each."""
    return [(_silence(number), START_MS) for number in range(begin, begin + count)]


def _silence(number: int) -> bytes:
    scope = {"model": f"none{number}"}
    what = {"kind": "silence", "feedback_id": f"f{number}", "author": "a", "reason": "r", "scope": scope}
    return json.dumps(what | {"to": START_MS + 10**9}).encode()


def journal_of(world: World, partition: int = 0) -> list[Entry]:
    """Return the journal that is committed."""
    return decode_entries(decode_pointer(world.stored[partition].metadata).journal)


def tick_until_idle(world: World, loop: Loop) -> None:
    """Let two ticks pass: at the first one the model has just spoken, at the second one it has been silent."""
    for _ in range(2):
        world.now_ms += LoopOptions().idle_close_ms + SMALL.pane_ms + SMALL.pane_grace_ms
        loop.step()


def test_outputs_and_positions_become_visible_together(world: World) -> None:
    """One turn commits what it processed, at the offset after the last record."""
    loop = live(world, loop_of(world))
    world.give(0, bad(3))
    loop.step()
    assert [output.offset for output in world.visible] == [0, 1, 2]
    assert (world.stored[0].offset, world.stored[0].label_offset) == (3, 0)


def test_a_new_shard_begins_where_start_at_says_and_commits_that_at_once(world: World) -> None:
    """A crash before the first record must not move the beginning. Feedback is read from its first record anyway."""
    world.first[InputTopic.FEEDBACK, 0] = 3
    world.give(0, good(5))
    world.give(0, labels(2), InputTopic.LABELS)
    world.give(0, said(4), InputTopic.FEEDBACK)
    world.inbox = []
    job = RestoresOptions().job._replace(start_at="latest")
    live(world, loop_of(world, LoopOptions(restores=RestoresOptions(job=job))))
    assert world.attached == {0: (5, 2, 3)}
    assert (world.stored[0].offset, world.stored[0].label_offset) == (5, 2)
    assert decode_pointer(world.stored[0].metadata).feedback_offset == 3


def test_unstable_positions_are_asked_again(world: World) -> None:
    """While a former owner's transaction is open, the partition is not attached; later it is."""
    world.unstable = 2
    loop = loop_of(world)
    loop.step()
    assert world.attached == {}
    for _ in range(8):
        loop.step()
    assert world.attached == {0: (0, 0, 0)}


def test_that_there_is_no_position_is_believed_at_the_second_time_only(world: World) -> None:
    """A coordinator that has just moved may know nothing yet: to believe it would mean to read everything again."""
    loop = live(world, loop_of(world))
    world.give(0, good(7))
    loop.step()
    forgotten = dict(world.stored)
    world.stored = {}
    world.group = [("assigned", [0])]
    other = loop_of(world)
    other.step()
    assert not other._tracks
    world.stored = forgotten
    live(world, other)
    assert other._tracks[0].offset == 7


def test_a_position_that_vanishes_is_not_taken_for_a_failed_commit(world: World) -> None:
    """The outcome in doubt is looked up again until the position is there; nothing is sent twice."""
    loop = live(world, loop_of(world))
    world.give(0, good(1))
    loop.step()
    world.give(0, bad(2))
    world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], True
    committed, answers = world.committed, iter([{0: None}, {0: None}])
    world.committed = lambda partitions: next(answers, None) or committed(partitions)  # type: ignore[method-assign]  # scripted
    loop.step()
    assert len(world.visible) == 2


def test_an_aborted_transaction_is_sent_again_with_the_same_bytes(world: World) -> None:
    """State is not rolled back; the bytes are kept."""
    loop = live(world, loop_of(world))
    world.give(0, bad(2))
    world.outcomes = [CommitOutcome.ABORTED, CommitOutcome.ABORTED]
    loop.step()
    assert world.sent[-3] == world.sent[-2] == world.sent[-1] == world.visible
    assert world.stored[0].offset == 2


def test_bytes_of_a_partition_that_went_are_not_sent_again(world: World) -> None:
    """After an abort the group is asked; what is no longer ours is dropped, the rest is sent."""
    world.group.append(("assigned", [1]))
    loop = live(world, loop_of(world))
    world.give(0, bad(2))
    world.give(1, bad(1))
    world.outcomes = [CommitOutcome.ABORTED]
    commit = world.commit

    def lose_after_abort(
        outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        world.group.append(("lost", [0]))
        return commit(outputs, positions, state)

    world.commit = lose_after_abort  # type: ignore[method-assign]  # scripted
    loop.step()
    assert {output.shard for output in world.visible} == {1}
    assert (world.stored[0].offset, world.stored[1].offset) == (0, 1)


def test_an_unknown_outcome_that_was_a_success_is_not_repeated(world: World) -> None:
    """The committed positions tell that the transaction went through: nothing is doubled."""
    loop = live(world, loop_of(world))
    world.give(0, bad(2))
    world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], True
    sent = len(world.sent)
    loop.step()
    assert len(world.visible) == 2
    assert (world.replaced, len(world.sent) - sent) == (1, 1)


def test_an_unknown_outcome_that_was_a_failure_is_repeated(world: World) -> None:
    """The committed positions tell that nothing went through: nothing is lost."""
    loop = live(world, loop_of(world))
    world.give(0, bad(2))
    world.outcomes = [CommitOutcome.UNKNOWN]
    sent = len(world.sent)
    loop.step()
    assert len(world.visible) == 2
    assert (world.replaced, len(world.sent) - sent) == (1, 2)


def test_a_fenced_worker_leaves(world: World) -> None:
    """Somebody else writes under this identity: the loop ends with an error, nothing is visible."""
    loop = live(world, loop_of(world))
    world.give(0, bad(1))
    world.outcomes = [CommitOutcome.FENCED]
    with pytest.raises(FencedError):
        loop.step()
    assert world.visible == []


def test_attempts_are_bounded(world: World) -> None:
    """A transaction that never goes through ends the process; the next start tries again."""
    loop = live(world, loop_of(world))
    world.give(0, bad(1))
    world.outcomes = [CommitOutcome.ABORTED] * 100
    sent = len(world.sent)
    with pytest.raises(CommitFailedError):
        loop.step()
    assert len(world.sent) - sent == LoopOptions().commit_attempts_max


def test_the_journal_tells_the_order_in_which_records_were_taken(world: World) -> None:
    """Ranges of both inputs and ticks, as they came, however they were committed."""
    loop = live(world, loop_of(world))
    world.give(0, good(3))
    world.give(0, labels(2), InputTopic.LABELS)
    loop.step()
    world.give(0, good(4))
    loop.step()
    world.give(0, good(1))
    loop.step()
    assert journal_of(world) == [(EntryKind.PREDICTIONS, 3), (EntryKind.LABELS, 2), (EntryKind.PREDICTIONS, 5)]
    tick_until_idle(world, loop)
    kinds = [kind for kind, _ in journal_of(world)]
    assert kinds[3:] == [EntryKind.TICK, EntryKind.TICK]
    world.now_ms += 1_000_000
    loop.step()
    assert len(journal_of(world)) == 5  # nothing is left for a tick to do


def test_a_revoked_partition_is_committed_stored_and_dropped(world: World) -> None:
    """Its new owner finds a snapshot and has nothing to replay; open panes are part of it."""
    loop = live(world, loop_of(world))
    world.give(0, good(7))
    loop.step()
    before = digest_of(loop)
    world.group = [("revoked", [0])]
    loop.step()
    assert world.visible == []
    assert (world.attached, journal_of(world)) == ({}, [])
    world.group = [("assigned", [0])]
    other = live(world, loop_of(world))
    assert world.attached == {0: (7, 0, 0)}
    assert digest_of(other) == before


def test_a_revoke_that_cannot_commit_leaves_the_work_to_the_new_owner(world: World) -> None:
    """What was done and not committed is dropped and told; the new owner does it, once."""
    listener = Listener()
    loop = live(world, loop_of(world, observer=listener))
    world.give(0, bad(2))
    world.outcomes = [CommitOutcome.ABORTED] * 3
    commit = world.commit

    def revoke_after_abort(
        outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        if len(world.outcomes) == 3:
            world.group = [("revoked", [0])]
        return commit(outputs, positions, state)

    world.commit = revoke_after_abort  # type: ignore[method-assign]  # scripted
    loop.step()
    assert (world.visible, world.stored[0].offset, world.attached) == ([], 0, {})
    assert listener.told == ["abandoned [0]"]
    world.group = [("assigned", [0])]
    other = live(world, loop_of(world))
    world.inbox = [batch(0, 0, bad(2))]
    other.step()
    assert (len(world.visible), world.stored[0].offset) == (2, 2)


def test_a_lost_partition_is_dropped_without_a_commit(world: World) -> None:
    """Somebody else owns it already: nothing of it is sent."""
    loop = live(world, loop_of(world))
    world.give(0, good(7))
    loop.step()
    sent = len(world.sent)
    world.group = [("lost", [0])]
    loop.step()
    assert len(world.sent) == sent
    assert world.visible == []


def test_an_idle_partition_closes_its_panes(world: World) -> None:
    """When nothing comes any more, the pane is published without waiting for a later event."""
    loop = live(world, loop_of(world))
    world.give(0, good(7))
    loop.step()
    tick_until_idle(world, loop)
    (metric,) = world.visible
    assert b'"events":7' in (metric.value or b"")
    assert world.stored[0].offset == 7


@pytest.mark.parametrize("hidden", [False, True])
def test_an_idle_tick_in_doubt_is_neither_lost_nor_doubled(world: World, hidden: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The generation in the position tells whether it became visible, though the offset is the same."""
    loop = live(world, loop_of(world))
    world.give(0, good(7))
    loop.step()
    world.now_ms += LoopOptions().idle_close_ms
    loop.step()
    world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], hidden
    world.now_ms += LoopOptions().idle_close_ms + SMALL.pane_ms + SMALL.pane_grace_ms
    loop.step()
    assert len(world.visible) == 1
    assert world.replaced == 1


def test_stopping_leaves_cleanly(world: World) -> None:
    """A stop finishes the batch, stores, commits, and closes everything; a restart goes on with nothing to replay."""
    loop = live(world, loop_of(world))
    world.give(0, good(3))
    loop.step()
    before = digest_of(loop)
    loop.run(lambda: True)
    assert world.closed == ["membership", "other", "other"]
    assert (world.stored[0].offset, journal_of(world)) == (3, [])
    world.group = [("assigned", [0])]
    assert digest_of(live(world, loop_of(world))) == before


def test_a_crash_is_repaired_by_replay(world: World) -> None:
    """Without any snapshot, and with one: the state is that of the first run, and nothing is published twice."""
    for options in (LoopOptions(snapshots=NEVER), LoopOptions(snapshots=SnapshotOptions(interval_ms=300))):
        fresh = World()
        fresh.group = [("assigned", [0])]
        loop = live(fresh, loop_of(fresh, options))
        stream = records(5, 300)
        for begin in range(0, 300, 20):
            fresh.give(0, stream[begin : begin + 20])
            fresh.give(0, said(1, begin), InputTopic.FEEDBACK)
            fresh.give(0, labels(1), InputTopic.LABELS)
            loop.step()
        before, published = digest_of(loop), list(fresh.visible)
        fresh.group = [("assigned", [0])]  # the first loop is gone without a word
        other = live(fresh, loop_of(fresh, options))
        assert digest_of(other) == before
        assert fresh.visible == published


def test_a_long_journal_forces_a_snapshot(world: World) -> None:
    """Predictions and labels in turn fill the journal; it never outgrows the metadata."""
    loop = live(world, loop_of(world))
    for _ in range(1200):
        world.give(0, good(1))
        world.give(0, labels(1), InputTopic.LABELS)
    loop.step()
    assert world.stored[0].offset == 1200
    assert len(world.stored[0].metadata) <= 4095
    for _ in range(4):
        loop.step()
    assert decode_pointer(world.stored[0].metadata).base.snapshot is not None


def test_a_damaged_snapshot_falls_back_to_the_one_before(world: World) -> None:
    """One flipped byte costs a longer replay, not the state; and it is told."""
    options = LoopOptions(snapshots=SnapshotOptions(interval_ms=300))
    loop = live(world, loop_of(world, options))
    stream = records(6, 400)
    for begin in range(0, 400, 20):
        world.give(0, stream[begin : begin + 20])
        world.give(0, said(1, begin), InputTopic.FEEDBACK)
        loop.step()
    before = digest_of(loop)
    pointer = decode_pointer(world.stored[0].metadata)
    assert pointer.base.previous is not None
    _damage(world, pointer.base.snapshot.offsets[0] if pointer.base.snapshot else -1)
    world.group = [("assigned", [0])]
    listener = Listener()
    other = live(world, loop_of(world, options, observer=listener))
    assert digest_of(other) == before
    assert any("going back to the one before" in line for line in listener.told)
    for _ in range(5):
        other.step()
    assert decode_pointer(world.stored[0].metadata).base.snapshot != pointer.base.snapshot


def _damage(world: World, offset: int) -> None:
    log = world.logs[InputTopic.STATE, 0]
    place = next(place for place, row in enumerate(log) if row[0] == offset)
    value = bytearray(log[place][2] or b"")
    value[len(value) // 2] ^= 1
    log[place] = (offset, log[place][1], bytes(value), 0)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("cluster", "foreign_cluster"),
        ("topic", "topic_recreated"),
        ("options", "other_options"),
        ("position", "position_missing"),
        ("metadata", "other_format"),
        ("no metadata", "position_missing"),
        ("retention", "input_gone"),
        ("truncated", "input_truncated"),
        ("damaged", "state_damaged"),
        ("trace", "digest_mismatch"),
        ("feedback topic", "topic_recreated"),
        ("feedback retention", "input_gone"),
        ("feedback truncated", "input_truncated"),
        ("no feedback topic", "input_gone"),
        ("policy", "other_options"),
    ],
)
def test_what_does_not_fit_is_refused_or_begun_anew(world: World, what: str, kind: str) -> None:
    """Each trouble has its name; `fail` leaves the shard alone and ends the worker, `fresh` begins with empty state."""
    loop = live(world, loop_of(world))
    stream = records(7, 120)
    world.give(0, stream[:60])
    loop.step()
    loop.revoked([0])
    world.group = [("assigned", [0])]
    loop = live(world, loop_of(world))
    world.give(0, stream[60:])
    world.give(0, said(3), InputTopic.FEEDBACK)
    loop.step()
    _break(world, what)
    identity = OTHERS.get(what, IDENTITY)
    job = RestoresOptions().job._replace(has_feedback=what != "no feedback topic")
    world.group = [("assigned", [0])]
    listener = Listener()
    with pytest.raises(StateRefusedError, match="shard 0: "):
        live(world, loop_of(world, LoopOptions(restores=RestoresOptions(job=job)), identity, listener))
    assert listener.told[-1] == f"refused 0 {kind}"
    if kind == "digest_mismatch":
        return
    world.group = [("assigned", [0])]
    options = LoopOptions(snapshots=NEVER, restores=RestoresOptions(job=job, on_missing_state="fresh"))
    fresh = live(world, loop_of(world, options, identity, listener))
    assert fresh._tracks[0].base.snapshot is None
    assert any("chosen" in line for line in listener.told)


OTHERS = {
    "cluster": IDENTITY._replace(origin=Origin("elsewhere", "p", "l", "s", "f")),
    "topic": IDENTITY._replace(origin=Origin("cluster", "p", "other", "s", "f")),
    "options": IDENTITY._replace(fingerprint="others"),
    "feedback topic": IDENTITY._replace(origin=Origin("cluster", "p", "l", "s", "other")),
    "policy": IDENTITY._replace(policy="others"),
}
"""Who the next worker is, where that is what does not fit."""


def _break(world: World, what: str) -> None:
    """Damage one thing."""
    position, inputs = world.stored[0], world.logs[InputTopic.PREDICTIONS, 0]
    match what:
        case "position":
            del world.stored[0]
        case "metadata" | "no metadata":
            world.stored[0] = position._replace(metadata="somebody else's" if what == "metadata" else "")
        case "retention":
            world.first[InputTopic.PREDICTIONS, 0] = 100
        case "feedback retention":
            world.first[InputTopic.FEEDBACK, 0] = 2
        case "feedback truncated":
            del world.logs[InputTopic.FEEDBACK, 0][1:]
        case "truncated":
            del inputs[80:]
        case "damaged":
            for row in list(world.logs[InputTopic.STATE, 0]):
                _damage(world, row[0])
        case "trace":
            inputs[90:95] = [(row[0], row[1], b"something else", row[3]) for row in inputs[90:95]]


def test_other_libraries_are_told_and_the_digest_decides(world: World) -> None:
    """An upgrade with nothing to replay is nothing; one with something is judged by what the replay gives."""
    loop = live(world, loop_of(world))
    world.give(0, good(20))
    loop.step()
    world.group = [("assigned", [0])]
    listener = Listener()
    live(world, loop_of(world, identity=IDENTITY._replace(environment="newer"), observer=listener))
    assert listener.told == [
        "noted 0 the state was written by other library versions or on another CPU: the digest decides"
    ]
    assert 0 in world.attached


def test_partitions_beyond_the_state_topic_are_refused_and_the_others_go_on(world: World) -> None:
    """A grown predictions topic stops nothing that worked before."""
    world.group = [("assigned", [0, 4])]
    listener = Listener()
    loop = live(world, loop_of(world, LoopOptions(restores=RestoresOptions(partitions=4)), observer=listener))
    world.give(0, bad(1))
    world.give(4, bad(1))
    loop.step()
    assert listener.told == ["refused 4 no_state_partition"]
    assert [output.shard for output in world.visible] == [0]


def test_a_shard_with_damaged_state_does_not_take_the_others_along(world: World) -> None:
    """It is left alone, loudly; the rest of the worker goes on."""
    world.stored[0] = Position(0, "garbage")
    world.group = [("assigned", [0, 1])]
    listener = Listener()
    loop = live(world, loop_of(world, observer=listener))
    world.give(1, bad(2))
    loop.step()
    assert listener.told == ["refused 0 other_format"]
    assert [output.shard for output in world.visible] == [1, 1]


def test_a_revocation_cancels_a_restore(world: World) -> None:
    """Half restored and taken away: nothing remains, and the next assignment begins anew."""
    loop = live(world, loop_of(world))
    world.give(0, records(8, 200))
    loop.step()
    before = digest_of(loop)
    slow = RestoresOptions().job._replace(records_max=1)
    options = LoopOptions(snapshots=NEVER, restore_slice_ms=1, restores=RestoresOptions(job=slow))
    world.group = [("assigned", [0])]
    other = loop_of(world, options)
    other.step()
    assert not other._tracks
    world.group = [("revoked", [0]), ("assigned", [0])]
    for _ in range(40):
        if not other._tracks:
            other.step()
    assert digest_of(other) == before


def stamped(part: list[Record], *stamps: int) -> list[Record]:
    """Return records with these Kafka timestamps (ms after the beginning)."""
    return [(value, START_MS + stamp) for (value, _), stamp in zip(part, stamps, strict=True)]


def test_labels_wait_for_the_predictions_of_their_time(world: World) -> None:
    """In a backlog labels are taken when the predictions have come as far; a held one is not taken at all."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=2_000)))
    world.give(0, stamped(labels(3), 500, 5_000, 90_000), InputTopic.LABELS)
    world.give(0, stamped(good(2), 0, 100))
    loop.step()
    assert journal_of(world) == [(EntryKind.PREDICTIONS, 2), (EntryKind.LABELS, 1)]
    world.give(0, stamped(good(1), 4_500))
    loop.step()
    assert journal_of(world)[2:] == [(EntryKind.PREDICTIONS, 1), (EntryKind.LABELS, 1)]


def test_labels_wait_no_longer_than_predictions_come(world: World) -> None:
    """When no prediction has come for `label_hold_ms`, the rest of the labels is taken."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=2_000)))
    world.give(0, stamped(good(1), 0))
    world.give(0, stamped(labels(2), 50_000, 60_000), InputTopic.LABELS)
    loop.step()
    assert journal_of(world) == [(EntryKind.PREDICTIONS, 1)]
    world.now_ms += 2_000
    loop.step()
    assert journal_of(world) == [(EntryKind.PREDICTIONS, 1), (EntryKind.LABELS, 2)]


def test_labels_wait_longer_while_kafka_has_predictions(world: World) -> None:
    """A slow start is no silence: as long as there are predictions to come, labels wait, though not for ever."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=2_000)))
    world.behind = {0}
    world.give(0, stamped(labels(2), 50_000, 60_000), InputTopic.LABELS)
    loop.step()
    world.now_ms += 10_000
    loop.step()
    assert journal_of(world) == []
    world.now_ms += 10_000
    loop.step()
    assert journal_of(world)[0] == (EntryKind.LABELS, 2)


def test_labels_wait_while_fetches_are_full_of_other_partitions(world: World) -> None:
    """A worker that is slow in a backlog may see none of a partition's predictions for long: they come all the same."""
    world.group = [("assigned", [0, 1])]
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=2_000, fetch_records_max=2)))
    world.behind = {0}
    world.give(0, stamped(labels(2), 50_000, 60_000), InputTopic.LABELS)
    loop.step()
    for _ in range(5):
        world.now_ms += 10_000
        world.give(1, good(2))
        loop.step()
    world.give(0, stamped(good(2), 50_000, 60_000))
    loop.step()
    assert journal_of(world) == [(EntryKind.PREDICTIONS, 2), (EntryKind.LABELS, 2)]


def test_no_more_labels_are_fetched_than_may_wait(world: World) -> None:
    """More than `held_labels_max` held labels pause their partition, until the predictions have come."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=60_000, held_labels_max=2)))
    world.give(0, stamped(good(1), 0))
    world.give(0, stamped(labels(3), 50_000, 50_001, 50_002), InputTopic.LABELS)
    loop.step()
    assert world.paused == {0}
    world.give(0, stamped(good(1), 50_000))
    loop.step()
    assert world.paused == set()
    assert journal_of(world)[-1] == (EntryKind.LABELS, 3)


def test_held_labels_go_with_their_shard(world: World) -> None:
    """A partition that is given up leaves its held labels to the next owner, who reads them again."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=60_000)))
    world.give(0, stamped(good(1), 0))
    world.give(0, stamped(labels(2), 50_000, 50_001), InputTopic.LABELS)
    loop.step()
    world.group = [("revoked", [0])]
    loop.step()
    assert decode_pointer(world.stored[0].metadata).label_offset == 0


def test_feedback_is_taken_at_once_and_journalled_in_its_order(world: World) -> None:
    """While labels wait, feedback does not; a replay takes it at the same place."""
    loop = live(world, loop_of(world, LoopOptions(label_hold_ms=60_000, snapshots=NEVER)))
    world.give(0, stamped(good(2), 0, 1))
    world.give(0, stamped(labels(1), 50_000), InputTopic.LABELS)
    world.give(0, said(2), InputTopic.FEEDBACK)
    world.give(0, stamped(good(1), 2))
    loop.step()
    kinds = [(EntryKind.PREDICTIONS, 2), (EntryKind.FEEDBACK, 2), (EntryKind.PREDICTIONS, 1)]
    assert journal_of(world) == kinds
    assert decode_pointer(world.stored[0].metadata).feedback_offset == 2
    before = digest_of(loop)
    world.group = [("assigned", [0])]
    assert digest_of(live(world, loop_of(world))) == before
    assert world.attached == {0: (3, 0, 2)}


def test_feedback_that_is_gone_before_it_was_read_is_passed_over_loudly(world: World) -> None:
    """It cannot be had any more: the shard goes on with what there is, and what comes then can be replayed."""
    loop = live(world, loop_of(world))
    world.give(0, said(2), InputTopic.FEEDBACK)
    loop.step()
    loop.run(lambda: True)
    world.give(0, said(8, begin=2), InputTopic.FEEDBACK)
    world.inbox, world.first[InputTopic.FEEDBACK, 0] = [], 7
    del world.logs[InputTopic.FEEDBACK, 0][:7]
    world.group, listener = [("assigned", [0])], Listener()
    loop = live(world, loop_of(world, observer=listener))
    assert world.attached == {0: (0, 0, 7)}
    (told,) = listener.told
    assert told.startswith("noted 0 feedback goes on at offset 7: the records from 2 on are gone")
    world.inbox = [batch(0, 7, said(3, begin=7))._replace(topic=InputTopic.FEEDBACK)]
    loop.step()
    before = digest_of(loop)
    world.group, listener = [("assigned", [0])], Listener()
    assert digest_of(live(world, loop_of(world, observer=listener))) == before
    assert listener.told == []


def test_a_feedback_topic_may_go_and_come(world: World) -> None:
    """Without anything to read again a worker goes on; of a new topic it reads everything."""
    loop = live(world, loop_of(world))
    world.give(0, said(2), InputTopic.FEEDBACK)
    loop.step()
    before = digest_of(loop)
    loop.run(lambda: True)
    without = LoopOptions(restores=RestoresOptions(job=RestoresOptions().job._replace(has_feedback=False)))
    gone = IDENTITY._replace(origin=Origin("cluster", "p", "l", "s"))
    world.group, listener = [("assigned", [0])], Listener()
    loop = live(world, loop_of(world, without, gone, listener))
    assert listener.told == [
        "noted 0 there is no feedback topic any more; what this shard has read of it stays in force"
    ]
    assert digest_of(loop) == before
    loop.run(lambda: True)
    del world.logs[InputTopic.FEEDBACK, 0]
    new = IDENTITY._replace(origin=Origin("cluster", "p", "l", "s", "new"))
    world.group, listener = [("assigned", [0])], Listener()
    live(world, loop_of(world, identity=new, observer=listener))
    assert (world.attached, listener.told) == ({0: (0, 0, 0)}, [])


def test_options_of_alerts_change_at_a_clean_stop(world: World) -> None:
    """With nothing to replay they are taken over and told; what comes then belongs to them, also after a crash."""
    loop = live(world, loop_of(world))
    world.give(0, good(20))
    loop.step()
    loop.run(lambda: True)
    other, listener = IDENTITY._replace(policy="others"), Listener()
    world.group = [("assigned", [0])]
    loop = live(world, loop_of(world, identity=other, observer=listener))
    assert listener.told == ["noted 0 [engine.alerts] has been changed: alerts follow the new options from here on"]
    world.give(0, good(5))
    loop.step()
    world.group, listener = [("assigned", [0])], Listener()
    live(world, loop_of(world, identity=other, observer=listener))
    assert (listener.told, world.attached) == ([], {0: (25, 0, 0)})
    world.group = [("assigned", [0])]
    with pytest.raises(StateRefusedError, match=r"did not stop cleanly under the former \[engine.alerts\]: start once"):
        live(world, loop_of(world))


def test_a_damaged_snapshot_is_not_replaced_by_way_of_other_options(world: World) -> None:
    """The way from the one before it was taken under former options of alerts: it would lead somewhere else."""
    options = LoopOptions(snapshots=SnapshotOptions(interval_ms=300))
    loop = live(world, loop_of(world, options))
    for begin in range(0, 400, 20):
        world.give(0, records(6, 400)[begin : begin + 20])
        loop.step()
    loop.run(lambda: True)
    snapshot = decode_pointer(world.stored[0].metadata).base.snapshot
    assert snapshot is not None
    _damage(world, snapshot.offsets[0])
    world.group, listener = [("assigned", [0])], Listener()
    with pytest.raises(StateRefusedError, match=r"taken under other options of \[engine.alerts\]"):
        live(world, loop_of(world, options, IDENTITY._replace(policy="others"), listener))
    assert listener.told[-1] == "refused 0 state_damaged"


class LagListener(Observer):
    """Remembers how late the worker was."""

    def __init__(self) -> None:
        self.told: list[float | None] = []
        self.lags: list[float] = []

    def lagging(self, seconds: float) -> None:
        self.told.append(seconds)

    def caught_up(self) -> None:
        self.told.append(None)

    def shards(self, shards: Shards) -> None:
        self.lags.append(shards.lag_seconds)


def test_results_of_late_records_are_marked(world: World) -> None:
    """By the last record of a batch and the clock; without a timestamp nothing is late; no dead letter is marked."""
    loop = live(world, loop_of(world, LoopOptions(snapshots=NEVER, lagging_ms=60_000)))
    world.now_ms = 100_000
    batches = [stamped(said(1, number), stamp) for number, stamp in enumerate((39_999, 40_000, 99_000))]
    batches += [[(_silence(3), -1)], [(b"bad", START_MS)]]
    for part in batches:
        world.give(0, part, InputTopic.FEEDBACK)
    fetch = world.fetch

    def fetch_at_once(records_max: int, wait_ms: int) -> list[RawBatch]:
        fetched = fetch(records_max, wait_ms)
        world.now_ms = 100_000 if fetched else world.now_ms
        return fetched

    world.fetch = fetch_at_once  # type: ignore[method-assign]  # scripted
    loop.step()
    audits = [output for output in world.visible if output.topic is OutputTopic.MAINTENANCE]
    assert [dict(output.headers).get("modelvigil.lag_ms") for output in audits] == [b"60001", None, None, None]
    (letter,) = [output for output in world.visible if output.topic is OutputTopic.DEAD_LETTERS]
    assert "modelvigil.lag_ms" not in dict(letter.headers)


def test_a_mark_is_part_of_the_bytes_that_are_sent_again(world: World) -> None:
    """After an abort time has gone by, but the output is the same."""
    loop = live(world, loop_of(world))
    world.now_ms = 100_000
    world.give(0, said(1), InputTopic.FEEDBACK)
    world.outcomes = [CommitOutcome.ABORTED]
    loop.step()
    assert world.sent[-1] == world.sent[-2] == world.visible
    assert "modelvigil.lag_ms" in dict(world.visible[0].headers)


def test_lagging_is_told_when_it_begins_and_when_it_is_over(world: World) -> None:
    """Once each, though late and timely records come in turns; over is when nothing late has come for a while."""
    listener = LagListener()
    loop = live(world, loop_of(world, LoopOptions(snapshots=NEVER, lagging_ms=60_000), observer=listener))
    world.now_ms = 1_000_000
    world.give(0, said(3), InputTopic.FEEDBACK)  # of whatever age: it says nothing about the worker
    loop.step()
    assert (listener.told, listener.lags[-1]) == ([], 0.0)
    for _ in range(3):
        world.give(0, stamped(good(1), world.now_ms))
        world.give(0, stamped(labels(1), 0), InputTopic.LABELS)
        loop.step()
    assert listener.told == [pytest.approx(1000, abs=2)]
    for _ in range(3):
        world.now_ms += 4_000
        world.give(0, stamped(good(1), world.now_ms - 500))
        loop.step()
    assert listener.told[1:] == [None]
    assert listener.lags[-1] == pytest.approx(0.5, abs=0.3)


@pytest.mark.parametrize(
    ("late_ms", "usual_ms", "interval_ms"),
    [(0, 200, 200), (1_900, 200, 200), (4_000, 200, 400), (3_600_000, 200, 1_000), (3_600_000, 5_000, 5_000)],
)
def test_a_worker_that_lags_commits_less_often(late_ms: int, usual_ms: int, interval_ms: int) -> None:
    """A tenth of what results are late anyway, but not longer than a second, or what the settings say."""
    lag = Lag(60_000)
    late = RawBatch(0, range(1), [START_MS - late_ms], [b""], [None], [None])
    for _ in range(2):
        assert lag.commit_interval_ms(usual_ms, []) == usual_ms
        lag.fetched(500, 1_000)
        lag.taken(late, START_MS)
        lag.turn(0)
        assert lag.commit_interval_ms(usual_ms, []) == interval_ms
        assert lag.commit_interval_ms(usual_ms, [AlertCause(0, START_MS)]) == interval_ms  # seconds late as it is
        lag.fetched(499, 1_000)  # old records, but few: no backlog
        lag.taken(late, START_MS)
        lag.turn(0)


def test_an_alert_is_committed_sooner_than_a_metric(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody waits for it: a quarter of the interval is over when it is readable, and the next turn is as usual."""
    topics = {0: OutputTopic.METRICS, 1: OutputTopic.ALERTS, 2: OutputTopic.METRICS}

    def handle(_engine: Engine, batch: RawBatch) -> Handled:
        out = [Output(topics[offset], 0, offset, b"m", b"{}") for offset in batch.offsets]
        return Handled(out, len(out), 0, [])

    loop = live(world, loop_of(world, LoopOptions(snapshots=NEVER, commit_interval_ms=400)))
    monkeypatch.setattr(Engine, "handle", handle)
    lasted_ms = []
    for _ in topics:
        world.give(0, stamped(good(1), world.now_ms))
        begun_ms = world.now_ms
        loop.step()
        lasted_ms.append(world.now_ms - begun_ms)
    assert [output.topic for output in world.visible] == list(topics.values())
    assert min(lasted_ms[0], lasted_ms[2]) >= 400
    assert 100 <= lasted_ms[1] < 200


def test_an_alert_does_not_wait_for_what_came_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine tells of it and its commit is due, nothing more is fetched and worked on before."""

    def handle(_engine: Engine, batch: RawBatch) -> Handled:
        world.now_ms += 150
        if batch.offsets[0] == 0:
            world.give(0, stamped(good(1), world.now_ms))
        return Handled([Output(OutputTopic.ALERTS, 0, batch.offsets[0], b"m", b"{}")], 1, 0, [])

    loop = live(world, loop_of(world, LoopOptions(snapshots=NEVER, commit_interval_ms=400)))
    monkeypatch.setattr(Engine, "handle", handle)
    world.give(0, stamped(good(1), world.now_ms))
    loop.step()
    assert [output.offset for output in world.visible] == [0]
    loop.step()
    assert [output.offset for output in world.visible] == [0, 1]


def test_commits_are_rarer_in_a_backlog(world: World) -> None:
    """The turn after one whose records were ten seconds late, and filled a fetch, lasts a second."""
    loop = live(world, loop_of(world, LoopOptions(snapshots=NEVER, fetch_records_max=1)))
    world.now_ms = 1_000_000
    lasted_ms = []
    for late_ms in (10_000, 0, 0):
        world.give(0, stamped(good(1), world.now_ms - late_ms))
        begun_ms = world.now_ms
        loop.step()
        lasted_ms.append(world.now_ms - begun_ms)
    assert lasted_ms[0] < 500
    assert 1_000 <= lasted_ms[1] < 1_300
    assert lasted_ms[2] < 500
