"""Where one live shard is: what it has taken of its inputs, in which order, and since which snapshot.

    base ---- before the open cut ----+---- after it ---->  now
    (snapshot)      `_before`         |     `_after`

While a snapshot is being written, commits still point at the old base, with both parts of the journal. When all of it
is visible, `adopt` makes the cut the new base, and the next commit says so.
"""

from typing import NamedTuple

from worker.core.events import InputTopic
from worker.core.journal import (
    ENTRY_CHARS_MAX,
    JOURNAL_CHARS_MAX,
    Base,
    Entry,
    EntryKind,
    Journal,
    Origin,
    Pointer,
    Ref,
    encode_entries,
    encode_pointer,
)
from worker.core.snapshot import FORMAT
from worker.ports import Position
from worker.recovery.stored import Manifest

KINDS = {
    InputTopic.PREDICTIONS: EntryKind.PREDICTIONS,
    InputTopic.LABELS: EntryKind.LABELS,
    InputTopic.FEEDBACK: EntryKind.FEEDBACK,
}
"""How the journal calls what was taken of a topic."""


class Identity(NamedTuple):
    """What state belongs to, and what it depends on beside the input."""

    group: str
    origin: Origin
    fingerprint: str
    """Of options: with others, state means something else."""
    environment: str
    """Of libraries and CPU: with others, the last bits of a replay may differ."""
    options: str = "{}"
    """The options as JSON, for people."""
    writer: str = ""
    """Of this process alone."""
    policy: str = ""
    """Of the options of alerts: they can be changed where there is nothing to replay."""


class Anchor(NamedTuple):
    """A snapshot that is known to be good (None: empty state), the positions where it was taken, and its contents."""

    ref: Ref | None
    offset: int
    label_offset: int
    feedback_offset: int
    manifest: Manifest | None = None


class Track:
    """The bookkeeping of one live shard.

    Args:
        partition: the shard.
        identity: what is committed with every position.
        base: where the journal begins.
        anchor: the snapshot that state was restored from: that of `base`, or the one before if that is damaged.
        prefix: the entries from the anchor to the base, if they are not the same.
        generation: of the last commit.
    """

    def __init__(
        self,
        partition: int,
        identity: Identity,
        base: Base,
        anchor: Anchor | None = None,
        prefix: tuple[Entry, ...] = (),
        generation: int = 0,
    ) -> None:
        self.partition = partition
        self.identity = identity
        self.base = base
        self.anchor = anchor or Anchor(base.snapshot, base.offset, base.label_offset, base.feedback_offset)
        self.generation = generation
        self.offset = base.offset
        self.label_offset = base.label_offset
        self.feedback_offset = base.feedback_offset
        self.has_position = generation > 0
        """Whether a position of the shard is known to be committed."""
        self._prefix = prefix
        self._before: Journal | None = None
        self._after = Journal()

    @property
    def damaged(self) -> bool:
        """Whether the newest snapshot could not be used: the next one is due at once."""
        return self.anchor.ref != self.base.snapshot

    @property
    def records(self) -> int:
        """Records taken since the last cut: what a restore would have to replay."""
        return self._after.records

    @property
    def empty(self) -> bool:
        """Whether nothing has happened since the last cut."""
        return not self._after

    @property
    def chars(self) -> int:
        """Length of the journal as it is committed."""
        return self._after.chars + (self._before.chars if self._before is not None else 0)

    @property
    def full(self) -> bool:
        """Whether the journal may not grow any more before a snapshot is complete."""
        return self.chars >= JOURNAL_CHARS_MAX

    def has_room(self, entries: int) -> bool:
        """Whether the journal is not full after so many more entries, however long they are."""
        return self.chars + entries * ENTRY_CHARS_MAX < JOURNAL_CHARS_MAX

    def taken(self, topic: InputTopic, end: int) -> None:
        """Records of a topic have been processed up to `end` (the next offset)."""
        match topic:
            case InputTopic.LABELS:
                before, self.label_offset = self.label_offset, end
            case InputTopic.FEEDBACK:
                before, self.feedback_offset = self.feedback_offset, end
            case _:
                before, self.offset = self.offset, end
        self._after.add(KINDS[topic], end - before)

    def ticked(self, now_ms: int) -> None:
        """A tick has been given to the shard."""
        self._after.add(EntryKind.TICK, now_ms)

    def thinned(self, level: int) -> None:
        """The shard has been told to use one event in 2^level for maintenance."""
        self._after.add(EntryKind.THINNING, level)

    def position(self, trace: str) -> Position:
        """Return what to commit now. Every call gives another one, so that outcomes in doubt can be told apart."""
        self.generation += 1
        entries = [*(self._before.entries if self._before is not None else ()), *self._after.entries]
        pointer = Pointer(
            modelvigil=FORMAT,
            generation=self.generation,
            writer=self.identity.writer,
            base=self.base,
            label_offset=self.label_offset,
            journal=encode_entries(entries),
            trace=trace,
            fingerprint=self.identity.fingerprint,
            environment=self.identity.environment,
            origin=self.identity.origin,
            feedback_offset=self.feedback_offset,
            policy=self.identity.policy,
        )
        return Position(self.offset, encode_pointer(pointer), self.label_offset)

    def cut(self) -> None:
        """A cut through the shard begins here."""
        assert self._before is None, "a cut is open already"
        self._before, self._after = self._after, Journal()

    def way_to_cut(self) -> list[Entry]:
        """Return the entries from the anchor to the open cut."""
        assert self._before is not None, "no cut is open"
        return [*self._prefix, *self._before.entries]

    def adopt(self, manifest: Manifest, snapshot: Ref, link: Ref) -> None:
        """The snapshot of the open cut is visible: the journal begins there from now on."""
        offset, label_offset, feedback_offset = manifest.offset, manifest.label_offset, manifest.feedback_offset
        self.base = Base(offset, label_offset, snapshot, self.anchor.ref, link, feedback_offset)
        self.anchor = Anchor(snapshot, offset, label_offset, feedback_offset, manifest)
        self._prefix = ()
        self._before = None
