"""The journal and the pointer: what is committed beside an offset comes back; nothing else is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.events import InputTopic
from worker.core.journal import (
    ENTRY_CHARS_MAX,
    JOURNAL_CHARS_MAX,
    THINNING_MAX,
    Base,
    Entry,
    EntryKind,
    Journal,
    JournalError,
    Origin,
    Ref,
    decode_entries,
    decode_pointer,
    encode_entries,
)
from worker.edges.kafka.sink import METADATA_BYTES_MAX
from worker.recovery.stored import Manifest
from worker.recovery.track import Identity, Track

_LEVELS = st.builds(Entry, st.just(EntryKind.THINNING), st.integers(0, THINNING_MAX))
_OTHERS = sorted(set(EntryKind) - {EntryKind.THINNING})
ENTRIES = st.lists(_LEVELS | st.builds(Entry, st.sampled_from(_OTHERS), st.integers(0, 2**61)))
_ORIGIN = Origin("c" * 22, "p" * 22, "l" * 22, "s" * 22, "f" * 22)
IDENTITY = Identity("group", _ORIGIN, "f" * 16, "e" * 16, writer="w" * 12, policy="a" * 16)


@given(ENTRIES)
def test_entries_come_back(entries: list[Entry]) -> None:
    """Every list of entries survives being text."""
    assert decode_entries(encode_entries(entries)) == entries


@given(ENTRIES)
def test_a_journal_knows_its_length(entries: list[Entry]) -> None:
    """`chars` is the length of the text, without encoding it."""
    journal = Journal(entries)
    assert journal.chars == len(encode_entries(journal.entries))
    ranges = (EntryKind.PREDICTIONS, EntryKind.LABELS, EntryKind.FEEDBACK)
    assert journal.records == sum(entry.amount for entry in entries if entry.kind in ranges)


def test_neighbouring_ranges_are_one() -> None:
    """How a range was cut into batches is not state, so it is not noted; ticks and levels of thinning are no ranges."""
    journal = Journal()
    for kind in EntryKind:
        journal.add(kind, 7)
        journal.add(kind, 7)
    assert journal.entries == [(0, 14), (1, 14), (2, 7), (2, 7), (3, 14), (4, 7), (4, 7)]


@pytest.mark.parametrize("entry", [Entry(EntryKind.THINNING, THINNING_MAX + 1), (5, 1), (7, 0)])
def test_what_no_worker_writes_is_refused(entry: Entry) -> None:
    """A level beyond the last one, and kinds that there are not."""
    with pytest.raises(JournalError, match="cannot be read"):
        decode_entries(encode_entries([Entry(*entry)]))


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_what_is_no_journal_is_refused(text: str) -> None:
    """Whatever the text is, the answer is entries or a JournalError."""
    try:
        entries = decode_entries(text)
    except JournalError:
        return
    assert all(entry.kind in EntryKind for entry in entries)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not ours"),
        ("tick 5", "not ours"),
        ('{"a": 1}', "not ours"),
        ('{"modelvigil": 99, "whatever": true}', "format 99"),
        ('{"modelvigil": 1}', "not ours"),
    ],
)
def test_what_is_no_pointer_is_refused(text: str, why: str) -> None:
    """Metadata of other programs, of other versions, or cut short."""
    with pytest.raises(JournalError, match=why):
        decode_pointer(text)


def test_a_full_journal_fits_into_the_metadata() -> None:
    """With the longest references that can be, and the largest offsets, a broker still takes the pointer."""
    far = 2**48
    ref = Ref([far] * 8, "0" * 32)
    track = Track(0, IDENTITY, Base(far, far, ref, ref, ref, far), generation=2**40)
    while not track.full:
        track.taken(InputTopic.PREDICTIONS, track.offset + 12_345)
        track.taken(InputTopic.LABELS, track.label_offset + 1)
        track.taken(InputTopic.FEEDBACK, track.feedback_offset + 1)
        track.ticked(2**43)
        track.thinned(THINNING_MAX)
    position = track.position("0" * 16)
    assert track.chars >= JOURNAL_CHARS_MAX
    assert len(position.metadata.encode()) <= METADATA_BYTES_MAX


def test_a_pointer_tells_the_way_from_its_base() -> None:
    """While a snapshot is written, commits still begin at the old base; once it is adopted, at the cut."""
    track = Track(3, IDENTITY, Base(100, 10, feedback_offset=7))
    track.taken(InputTopic.PREDICTIONS, 150)
    track.cut()
    track.taken(InputTopic.LABELS, 12)
    track.taken(InputTopic.FEEDBACK, 9)
    during = decode_pointer(track.position("t").metadata)
    assert (during.base, decode_entries(during.journal)) == (
        Base(100, 10, feedback_offset=7),
        [(0, 50), (1, 2), (3, 2)],
    )
    assert track.way_to_cut() == [(0, 50)]
    ref, link = Ref([7], "aa"), Ref([8], "bb")
    track.adopt(_manifest(150, 10, 7), ref, link)
    after = decode_pointer(track.position("t").metadata)
    assert (after.base, decode_entries(after.journal)) == (
        Base(150, 10, ref, None, link, 7),
        [(1, 2), (3, 2)],
    )
    assert (after.label_offset, after.feedback_offset, after.generation) == (12, 9, 2)


def _manifest(offset: int, label_offset: int, feedback_offset: int) -> Manifest:
    return Manifest(
        group="group",
        partition=3,
        slot=0,
        generation=1,
        offset=offset,
        label_offset=label_offset,
        written_ms=0,
        fingerprint="",
        environment="",
        options="{}",
        origin=IDENTITY.origin,
        header=b"",
        models={},
        feedback_offset=feedback_offset,
    )


def test_no_entry_makes_a_journal_longer_than_it_may() -> None:
    """What the loop counts on when it lets several batches of a shard wait for a journal with little room."""
    journal, kinds = Journal(), [EntryKind.PREDICTIONS, EntryKind.LABELS, EntryKind.TICK]
    for number in range(300):
        before = journal.chars
        journal.add(kinds[number % 3], 2 ** (number % 61))
        assert journal.chars - before <= ENTRY_CHARS_MAX
