"""What is committed beside an input position: where the shard's last snapshot lies, and what was taken since.

Kafka orders the records of one partition, not those of `predictions[p]`, `labels[p]` and `feedback` between each other,
and it knows nothing of the clock. So a shard's state is a function of its *journal*: the ranges of records in the order
in which they were taken, and between them the ticks, and the levels to which maintenance was thinned because it took
too much of the CPU. The pointer travels in the metadata of the committed offset of `predictions[p]`, so it is atomic
with the outputs, and it fits into the 4,095 bytes that a broker takes there.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec

from worker.core.snapshot import FORMAT

JOURNAL_CHARS_MAX = 2_600
"""Of an encoded journal; the rest of a pointer takes some 1,000 at most."""
_ENTRY_BYTES_MAX = 10
ENTRY_CHARS_MAX = 16
"""By which an entry may make it longer: three bytes are four characters, and a part of three counts as all of it."""
_AMOUNT_MAX = 2**61
_KIND_BITS = 3
_MORE = 0x80
"""Set in each byte of a varint that is not the last."""


class EntryKind(IntEnum):
    """What was taken."""

    PREDICTIONS = 0
    LABELS = 1
    TICK = 2
    FEEDBACK = 3
    THINNING = 4


RANGES = frozenset({EntryKind.PREDICTIONS, EntryKind.LABELS, EntryKind.FEEDBACK})
"""What moves an offset on."""

THINNING_MAX = 16
"""Level of thinning: one event in 2^level is used for maintenance."""


class Entry(NamedTuple):
    """One step: the offset of a topic moved on by `amount`.

    Or a tick at `amount` ms since 1970 (TICK), or maintenance has been thinned to level `amount` (THINNING).
    """

    kind: EntryKind
    amount: int

    @property
    def records(self) -> int:
        """How far an offset moved."""
        return self.amount if self.kind in RANGES else 0


class JournalError(ValueError):
    """These bytes are no journal or pointer; the message says why."""


class Journal:
    """A list of entries that knows its encoded size. Ranges of a topic that follow each other are one."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self._bytes_before_last = 0
        for entry in entries:
            self.add(*entry)

    def __bool__(self) -> bool:
        return bool(self.entries)

    @property
    def records(self) -> int:
        """How far the offsets moved, all in all."""
        return sum(entry.records for entry in self.entries)

    @property
    def chars(self) -> int:
        """Length of the text that `encode_entries` gives."""
        last = len(_varint(self.entries[-1])) if self.entries else 0
        return (self._bytes_before_last + last + 2) // 3 * 4

    def add(self, kind: EntryKind, amount: int) -> None:
        """Note a step."""
        if self.entries:
            last = self.entries[-1]
            if last.kind is kind and kind in RANGES:
                self.entries[-1] = Entry(kind, last.amount + amount)
                return
            self._bytes_before_last += len(_varint(last))
        self.entries.append(Entry(kind, amount))


def encode_entries(entries: Iterable[Entry]) -> str:
    """Return entries as text: varints of amount x 8 + kind, in base64."""
    return base64.b64encode(b"".join(map(_varint, entries))).decode()


def decode_entries(text: str) -> list[Entry]:
    """Return the entries of `encode_entries`.

    Raises:
        JournalError: it is something else.
    """
    try:
        return list(_entries(base64.b64decode(text, validate=True)))
    except (binascii.Error, ValueError) as error:
        raise JournalError(f"the journal cannot be read: {error}") from None


def _varint(entry: Entry) -> bytes:
    left = entry.amount << _KIND_BITS | entry.kind
    out = bytearray()
    while left >= _MORE:
        out.append(left & (_MORE - 1) | _MORE)
        left >>= 7
    out.append(left)
    return bytes(out)


def _entries(data: bytes) -> Iterator[Entry]:
    value = shift = 0
    for byte in data:
        value |= (byte & (_MORE - 1)) << shift
        shift += 7
        if byte & _MORE:
            if shift >= 7 * _ENTRY_BYTES_MAX:
                raise ValueError("an entry is too long")
            continue
        kind, amount = EntryKind(value & (1 << _KIND_BITS) - 1), value >> _KIND_BITS
        if amount > (THINNING_MAX if kind is EntryKind.THINNING else _AMOUNT_MAX):
            raise ValueError("an entry is too large")
        yield Entry(kind, amount)
        value = shift = 0
    if shift:
        raise ValueError("the last entry is cut short")


Offset = Annotated[int, msgspec.Meta(ge=0)]


class Ref(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Something stored in the `state` topic, at the shard's partition: the offsets of its chunks, and its checksum."""

    offsets: Annotated[list[Offset], msgspec.Meta(min_length=1, max_length=8)]
    checksum: str


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where state belongs: ids that Kafka gives to a cluster and to topics. Empty where it does not tell them."""

    cluster: str
    predictions: str
    labels: str
    state: str
    feedback: str = ""


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Where the journal begins: positions, the snapshot taken there (None: empty state), and the one before it.

    `link` holds the journal from the previous snapshot to this one, should this one turn out to be damaged.
    `feedback_offset` can be another one than when the snapshot was taken: what retention has removed before the shard
    has read it is passed over, and a topic created anew is read from its beginning (`RestoreJob`).
    """

    offset: Offset
    label_offset: Offset
    snapshot: Ref | None = None
    previous: Ref | None = None
    link: Ref | None = None
    feedback_offset: Offset = 0


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a committed offset of `predictions[p]`."""

    modelvigil: int
    """Format."""
    generation: int
    """Counts the commits of this shard."""
    writer: str
    """Names the process: two that try the same commit one after the other must not take the other's for their own."""
    base: Base
    label_offset: Offset
    """Next offset of `labels[p]`."""
    journal: str
    trace: str
    """Checksum of what the shard has computed (`Engine.trace`)."""
    fingerprint: str
    """Of the options that the state depends on."""
    environment: str
    """Of the libraries and the CPU, on which the last bits of a replay depend."""
    origin: Origin
    feedback_offset: Offset = 0
    """Next offset of `feedback` for this shard."""
    policy: str = ""
    """Of the options of alerts: a journal means the same only under the same ones, a snapshot means it under all."""


def encode_pointer(pointer: Pointer) -> str:
    """Return a pointer as text."""
    return msgspec.json.encode(pointer).decode()


def decode_pointer(text: str) -> Pointer:
    """Return the pointer of `encode_pointer`.

    Raises:
        JournalError: it is something else, or of a format that this worker does not know.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).modelvigil
        if version == FORMAT:
            return msgspec.json.decode(text, type=Pointer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise JournalError(f"the metadata of the committed offset is not ours: {error}") from None
    raise JournalError(f"the committed offset has metadata of format {version}; this worker reads {FORMAT}")


class _Version(msgspec.Struct):
    modelvigil: int
