"""What all Kafka clients of this worker share: the connection, errors by blame, and deadlines.

Rule 1: no call to a client is made without a timeout.
Rule 2: what the user configures comes between our defaults and what correctness forces: it can tune, not break.
"""

# ruff: noqa: SLF001 - confluent-kafka names librdkafka's own error codes with a leading underscore; they are public

import ctypes
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from worker.ports import SourceError

Isolation = Literal["read_committed", "read_uncommitted"]

POSITION_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})
"""The offset to read from is not in the partition."""

TOPIC_GONE = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""The topic or partition does not exist, or was created again."""

FORBIDDEN = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""The broker refuses this user: waiting does not help."""

DAMAGED = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.INVALID_MSG})
"""What the broker has stored, or sent, cannot be read."""

FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
"""Another producer has taken over the transactional id."""

INDEFINITE = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._DESTROY,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""Whether the request was carried out is not known."""

TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
TIMED_OUT = KafkaError._TIMED_OUT
FATAL = KafkaError._FATAL
MAX_POLL_EXCEEDED = KafkaError._MAX_POLL_EXCEEDED
TOPIC_EXISTS = KafkaError.TOPIC_ALREADY_EXISTS

_FENCED_MEMBER = [KafkaError(code).str() for code in (KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID)]

_REPEAT_S = 10.0
_LINES_MAX = 256
_NUMBERS = re.compile(r"\d+")


class ClientError(Exception):
    """A client cannot be built or used; the message says what to do."""


class NotAMemberError(Exception):
    """This worker is not in the group right now: what it commits would not be fenced."""


class FencedMemberError(SourceError):
    """Two processes use the same static member id, and this one has lost it."""


class ClientLogger(Protocol):
    """Where log lines go. A standard `logging.Logger` is one, and a structlog logger."""

    def log(self, level: int, msg: str, /) -> object:
        """Write one line, as it is."""
        ...


class LibraryLog:
    """Passes on what librdkafka logs: as warnings, because it mends by itself what it reports, and not over and over.

    While a broker is away it writes the same line, with other numbers in it, many times a second.
    """

    def __init__(self, logger: ClientLogger) -> None:
        self._logger = logger
        self._last_s: dict[str, float] = {}

    def log(self, level: int, msg: str, /, *args: object) -> None:
        """Write a line, unless the like of it was written less than 10 s ago."""
        text = msg % args
        alike = _NUMBERS.sub("", text)
        now_s = time.monotonic()
        if now_s - self._last_s.get(alike, -_REPEAT_S) < _REPEAT_S:
            return
        if len(self._last_s) >= _LINES_MAX:
            self._last_s.clear()
        self._last_s[alike] = now_s
        fatal = level >= logging.CRITICAL
        self._logger.log(logging.ERROR if fatal else min(level, logging.WARNING), text)


@dataclass(slots=True)
class ErrorWatch:
    """Remembers what librdkafka reports beside the calls themselves. Transport errors are its business, not ours.

    A fatal error does not come here: the call that serves callbacks raises it, or a consumer returns it as a message.
    """

    refusal: str = ""
    """Why the broker refuses to talk to us, if it does."""

    def __call__(self, error: KafkaError) -> None:
        """Serve librdkafka's `error_cb`."""
        if error.code() in FORBIDDEN:
            self.refusal = error.str()


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the cluster is and how to talk to it; builds every client, so that all are built alike."""

    bootstrap_servers: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """librdkafka settings of the user; not in `repr`, because passwords are among them."""
    logger: ClientLogger = field(default_factory=lambda: logging.getLogger("modelvigil.kafka"), repr=False)

    def consumer(
        self,
        watch: ErrorWatch,
        defaults: Mapping[str, object],
        forced: Mapping[str, object],
        isolation: Isolation = "read_committed",
    ) -> Consumer:
        """Build a consumer that commits nothing by itself; without another order, it sees committed records only.

        `close_beside` closes it.
        """
        forced = {
            **forced,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            "isolation.level": isolation,
            "allow.auto.create.topics": False,
        }
        try:
            consumer = Consumer(self._merged(watch, defaults, forced), logger=LibraryLog(self.logger))
        except KafkaException as exception:
            raise _refused_settings(exception) from None
        # Destroying a consumer that was not closed, as a crash does at the exit of the interpreter, can spin for ever
        # in librdkafka (seen in one of nine runs after a lost assignment). So it lives until `close_beside` has closed
        # it and gives this reference back, or until the process ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(consumer))
        return consumer

    def producer(self, watch: ErrorWatch, defaults: Mapping[str, object], forced: Mapping[str, object]) -> Producer:
        """Build a producer."""
        try:
            return Producer(self._merged(watch, defaults, forced), logger=LibraryLog(self.logger))
        except KafkaException as exception:
            raise _refused_settings(exception) from None

    def admin(self, watch: ErrorWatch) -> AdminClient:
        """Build a client for topics."""
        try:
            return AdminClient(self._merged(watch, {}, {}), logger=LibraryLog(self.logger))
        except KafkaException as exception:
            raise _refused_settings(exception) from None

    def warn(self, text: str) -> None:
        """Log something that went wrong without a loss."""
        self.logger.log(logging.WARNING, text)

    def _merged(
        self, watch: ErrorWatch, defaults: Mapping[str, object], forced: Mapping[str, object]
    ) -> dict[str, Any]:
        common = {
            "client.id": "modelvigil",
            "reconnect.backoff.max.ms": 2_000,
            "topic.metadata.refresh.interval.ms": 30_000,
        }
        ours = {"bootstrap.servers": self.bootstrap_servers, "error_cb": watch}
        return {**common, **defaults, **self.properties, **forced, **ours}


def _refused_settings(exception: KafkaException) -> ClientError:
    return ClientError(f"[kafka.properties] cannot be used: {error_of(exception).str()}")


def error_of(exception: KafkaException) -> KafkaError:
    """Return the librdkafka error inside an exception."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error


