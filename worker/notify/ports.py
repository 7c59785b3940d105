"""What a courier needs from outside."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from worker.edges.http_client import Answer, NoAnswer, Request
from worker.edges.kafka.arrived import Arrived
from worker.ports import Clock


class Alerts(Protocol):
    """The topic `alerts`, for one target, from where that target is."""

    def next(self, wait_ms: int) -> Arrived | None:
        """Return the next record, waiting at most so long. Raises SourceError."""
        ...

    def wait(self, wait_ms: int) -> None:
        """Wait and stay in the group, without taking a record. Raises SourceError."""
        ...

    def owns(self, arrived: Arrived) -> bool:
        """Tell whether a record is still this process's to deliver."""
        ...

    def done(self, arrived: Arrived) -> None:
        """Commit the position behind a record. Raises SourceError."""
        ...

    def pass_over(self, arrived: Arrived) -> None:
        """Note that nobody wants a record; it is committed some time later."""
        ...

    def at_end(self) -> bool:
        """Tell whether all has been taken that was there at the beginning."""
        ...

    def close(self) -> None:
        """Commit what was passed over, and leave the group."""
        ...


class Incidents(Protocol):
    """The compacted topic `incidents`, from its beginning."""

    def fetch(self) -> Sequence[Arrived]:
        """Return what has come, without waiting. Raises SourceError."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Sender(Protocol):
    """Posts requests."""

    def post(self, request: Request) -> Answer | NoAnswer:
        """Send a request once."""
        ...


class DeadLetters(Protocol):
    """The topic of dead letters."""

    def bury(self, arrived: Arrived, *, reason: str, detail: str, target: str) -> None:
        """Write a record that was given up; return when Kafka has it. Raises SinkError."""
        ...


class Health(Protocol):
    """Where it is told how the target is."""

    def beat(self) -> None:
        """Note that the thread is alive."""
        ...

    def failed(self, what: str) -> None:
        """Note that the target did not take something."""
        ...

    def worked(self, what: str) -> None:
        """Note that it took it, or that there is nothing to be told any more."""
        ...


class CourierPorts(NamedTuple):
    """All of it."""

    alerts: Alerts
    sender: Sender
    dead_letters: DeadLetters
    clock: Clock
    health: Health
