"""Records on their way: raw batches of input topics, encoded records for output topics."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class InputTopic(StrEnum):
    """What is read; an edge maps it to a configured topic name."""

    PREDICTIONS = "predictions"
    LABELS = "labels"
    FEEDBACK = "feedback"
    """One partition for all shards: each of them gets every record."""
    STATE = "state"
    """The worker's own: read back at a restore only, never by the engine."""


class RawBatch(NamedTuple):
    """Consecutive records of one input partition as columns of equal length, oldest first.

    `partition` is the shard that they are for: of `feedback` each shard gets the same records.

    Offsets may have gaps (compaction, transaction markers) but only ever grow. `keys` and `headers` are kept
    for dead letters alone.
    """

    partition: int
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None]
    topic: InputTopic = InputTopic.PREDICTIONS


class OutputTopic(StrEnum):
    """Where an output record goes; the sink maps it to a configured topic name."""

    ALERTS = "alerts"
    INCIDENTS = "incidents"
    """Compacted: the latest step of each open incident by fingerprint, and a tombstone when it is resolved."""
    METRICS = "metrics"
    MAINTENANCE = "maintenance"
    SCORES = "scores"
    """Only where `engine.scores` asks for them."""
    DEAD_LETTERS = "dead-letters"


class Artefact(NamedTuple):
    """A model that an output record speaks of: it must be stored before the record is visible."""

    path: str
    """Where it lies in the store; it follows from the content (`maintenance.manifest.model_path`)."""
    content: bytes
    manifest: bytes
    """A `maintenance.manifest.Manifest` as JSON."""


class Output(NamedTuple):
    """One encoded output record, tagged with the shard and the input offset that caused it."""

    topic: OutputTopic
    shard: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    artefact: Artefact | None = None
    """No part of the record."""