def blame(error: KafkaError, what: str) -> str | None:
    """Say what to do about an error that waiting does not mend; None if it may pass by itself."""
    code = error.code()
    if code in FORBIDDEN:
        return f"{what}: Kafka refuses this user ({error.name()}): check the credentials and the ACLs"
    if code in POSITION_GONE:
        return (
            f"{what}: the records at the position to read from are gone ({error.str()}): retention has passed it, or "
            "the topic was created again; decide where to go on and reset the offset of the consumer group"
        )
    if code in TOPIC_GONE:
        return f"{what}: the topic or partition does not exist ({error.name()}): run `modelvigil topics create`"
    if code in DAMAGED:
        return f"{what}: records cannot be read ({error.str()}): check the disks of the broker that leads the partition"
    # What a consumer returns as a message has the code, but not the mark.
    if error.fatal() or code == FATAL:
        return f"{what}: {error.name()}: {error.str()}; restart the worker"
    return None


def fenced_member(error: KafkaError) -> bool:
    """Tell whether a fatal error means that another process has this member's static id.

    Its code is only `_FATAL`; the reason behind it is in the text.
    """
    return any(reason in error.str() for reason in _FENCED_MEMBER)


def close_beside(consumer: Consumer) -> threading.Thread:
    """Close a consumer on a thread of its own: `close` takes no timeout and can wait for a coordinator for ever."""
    thread = threading.Thread(target=_close, args=(consumer,), name="consumer-close", daemon=True)
    thread.start()
    return thread


def _close(consumer: Consumer) -> None:
    consumer.close()
    # Closed, it may be destroyed: the reference that `KafkaConnection.consumer` has taken goes back.
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(consumer))


class Deadline:
    """A point in time that all calls of one operation share, so that their timeouts do not add up."""

    __slots__ = ("_end",)

    def __init__(self, timeout_ms: int) -> None:
        self._end = time.monotonic() + timeout_ms / 1000

    def left_s(self) -> float:
        """Return the seconds left, never less than 1 ms: librdkafka takes 0 or less for other things."""
        return max(0.001, self._end - time.monotonic())

    def passed(self) -> bool:
        """Tell whether it is over."""
        return time.monotonic() >= self._end
