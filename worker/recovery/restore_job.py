"""Brings one shard back to where its committed position says it is, in small steps.

    committed position -> pointer -> checks -> snapshot (or the one before it) -> replay of the journal -> same trace?

Rule 1: nothing is guessed. What does not fit together is a `StateProblemError`, and the loop's policy decides.
Rule 2: a replay goes through the same code as the first run; only its outputs are dropped, because they are visible.
Rule 3: of `feedback` the shard goes on with what there is: records that retention has removed before it has read them
        cannot be had any more, and the topic may come and go. Only what the journal says was taken must be there.
        State may differ from what the gone records would have made of it; a replay never does.
Rule 4: whoever drives it can stop between any two steps and forget it (`close`): nothing outside has changed.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from worker.core.engine import Engine
from worker.core.events import InputTopic, RawBatch
from worker.core.journal import Base, Entry, EntryKind, JournalError, Pointer, decode_entries, decode_pointer
from worker.core.snapshot import SnapshotError
from worker.ports import Bounds, History, Position
from worker.recovery.parts import Assembly, read_parts
from worker.recovery.problems import ProblemKind, StateProblemError
from worker.recovery.reading import Chunks, Steps, Tape, VanishedError, bounds_of, live_keys
from worker.recovery.stored import Kind, Link, decode_key, decode_link, decode_manifest
from worker.recovery.track import KINDS, Anchor, Identity, Track

_TOPICS = {kind: topic for topic, kind in KINDS.items()}
_FRESH = "decide: --on-missing-state fresh begins with empty state"


class RestoreOptions(NamedTuple):
    """How to restore, and what to do when it cannot be done."""

    start_at: Literal["earliest", "latest"] = "earliest"
    """Where a shard begins that never had a position."""
    on_digest_mismatch: Literal["fail", "accept"] = "fail"
    records_max: int = 2000
    """Records replayed in one step."""
    has_feedback: bool = True
    """Whether there is a topic `feedback`."""


class RestoreJob:
    """One restore under way.

    Args:
        partition: the shard; the engine must not have it yet.
        position: what is committed for it.
        engine: gets the shard.
        history: what the topics hold.
        identity: what state must belong to.
        options: how.
        fresh: begin with empty state, whatever there is.
    """

    def __init__(
        self,
        partition: int,
        position: Position | None,
        engine: Engine,
        history: History,
        identity: Identity,
        options: RestoreOptions,
        *,
        fresh: bool = False,
    ) -> None:
        self.partition = partition
        self.position = position
        self.track: Track | None = None
        """The shard's bookkeeping, once it is restored."""
        self.notes: list[str] = []
        """What a person should know, though it was dealt with."""
        self.records_left = 0
        self.replayed = 0
        self._engine = engine
        self._history = history
        self._identity = identity
        self._options = options
        self._chunks = Chunks(history, partition)
        self._tapes: dict[InputTopic, Tape] = {}
        self._steps = self._begin(self._start_anew()) if fresh else self._begin(self._restore())

    def step(self) -> bool:
        """Do a little; return whether anything could be done, or everything waits for Kafka.

        Raises:
            StateProblemError: it cannot be restored.
        """
        try:
            return next(self._steps)
        except StopIteration:
            self.close()
            return True

    def close(self) -> None:
        """Stop; a shard that is not restored is forgotten."""
        self._steps.close()
        self._chunks.close()
        for tape in self._tapes.values():
            tape.close()
        self._tapes = {}
        if self.track is None and self.partition in self._engine.partitions:
            self._engine.drop_shard(self.partition)

    def _begin(self, steps: Steps[Track]) -> Generator[bool, None, None]:
        self.track = yield from steps

    # Without state.

    def _start_anew(self) -> Steps[Track]:
        """Begin with empty state at the committed position, or as near to it as there are records."""
        pointer = None
        try:
            pointer = self._pointer()
        except StateProblemError as problem:
            self.notes.append(str(problem))
        offset = yield from self._start(InputTopic.PREDICTIONS, None if self.position is None else self.position.offset)
        label_offset = yield from self._start(InputTopic.LABELS, None if pointer is None else pointer.label_offset)
        # Whatever `start_at` says: a silence that was asked for long ago may still be in force.
        feedback = yield from self._feedback_bounds()
        begin = Base(offset, label_offset, feedback_offset=feedback.first)
        return self._empty(begin, 0 if pointer is None else pointer.generation)

    def _start(self, topic: InputTopic, wanted: int | None) -> Steps[int]:
        bounds = yield from bounds_of(self._history, topic, self.partition)
        if wanted is None:
            return bounds.first if self._options.start_at == "earliest" else bounds.end
        if bounds.first <= wanted <= bounds.end:
            return wanted
        self.notes.append(f"{topic}[{self.partition}] goes on at offset {bounds.first}, because {wanted} is not there")
        return bounds.first

    def _empty(self, begin: Base, generation: int) -> Track:
        self._engine.add_shard(self.partition)
        return Track(self.partition, self._identity, begin, generation=generation)

    def _restore(self) -> Steps[Track]:
        pointer = self._pointer()
        if pointer is not None:
            return (yield from self._follow(pointer))
        if (yield from self._has_state()):
            where = (
                "no position is committed" if self.position is None else "the committed position does not point at it"
            )
            raise self._problem(
                ProblemKind.POSITION_MISSING,
                f"there is stored state, but {where} (expired, or reset by a tool): {_FRESH}",
            )
        if self.position is not None:
            yield from self._check_there(InputTopic.PREDICTIONS, self.position.offset, self.position.offset)
        return (yield from self._start_anew())

    def _pointer(self) -> Pointer | None:
        if self.position is None or not self.position.metadata:
            return None
        try:
            return decode_pointer(self.position.metadata)
        except JournalError as error:
            raise self._problem(ProblemKind.OTHER_FORMAT, f"{error}: {_FRESH}") from None

    def _has_state(self) -> Steps[bool]:
        """Look for a manifest of this group that has not been deleted."""
        keys = yield from live_keys(self._history, self.partition)
        manifest_of = (self._identity.group, Kind.MANIFEST)
        return any((key.group, key.kind) == manifest_of for key in map(decode_key, keys) if key is not None)

    # With state.

    def _follow(self, pointer: Pointer) -> Steps[Track]:
        self._check_origin(pointer)
        try:
            entries = decode_entries(pointer.journal)
        except JournalError as error:
            raise self._problem(ProblemKind.OTHER_FORMAT, f"{error}: {_FRESH}") from None
        base = yield from self._check_feedback(pointer, entries)
        self._check_policy(pointer, entries)
        yield from self._check_input(pointer, base.offset, base.label_offset)
        anchor = Anchor(base.snapshot, base.offset, base.label_offset, base.feedback_offset)
        try:
            anchor = yield from self._load(anchor)
            prefix: tuple[Entry, ...] = ()
        except SnapshotError as error:
            self.notes.append(f"the newest snapshot cannot be used ({error}): going back to the one before it")
            anchor, prefix = yield from self._load_previous(pointer, base, str(error))
        yield from self._replay(anchor, [*prefix, *entries])
        self._compare(pointer)
        track = Track(self.partition, self._identity, base, anchor, prefix, pointer.generation)
        _follow_entries(track, entries)
        if (track.offset, track.label_offset) != (self._committed_offset, pointer.label_offset):
            raise self._problem(ProblemKind.OTHER_FORMAT, f"the journal ends at another position: {_FRESH}")
        return track

    @property
    def _committed_offset(self) -> int:
        assert self.position is not None, "there is no pointer without a position"
        return self.position.offset

    def _check_origin(self, pointer: Pointer) -> None:
        """Refuse what was written elsewhere or under other options. An id that Kafka does not tell matches any."""
        mine, other = self._identity.origin, pointer.origin
        if mine.cluster and other.cluster and mine.cluster != other.cluster:
            raise self._problem(
                ProblemKind.FOREIGN_CLUSTER,
                f"the state was written on cluster {other.cluster}, this is {mine.cluster}, where offsets mean "
                f"something else: {_FRESH}",
            )
        for name in ("predictions", "labels", "feedback", "state"):
            here, there = getattr(mine, name), getattr(other, name)
            if here and there and here != there:
                raise self._problem(
                    ProblemKind.TOPIC_RECREATED,
                    f"the {name} topic has been deleted and created again since the state was written: {_FRESH}",
                )
        if pointer.fingerprint != self._identity.fingerprint:
            raise self._problem(
                ProblemKind.OTHER_OPTIONS,
                "the state was written with other [engine] options (`modelvigil state inspect` shows them): set them "
                f"back, or {_FRESH}",
            )
        if pointer.environment != self._identity.environment:
            self.notes.append("the state was written by other library versions or on another CPU: the digest decides")

    def _check_policy(self, pointer: Pointer, entries: Sequence[Entry]) -> None:
        """Let other options of alerts begin between two runs, not within a journal, which would be replayed with them.

        A worker that is stopped cleanly leaves an empty journal.
        """
        if pointer.policy == self._identity.policy:
            return
        if entries:
            raise self._problem(
                ProblemKind.OTHER_OPTIONS,
                "the worker did not stop cleanly under the former [engine.alerts]: start once with these options set "
                "back and stop it (SIGTERM), or --on-missing-state fresh begins with empty state",
            )
        self.notes.append("[engine.alerts] has been changed: alerts follow the new options from here on")

    def _check_feedback(self, pointer: Pointer, entries: Sequence[Entry]) -> Steps[Base]:
        """Return the base with the feedback offset at which its journal begins, or goes on if it took none (rule 3)."""
        base, bounds = pointer.base, (yield from self._feedback_bounds())
        taken = _amount(entries, EntryKind.FEEDBACK)
        if base.feedback_offset + taken != pointer.feedback_offset:
            raise self._problem(ProblemKind.OTHER_FORMAT, f"the journal ends at another position: {_FRESH}")
        if self._options.has_feedback:
            self._check_within(InputTopic.FEEDBACK, bounds, bounds.first, pointer.feedback_offset)
        if not taken:
            begin = self._feedback_begin(base.feedback_offset, bounds)
            return msgspec.structs.replace(base, feedback_offset=begin)
        if not self._options.has_feedback:
            raise self._problem(
                ProblemKind.INPUT_GONE,
                f"feedback must be read from offset {base.feedback_offset}, but there is no such topic: {_FRESH}",
            )
        self._check_within(InputTopic.FEEDBACK, bounds, base.feedback_offset, pointer.feedback_offset)
        return base

    def _feedback_begin(self, wanted: int, bounds: Bounds) -> int:
        """Return where feedback goes on of which nothing has to be read again."""
        if bounds.first <= wanted <= bounds.end:
            return wanted
        if self._options.has_feedback:
            self.notes.append(
                f"feedback goes on at offset {bounds.first}: the records from {wanted} on are gone (retention, or "
                "deleted records), and this shard had not read them"
            )
        else:
            self.notes.append("there is no feedback topic any more; what this shard has read of it stays in force")
        return bounds.first

    def _feedback_bounds(self) -> Steps[Bounds]:
        if not self._options.has_feedback:
            return Bounds(0, 0)
        return (yield from bounds_of(self._history, InputTopic.FEEDBACK, self.partition))

    def _check_input(self, pointer: Pointer, offset: int, label_offset: int) -> Steps[None]:
        yield from self._check_there(InputTopic.PREDICTIONS, offset, self._committed_offset)
        yield from self._check_there(InputTopic.LABELS, label_offset, pointer.label_offset)

    def _check_there(self, topic: InputTopic, begin: int, end: int) -> Steps[None]:
        self._check_within(topic, (yield from bounds_of(self._history, topic, self.partition)), begin, end)

    def _check_within(self, topic: InputTopic, bounds: Bounds, begin: int, end: int) -> None:
        if begin < bounds.first:
            raise self._problem(
                ProblemKind.INPUT_GONE,
                f"{topic} must be read from offset {begin}, but begins at {bounds.first} (retention, or deleted "
                f"records): give it a longer retention; {_FRESH}",
            )
        if end > bounds.end:
            raise self._problem(
                ProblemKind.INPUT_TRUNCATED,
                f"{topic} has been read up to offset {end}, but ends at {bounds.end}: records have vanished (an "
                f"unclean leader election, or a topic created again): {_FRESH}",
            )

    # The snapshot.

    def _load_previous(self, pointer: Pointer, base: Base, why: str) -> Steps[tuple[Anchor, tuple[Entry, ...]]]:
        if base.link is None:
            raise self._problem(ProblemKind.STATE_DAMAGED, f"{why}, and there is no older snapshot: {_FRESH}")
        try:
            link, entries = decode_link((yield from self._chunks.payload(base.link)))
            yield from self._check_input(pointer, link.offset, link.label_offset)
            feedback_offset = yield from self._check_link(link, entries, base)
            anchor = Anchor(base.previous, link.offset, link.label_offset, feedback_offset)
            anchor = yield from self._load(anchor)
        except SnapshotError as error:
            raise self._problem(
                ProblemKind.STATE_DAMAGED, f"{why}; and the snapshot before it: {error}: {_FRESH}"
            ) from None
        return anchor, tuple(entries)

    def _check_link(self, link: Link, entries: Sequence[Entry], base: Base) -> Steps[int]:
        """Return the feedback offset at which the way from the snapshot before begins. Raises SnapshotError."""
        if link.policy != self._identity.policy:
            raise SnapshotError("the way from there was taken under other options of [engine.alerts]")
        taken = _amount(entries, EntryKind.FEEDBACK)
        if not taken:
            # Where feedback was then does not matter: the base may have moved on since.
            return base.feedback_offset
        if link.feedback_offset + taken != base.feedback_offset:
            raise SnapshotError("feedback that was taken on the way from there is gone")
        bounds = yield from self._feedback_bounds()
        self._check_within(InputTopic.FEEDBACK, bounds, link.feedback_offset, base.feedback_offset)
        return link.feedback_offset

    def _load(self, anchor: Anchor) -> Steps[Anchor]:
        """Bring the shard to the state of a snapshot (or to empty state) and return the anchor with its contents."""
        if self.partition in self._engine.partitions:
            self._engine.drop_shard(self.partition)
        self._engine.add_shard(self.partition)
        if anchor.ref is None:
            return anchor
        manifest = decode_manifest((yield from self._chunks.payload(anchor.ref)))
        expected = (self._identity.group, self.partition, anchor.offset, anchor.label_offset)
        if (manifest.group, manifest.partition, manifest.offset, manifest.label_offset) != expected:
            raise SnapshotError("the manifest is of another shard or position")
        assembly = Assembly(self._engine, manifest)
        yield from read_parts(self._chunks, manifest, assembly.take)
        assembly.finish()
        return anchor._replace(manifest=manifest)

    # The replay.

    def _replay(self, anchor: Anchor, entries: Iterable[Entry]) -> Steps[None]:
        entries = list(entries)
        self.records_left = sum(entry.records for entry in entries)
        starts = {
            InputTopic.PREDICTIONS: anchor.offset,
            InputTopic.LABELS: anchor.label_offset,
            InputTopic.FEEDBACK: anchor.feedback_offset,
        }
        for entry in entries:
            match entry.kind:
                case EntryKind.TICK:
                    self._engine.tick(self.partition, entry.amount)
                case EntryKind.THINNING:
                    self._engine.thin(self.partition, entry.amount)
                case _:
                    topic = _TOPICS[entry.kind]
                    yield from self._replay_range(topic, starts[topic], entry.amount)

    def _replay_range(self, topic: InputTopic, start: int, amount: int) -> Steps[None]:
        """Take the next `amount` offsets of a topic again; `start` is where its first range began."""
        if topic not in self._tapes:
            self._tapes[topic] = Tape(self._history, topic, self.partition, start, self._options.records_max)
        tape = self._tapes[topic]
        try:
            yield from tape.play(tape.offset + amount, self._handle_again)
        except VanishedError as error:
            raise self._problem(
                ProblemKind.INPUT_GONE, f"a record that must be read again has vanished: {error}: {_FRESH}"
            ) from None

    def _handle_again(self, batch: RawBatch) -> None:
        self._engine.handle(batch)
        self.replayed += len(batch.offsets)
        self.records_left -= len(batch.offsets)

    def _compare(self, pointer: Pointer) -> None:
        trace = self._engine.trace(self.partition)
        if trace == pointer.trace:
            return
        what = f"the replay gave digest {trace}, the first run {pointer.trace}"
        if self._options.on_digest_mismatch == "accept":
            self.notes.append(f"{what}; accepted, as --on-digest-mismatch says")
            return
        raise self._problem(
            ProblemKind.DIGEST_MISMATCH,
            f"{what}: other libraries or another CPU, or damage; --on-digest-mismatch accept goes on with what the "
            "replay gave",
        )

    def _problem(self, kind: ProblemKind, message: str) -> StateProblemError:
        return StateProblemError(kind, f"shard {self.partition}: {message}")


def _follow_entries(track: Track, entries: Iterable[Entry]) -> None:
    """Give a track the journal that was committed."""
    for kind, amount in entries:
        match kind:
            case EntryKind.TICK:
                track.ticked(amount)
            case EntryKind.THINNING:
                track.thinned(amount)
            case EntryKind.LABELS:
                track.taken(InputTopic.LABELS, track.label_offset + amount)
            case EntryKind.FEEDBACK:
                track.taken(InputTopic.FEEDBACK, track.feedback_offset + amount)
            case _:
                track.taken(InputTopic.PREDICTIONS, track.offset + amount)


def _amount(entries: Iterable[Entry], kind: EntryKind) -> int:
    return sum(entry.amount for entry in entries if entry.kind is kind)
