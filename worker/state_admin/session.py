"""What all commands on stored state share: who they ask, what they read, and how they commit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar
from uuid import uuid4

from worker.cluster import BrokerUnreachableError, ClusterIdentity, connect, identify, refuse_missing_topics
from worker.core.events import InputTopic
from worker.core.journal import JournalError, Pointer, decode_pointer
from worker.core.snapshot import SnapshotError
from worker.edges.kafka import KafkaHistory, KafkaSink
from worker.edges.kafka.group import KafkaGroup
from worker.ports import CommitOutcome, Position, StateRecord
from worker.recovery.reading import Chunks, Steps, live_keys
from worker.recovery.stored import Manifest, decode_key, decode_manifest
from worker.settings import Settings
from worker.state_identity import state_identity

_SILENCE_S_MAX = 60.0
_PAUSE_S = 0.01
_TRANSACTION_MS = 60_000
"""Longer than a worker's: many deletions may go into one."""
_ATTEMPTS_MAX = 5
_Result = TypeVar("_Result")


class StateAdminError(Exception):
    """It cannot be done; the message says why and what to do."""


class SelectionError(Exception):
    """A partition was asked for that there is not; the message says which there are."""


class Session:
    """One command's dealings with a group and its state.

    Args:
        settings: of the group's workers.
        cluster: what Kafka told of the topics.
    """

    def __init__(self, settings: Settings, cluster: ClusterIdentity) -> None:
        self.settings = settings
        self.partitions = cluster.partitions["predictions"]
        self.stateful = min(self.partitions, cluster.partitions["labels"], cluster.partitions["state"])
        """Partitions that have a place for state; fewer when `predictions` has grown alone."""
        self.has_feedback = "feedback" in cluster.partitions
        self.identity = state_identity(settings, cluster)
        self._connection = connect(settings)
        self.group = KafkaGroup(self._connection, group_id=self.identity.group)
        topics = settings.topics
        inputs = {
            InputTopic.PREDICTIONS: topics.predictions,
            InputTopic.LABELS: topics.labels,
            InputTopic.STATE: topics.state,
        }
        if self.has_feedback:
            inputs[InputTopic.FEEDBACK] = topics.feedback
        self.history = KafkaHistory(self._connection, group_id=self.identity.group, topics=inputs)

    def close(self) -> None:
        """Ask nothing more."""
        self.history.close()
        self.group.close()

    def selected(self, wanted: Sequence[int]) -> list[int]:
        """Return the partitions asked for, all of them without a wish. Raises SelectionError."""
        unknown = [partition for partition in wanted if partition >= self.partitions]
        if unknown:
            raise SelectionError(
                f"--partition {unknown[0]}: {self.settings.topics.predictions} has the partitions 0 to "
                f"{self.partitions - 1}"
            )
        return sorted(set(wanted)) or list(range(self.partitions))

    def refuse_members(self) -> None:
        """Raise StateAdminError while anybody is in the group."""
        members = self.group.members()
        if members:
            raise StateAdminError(
                f"group {self.identity.group} has members ({', '.join(sorted(set(members)))}): stop the "
                "workers first; one that was killed, or has a static id, leaves some seconds later, after its session "
                "timeout"
            )

    def positions(self, partitions: Sequence[int]) -> dict[int, Position | None]:
        """Return what is committed, with the offset committed for `labels`."""
        topics = self.settings.topics
        found = self.group.committed(topics.predictions, partitions)
        labels = self.group.committed(topics.labels, [each for each in partitions if each < self.stateful])
        return {partition: _with_labels(position, labels.get(partition)) for partition, position in found.items()}

    def manifest_in_use(self, partition: int, position: Position | None) -> Manifest | None:
        """Return what a restore at the committed position would begin with, None if nothing that can be read."""
        pointer = readable_pointer(position)
        refs = () if pointer is None else (pointer.base.snapshot, pointer.base.previous)
        with closing(Chunks(self.history, partition)) as chunks:
            for ref in refs:
                try:
                    if ref is not None:
                        return decode_manifest(drive(chunks.payload(ref)))
                except SnapshotError:
                    continue
        return None

    def stored_keys(self, partition: int) -> list[bytes]:
        """Return the keys under which this group has anything in a partition of the state topic."""
        parsed = {key: decode_key(key) for key in drive(live_keys(self.history, partition))}
        return [key for key, known in parsed.items() if known is not None and known.group == self.identity.group]

    @contextmanager
    def sink(self) -> Iterator[KafkaSink]:
        """Give a sink whose commits the broker takes only while the group has no members."""
        topics = self.settings.topics
        timeout_ms = max(_TRANSACTION_MS, self.settings.worker.transaction_timeout_ms)
        sink = KafkaSink(
            self._connection,
            transactional_id=f"{self.identity.group}-state-{uuid4().hex}",
            group_metadata=self.group.outsider,
            input_topic=topics.predictions,
            label_topic=topics.labels,
            state_topic=topics.state,
            topic_names={},
            transaction_timeout_ms=timeout_ms,
            commit_timeout_ms=timeout_ms,
        )
        try:
            yield sink
        finally:
            sink.close()

    def commit(
        self, sink: KafkaSink, positions: Mapping[int, Position], records: Sequence[StateRecord]
    ) -> Sequence[int]:
        """Make records and positions visible; return the offsets of the records.

        All that is committed here may be committed twice, so what is in doubt is done again.
        """
        for _ in range(_ATTEMPTS_MAX):
            outcome, offsets = sink.commit([], positions, records)
            if outcome is CommitOutcome.COMMITTED:
                return offsets
            if outcome in {CommitOutcome.UNKNOWN, CommitOutcome.FENCED}:
                sink.replace()
            self.refuse_members()
        raise BrokerUnreachableError(
            f"no transaction went through in {_ATTEMPTS_MAX} attempts: check Kafka, then run the command again; what "
            "it had done so far counts for nothing, or is done again"
        )


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """Look at the cluster and begin. Raises what `cluster` raises."""
    refuse_missing_topics(settings)
    session = Session(settings, identify(settings))
    try:
        yield session
    finally:
        session.close()


def drive(steps: Steps[_Result]) -> _Result:
    """Do all steps. Raises BrokerUnreachableError when Kafka gives nothing for long."""
    silent_since_s = time.monotonic()
    while True:
        try:
            moved = next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
        now_s = time.monotonic()
        if moved:
            silent_since_s = now_s
        elif now_s - silent_since_s > _SILENCE_S_MAX:
            steps.close()
            raise BrokerUnreachableError(f"Kafka gave nothing for {_SILENCE_S_MAX:g} s: check that it runs, try again")
        else:
            time.sleep(_PAUSE_S)


def pointer_of(position: Position | None) -> Pointer | None:
    """Return the pointer that was committed with a position, if there is one. Raises JournalError."""
    return decode_pointer(position.metadata) if position is not None and position.metadata else None


def readable_pointer(position: Position | None) -> Pointer | None:
    """Return the pointer that was committed with a position, if there is one that can be read."""
    try:
        return pointer_of(position)
    except JournalError:
        return None


def _with_labels(position: Position | None, labels: Position | None) -> Position | None:
    return position._replace(label_offset=labels.offset) if position is not None and labels is not None else position
