"""State that a former worker has stored can be read: one folder for each format, and its bytes are never made anew.

`python -m tests.golden.test_stored_state` writes the folder of the present format, once, when that format is new.
"""

import json
from pathlib import Path

import pytest

from tests.streams import SMALL, Record, batch, records
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic
from worker.core.journal import Base, EntryKind, Origin, Ref, decode_entries, decode_pointer
from worker.core.shard import Topics
from worker.core.snapshot import FORMAT, checksum
from worker.ports import StateRecord
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.stored import Kind, Manifest, decode_key, decode_link, decode_manifest
from worker.recovery.track import Identity, Track

FOLDER = Path(__file__).parent / "state"
IDENTITY = Identity("group", Origin("cluster", "p", "l", "s"), "fingerprint", "environment", '{"seed":0}')
EVENTS, MORE = 400, 200


def stream() -> list[Record]:
    """Everything that the state has seen, and what follows."""
    return records(42, EVENTS + MORE)


def engine_of(count: int) -> Engine:
    """Return an engine that has seen so many records and two labels."""
    engine = Engine(SMALL, Topics(), InlineRefits())
    engine.add_shard(0)
    engine.handle(batch(0, 0, stream()[:count]))
    label = (b'{"event_id":"e","model_id":"m0","label":1}', 0)
    engine.handle(batch(0, 0, [label, label])._replace(topic=InputTopic.LABELS))
    return engine


def read(folder: Path) -> tuple[Engine, Manifest]:
    """Restore what is stored in a folder."""
    manifest = decode_manifest((folder / "manifest.bin").read_bytes())
    engine = Engine(SMALL, Topics(), InlineRefits())
    engine.add_shard(0)
    for number, (model_id, parts) in enumerate(manifest.models.items()):
        payloads = {part: (folder / f"{number}-{part}.bin").read_bytes() for part in parts}
        assert all(checksum(payloads[part]) == ref.checksum for part, ref in parts.items())
        engine.restore_monitor(0, model_id, payloads["live"], payloads.get("fitted"))
    engine.finish_restore(0, manifest.header, list(manifest.models))
    return engine, manifest


@pytest.mark.parametrize("folder", sorted(FOLDER.glob("format-*")), ids=lambda folder: folder.name)
def test_stored_state_of_every_format_loads_and_goes_on(folder: Path) -> None:
    """It restores to what was stored, takes further events, and the pointer and the link read as they did."""
    engine, manifest = read(folder)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert engine.model_ids(0) == expected["models"]
    assert engine.trace(0) == expected["trace"]
    assert engine.digest(0) == expected["digest"]
    out = engine.handle(batch(0, EVENTS, stream()[EVENTS:])).outputs
    assert len(out) == expected["outputs_after"]
    pointer = decode_pointer((folder / "pointer.json").read_text(encoding="utf-8"))
    assert pointer.base == Base(EVENTS, 2, Ref([91], "aa"), None, Ref([92], "bb"))
    assert decode_entries(pointer.journal) == [(EntryKind.PREDICTIONS, 7), (EntryKind.TICK, 1_767_225_600_000)]
    link, entries = decode_link((folder / "link.bin").read_bytes())
    assert (link.offset, link.label_offset) == (0, 0)
    assert entries == [(EntryKind.PREDICTIONS, EVENTS), (EntryKind.LABELS, 2)]
    assert (manifest.offset, manifest.label_offset, manifest.group) == (EVENTS, 2, "group")


def test_the_present_format_is_there() -> None:
    """Whoever raises `FORMAT` writes its folder, and keeps the others."""
    assert (FOLDER / f"format-{FORMAT}").is_dir()


def write() -> None:
    """Store the example in the present format."""
    folder = FOLDER / f"format-{FORMAT}"
    folder.mkdir(parents=True)
    engine = engine_of(EVENTS)
    track = Track(0, IDENTITY, Base(0, 0))
    track.taken(InputTopic.PREDICTIONS, EVENTS)
    track.taken(InputTopic.LABELS, 2)
    job = SnapshotJob(engine, track, 1_767_225_600_000)
    numbers = {model_id: number for number, model_id in enumerate(engine.model_ids(0))}
    offset = 0
    while not job.done:
        batch_of_records = job.next_records(1_000_000)
        for record in batch_of_records:
            (folder / _name(record, numbers)).write_bytes(record.value or b"")
        job.written(range(offset, offset + len(batch_of_records)))
        offset += len(batch_of_records)
    track.base = Base(EVENTS, 2, Ref([91], "aa"), None, Ref([92], "bb"))
    track.taken(InputTopic.PREDICTIONS, EVENTS + 7)
    track.ticked(1_767_225_600_000)
    (folder / "pointer.json").write_text(track.position(engine.trace(0)).metadata + "\n", encoding="utf-8")
    expected = {"models": engine.model_ids(0), "trace": engine.trace(0), "digest": engine.digest(0)}
    expected["outputs_after"] = len(engine.handle(batch(0, EVENTS, stream()[EVENTS:])).outputs)  # type: ignore[assignment]  # mixed
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


def _name(record: StateRecord, numbers: dict[str, int]) -> str:
    key = decode_key(record.key)
    assert key is not None
    return f"{numbers[key.model_id]}-{key.part}.bin" if key.kind is Kind.PART else f"{key.kind}.bin"


if __name__ == "__main__":
    write()
