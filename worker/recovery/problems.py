"""What can be wrong with stored state. Each is told in one line, and `--on-missing-state` decides; nothing guesses."""

from enum import StrEnum


class ProblemKind(StrEnum):
    """Stable names: never renamed, only added to."""

    FOREIGN_CLUSTER = "foreign_cluster"
    """The state was written on another cluster: offsets mean something else here."""
    TOPIC_RECREATED = "topic_recreated"
    """A topic has been deleted and created again under its name."""
    OTHER_FORMAT = "other_format"
    """The metadata of the committed offset cannot be read, or is of another version."""
    OTHER_OPTIONS = "other_options"
    """The state was written with other options of the engine."""
    STATE_DAMAGED = "state_damaged"
    """Neither the newest snapshot nor the one before it can be read."""
    INPUT_GONE = "input_gone"
    """Records that a restore must read again are not there any more (retention, delete-records)."""
    INPUT_TRUNCATED = "input_truncated"
    """The input ends before the committed position: records have vanished (unclean leader election, new topic)."""
    POSITION_MISSING = "position_missing"
    """There is state, but no committed position that points at it (expired, deleted, or reset by a tool)."""
    DIGEST_MISMATCH = "digest_mismatch"
    """A replay gave something else than the first run: another library or CPU, or damage."""
    NO_STATE_PARTITION = "no_state_partition"
    """`predictions` has more partitions than `labels` or `state`."""


class StateProblemError(Exception):
    """The state of a shard cannot be restored; the message says why and what to do."""

    def __init__(self, kind: ProblemKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
