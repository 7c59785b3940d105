"""Copies the newest snapshot of each shard to one file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from worker import __version__
from worker.core.journal import JournalError, Ref, decode_entries
from worker.core.snapshot import SnapshotError
from worker.ports import Position
from worker.recovery.parts import StoredPart, parts_as_stored, read_parts
from worker.recovery.reading import Chunks
from worker.recovery.stored import Manifest, decode_manifest
from worker.state_admin.container import ExportWriter, Header, PartEntry, ShardEntry, written_at
from worker.state_admin.session import Session, StateAdminError, drive, pointer_of
from worker.state_admin.table import readable_size


class _Found(NamedTuple):
    entry: ShardEntry
    manifest_payload: bytes
    manifest: Manifest


def export_state(session: Session, path: Path, partitions: Sequence[int]) -> list[str]:
    """Write the file; return a line for each shard.

    Raises:
        StateAdminError: there is nothing to write, or something that cannot be read.
        FileError: the file cannot be written.
    """
    positions = session.positions(partitions)
    found = [_look(session, partition, positions[partition]) for partition in partitions]
    shards = [shard for shard in found if isinstance(shard, _Found)]
    lines = [shard if isinstance(shard, str) else _line(shard) for shard in found]
    if not shards:
        raise StateAdminError(f"there is nothing to export: {'; '.join(lines)}")
    header = Header(
        written_by=f"modelvigil {__version__}",
        written_ms=int(time.time() * 1000),
        group=session.identity.group,
        predictions_topic=session.settings.topics.predictions,
        shards=[shard.entry for shard in shards],
    )
    with written_at(path, header) as writer:
        for shard in shards:
            _copy(session, writer, shard)
    return lines


def _look(session: Session, partition: int, position: Position | None) -> _Found | str:
    """Read the manifest of a shard; return a line if there is none."""
    try:
        pointer = pointer_of(position)
        if position is None or pointer is None or pointer.base.snapshot is None:
            return f"shard {partition}: no snapshot"
        payload = _manifest_payload(session, partition, pointer.base.snapshot)
        manifest = decode_manifest(payload)
        entries = decode_entries(pointer.journal)
    except (JournalError, SnapshotError) as error:
        raise _unusable(partition, error) from None
    entry = ShardEntry(
        partition=partition,
        pointer=position.metadata,
        offset=position.offset,
        records_after=sum(entry.records for entry in entries),
        manifest_size=len(payload),
        parts=[PartEntry(part.model_id, part.part, part.ref.size) for part in parts_as_stored(manifest)],
    )
    return _Found(entry, payload, manifest)


def _manifest_payload(session: Session, partition: int, ref: Ref) -> bytes:
    chunks = Chunks(session.history, partition)
    try:
        return drive(chunks.payload(ref))
    finally:
        chunks.close()


def _copy(session: Session, writer: ExportWriter, shard: _Found) -> None:
    partition = shard.entry.partition
    writer.add(shard.manifest_payload)
    chunks = Chunks(session.history, partition)

    def take(_: StoredPart, payload: bytes) -> None:
        writer.add(payload)

    try:
        drive(read_parts(chunks, shard.manifest, take))
    except SnapshotError as error:
        raise _unusable(partition, error) from None
    finally:
        chunks.close()


def _unusable(partition: int, error: Exception) -> StateAdminError:
    return StateAdminError(
        f"shard {partition}: {error}; nothing was exported: a worker that starts goes back to the snapshot before it, "
        "if it can, and stores a new one: then export again, or leave this shard out with --partition"
    )


def _line(shard: _Found) -> str:
    entry, manifest = shard.entry, shard.manifest
    text = (
        f"shard {entry.partition}: {len(manifest.models)} models, {readable_size(manifest.size)}, as at offset "
        f"{manifest.offset}, labels {manifest.label_offset}, feedback {manifest.feedback_offset}"
    )
    if entry.records_after:
        text += (
            f"; {entry.records_after} records after that are not in it: stop the workers first, then they store "
            "everything"
        )
    return text
