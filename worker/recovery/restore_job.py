"""Brings one shard back to where its committed position says it is, in small steps.

    committed position -> pointer -> checks -> snapshot (or the one before it) -> replay of the journal -> same trace?

Rule 1: nothing is guessed. What does not fit together is a `StateProblemError`, and the loop's policy decides.
Rule 2: a replay goes through the same code as the first run; only its outputs are dropped, because they are visible.
Rule 3: whoever drives it can stop between any two steps and forget it (`close`): nothing outside has changed.
"""

from collections.abc import Generator, Iterable
from typing import Literal, NamedTuple

from worker.core.engine import Engine
from worker.core.events import InputTopic, RawBatch
from worker.core.journal import Base, Entry, EntryKind, JournalError, Pointer, decode_entries, decode_pointer
from worker.core.snapshot import SnapshotError
from worker.ports import History, Position
from worker.recovery.parts import Assembly, read_parts
from worker.recovery.problems import ProblemKind, StateProblemError
from worker.recovery.reading import Chunks, Steps, Tape, VanishedError, bounds_of, live_keys
from worker.recovery.stored import Kind, decode_key, decode_link, decode_manifest
from worker.recovery.track import Anchor, Identity, Track

_FRESH = "decide: --on-missing-state fresh begins with empty state"


class RestoreOptions(NamedTuple):
    """How to restore, and what to do when it cannot be done."""

    start_at: Literal["earliest", "latest"] = "earliest"
    """Where a shard begins that never had a position."""
    on_digest_mismatch: Literal["fail", "accept"] = "fail"
    records_max: int = 2000
    """Records replayed in one step."""


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
        return self._empty(offset, label_offset, 0 if pointer is None else pointer.generation)

    def _start(self, topic: InputTopic, wanted: int | None) -> Steps[int]:
        bounds = yield from bounds_of(self._history, topic, self.partition)
        if wanted is None:
            return bounds.first if self._options.start_at == "earliest" else bounds.end
        if bounds.first <= wanted <= bounds.end:
            return wanted
        self.notes.append(f"{topic}[{self.partition}] goes on at offset {bounds.first}, because {wanted} is not there")
        return bounds.first

    def _empty(self, offset: int, label_offset: int, generation: int = 0) -> Track:
        self._engine.add_shard(self.partition)
        return Track(self.partition, self._identity, Base(offset, label_offset), generation=generation)

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
        base = pointer.base
        try:
            entries = decode_entries(pointer.journal)
        except JournalError as error:
            raise self._problem(ProblemKind.OTHER_FORMAT, f"{error}: {_FRESH}") from None
        yield from self._check_input(pointer, base.offset, base.label_offset)
        try:
            anchor = yield from self._load(Anchor(base.snapshot, base.offset, base.label_offset))
            prefix: tuple[Entry, ...] = ()
        except SnapshotError as error:
            self.notes.append(f"the newest snapshot cannot be used ({error}): going back to the one before it")
            anchor, prefix = yield from self._load_previous(pointer, str(error))
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
        for name in ("predictions", "labels", "state"):
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

    def _check_input(self, pointer: Pointer, offset: int, label_offset: int) -> Steps[None]:
        yield from self._check_there(InputTopic.PREDICTIONS, offset, self._committed_offset)
        yield from self._check_there(InputTopic.LABELS, label_offset, pointer.label_offset)

    def _check_there(self, topic: InputTopic, begin: int, end: int) -> Steps[None]:
        bounds = yield from bounds_of(self._history, topic, self.partition)
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

    def _load_previous(self, pointer: Pointer, why: str) -> Steps[tuple[Anchor, tuple[Entry, ...]]]:
        base = pointer.base
        if base.link is None:
            raise self._problem(ProblemKind.STATE_DAMAGED, f"{why}, and there is no older snapshot: {_FRESH}")
        try:
            link, entries = decode_link((yield from self._chunks.payload(base.link)))
            yield from self._check_input(pointer, link.offset, link.label_offset)
            anchor = yield from self._load(Anchor(base.previous, link.offset, link.label_offset))
        except SnapshotError as error:
            raise self._problem(
                ProblemKind.STATE_DAMAGED, f"{why}; and the snapshot before it: {error}: {_FRESH}"
            ) from None
        return anchor, tuple(entries)

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
        self.records_left = sum(entry.amount for entry in entries if entry.kind is not EntryKind.TICK)
        starts = {InputTopic.PREDICTIONS: anchor.offset, InputTopic.LABELS: anchor.label_offset}
        for entry in entries:
            if entry.kind is EntryKind.TICK:
                self._engine.tick(self.partition, entry.amount)
                continue
            topic = InputTopic.LABELS if entry.kind is EntryKind.LABELS else InputTopic.PREDICTIONS
            if topic not in self._tapes:
                tape = Tape(self._history, topic, self.partition, starts[topic], self._options.records_max)
                self._tapes[topic] = tape
            tape = self._tapes[topic]
            try:
                yield from tape.play(tape.offset + entry.amount, self._handle_again)
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
        if kind is EntryKind.TICK:
            track.ticked(amount)
        elif kind is EntryKind.LABELS:
            track.taken(InputTopic.LABELS, track.label_offset + amount)
        else:
            track.taken(InputTopic.PREDICTIONS, track.offset + amount)
