"""What the loop tells of itself. The default listens to nothing; `app` counts and logs what matters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.core.engine import Handled
from worker.core.events import InputTopic, Output, RawBatch
from worker.ports import CommitOutcome


class Shards(NamedTuple):
    """How many shards this worker has, and how far those are that come back."""

    live: int
    restoring: int
    refused: int
    records_left: int
    """To be replayed, as far as it is known."""
    seconds_left: float | None
    oldest_cut_seconds: float
    """Age of the oldest snapshot among the live shards that have changed since."""
    lag_seconds: float = 0.0
    """How long after Kafka's timestamp the latest record was taken."""
    thinning: int = 0
    """The highest level among the live shards at which maintenance is thinned: one event in 2^level is used for it."""


class Census(NamedTuple):
    """What is looked up only now and then, because it takes a walk over all models."""

    models: Mapping[int, Sequence[str]]
    """Those that are watched, by live shard."""
    incidents: Mapping[tuple[int, str, str], int]
    """How many are open, by shard, model and severity."""
    lag: Mapping[tuple[InputTopic, int], int]
    """Records that wait, by topic and partition, as far as it is known."""


class MaintenanceCost(NamedTuple):
    """What maintenance has cost in one window of some seconds."""

    share: float | None
    """Of what the engine has cost, with the fits; None where that was next to nothing."""
    process_s: float
    """Spent for it in this process."""
    children_s: float
    """CPU spent for fits of challengers in other processes."""
    level: int
    """At which maintenance is thinned from here on."""


class Observer:
    """Is told what the loop does."""

    def alive(self) -> None:
        """A bounded piece of work has been done: the heartbeat."""

    def fetched(self, batches: Sequence[RawBatch], seconds: float) -> None:
        """Records have been read."""

    def handled(self, handled: Handled, seconds: float) -> None:
        """A batch has been processed."""

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """A transaction has become visible."""

    def alerted(self, seconds: Sequence[float]) -> None:
        """Alerts have become visible: how long after Kafka's timestamps of the records that caused them."""

    def aborted(self, outcome: CommitOutcome) -> None:
        """A transaction has not become visible, or it is not known yet."""

    def captured(self, seconds: float) -> None:
        """A part of a snapshot has been captured and packed."""

    def snapshot(self, partition: int, size: int, seconds: float) -> None:
        """A snapshot is complete: bytes written, and the time from its cut."""

    def restored(self, partition: int, replayed: int, seconds: float) -> None:
        """A shard is live: records replayed, and the time since it was assigned."""

    def replaying(self, records: int, seconds: float) -> None:
        """A slice of restores has been done."""

    def refused(self, partition: int, kind: str, message: str) -> None:
        """A shard's state cannot be restored, and nobody said to begin anew: it is not worked on."""

    def noted(self, partition: int, message: str) -> None:
        """Something was wrong with a shard's state, and has been dealt with."""

    def maintained(self, cost: MaintenanceCost) -> None:
        """A window has been judged."""

    def artefact_stored(self, path: str, size: int, seconds: float) -> None:
        """A model is in the store: its bytes, and how long that took."""

    def artefact_failed(self, message: str) -> None:
        """A model could not be stored, which is tried again, or old ones not removed."""

    def abandoned(self, partitions: Sequence[int]) -> None:
        """Partitions were given up without a last commit: the new owner does that work again."""

    def partitions(self, what: str, partitions: Sequence[int]) -> None:
        """Partitions were assigned, revoked or lost."""

    def lagging(self, seconds: float) -> None:
        """Records are taken so late from here on that their results are marked."""

    def caught_up(self) -> None:
        """They are not any more."""

    def shards(self, shards: Shards) -> None:
        """What there is now; told once a turn."""

    def census(self, census: Census) -> None:
        """What there is now; told every few seconds."""
