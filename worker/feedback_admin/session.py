"""One command's dealings with the topics: whole partitions in, one record out."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import KafkaError, Message

from worker.cluster import BrokerUnreachableError, TopicsError, connect
from worker.edges.kafka.client import ErrorWatch, blame
from worker.edges.kafka.reading import TopicReader
from worker.edges.kafka.topics import TopicAdmin
from worker.ports import SourceError
from worker.settings import Settings

_SILENCE_S_MAX = 30.0
_DELIVERY_MS = 30_000
_SENDING = {"linger.ms": 0}


class Record(NamedTuple):
    """One committed record."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class Session:
    """What the commands ask of Kafka.

    Args:
        settings: of the workers whose alerts it is about.
        partitions: partition counts by role, of the topics that exist.
    """

    def __init__(self, settings: Settings, partitions: dict[str, int]) -> None:
        self.settings = settings
        self._partitions = partitions
        self._connection = connect(settings)

    def __contains__(self, role: str) -> bool:
        """Tell whether a topic exists."""
        return role in self._partitions

    def topic(self, role: str) -> str:
        """Return the name of a topic."""
        name: str = getattr(self.settings.topics, role)
        return name

    def records(self, role: str) -> Iterator[Record]:
        """Yield all committed records of a topic, each partition from its beginning to where it ends now."""
        with self._reading(role) as reader:
            for batch in reader.batches():
                for offset, written_ms, value in zip(batch.offsets, batch.timestamps_ms, batch.values, strict=True):
                    yield Record(batch.partition, offset, written_ms, value)

    def begin(self, role: str) -> int:
        """Return the first offset that partition 0 of a topic still holds."""
        with self._reading(role) as reader:
            return reader.bounds(0).first

    def send(self, key: str, value: bytes) -> int:
        """Write one record to `feedback`; return its offset once all replicas have it.

        Raises:
            TopicsError: the topic or the broker refuses it.
            BrokerUnreachableError: no answer in time.
        """
        topic, answers = self.topic("feedback"), list[tuple[KafkaError | None, Message]]()
        forced = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": _DELIVERY_MS}
        watch = ErrorWatch()
        producer = self._connection.producer(watch, _SENDING, forced)

        def told(error: KafkaError | None, message: Message) -> None:
            answers.append((error, message))

        producer.produce(topic, value, key=key.encode(), partition=0, on_delivery=told)
        producer.flush(_DELIVERY_MS / 1000 + 1.0)
        if watch.refusal:
            raise TopicsError(f"topic {topic}: {watch.refusal}: check the credentials")
        if not answers:
            raise BrokerUnreachableError(_in_doubt(topic, "no answer"))
        error, message = answers[0]
        if error is None:
            return message.offset() or 0
        reason = blame(error, f"topic {topic}")
        if reason is not None:
            raise TopicsError(reason)
        raise BrokerUnreachableError(_in_doubt(topic, error.str()))

    @contextmanager
    def _reading(self, role: str) -> Iterator[TopicReader]:
        """Give a reader that leaves out transactions still open: nobody is to wait for a worker that was killed."""
        reader = TopicReader(
            self._connection,
            group_id=self.settings.kafka.group_id,
            topic=self.topic(role),
            partitions=self._partitions[role],
            strict=False,
            silence_s_max=_SILENCE_S_MAX,
        )
        try:
            yield reader
        except SourceError as error:
            raise TopicsError(str(error)) from None
        finally:
            reader.close()


@contextmanager
def open_session(settings: Settings, needed: Collection[str]) -> Iterator[Session]:
    """Look at the topics and begin.

    Args:
        settings: of the workers.
        needed: roles without which the command makes no sense.

    Raises:
        TopicsError: one of these does not exist, or `feedback` is not as the workers need it.
        BrokerUnreachableError: Kafka does not answer.
    """
    topics = settings.topics
    names = {role: getattr(topics, role) for role in ("feedback", "alerts", "incidents", "maintenance")}
    partitions = TopicAdmin(connect(settings), names).partition_counts(needed)
    missing = [names[role] for role in needed if role not in partitions]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        raise TopicsError(f"{', '.join(missing)} {verb} not exist: run `modelvigil topics create`")
    if partitions.get("feedback", 1) != 1:
        raise TopicsError(
            f"{names['feedback']} has {partitions['feedback']} partitions and must have one, which every shard reads: "
            "delete it and run `modelvigil topics create`, or name another one ([topics] feedback)"
        )
    yield Session(settings, partitions)


def _in_doubt(topic: str, why: str) -> str:
    return (
        f"topic {topic}: {why} within {_DELIVERY_MS // 1000} s, so it may have been written or not: look at "
        "`modelvigil feedback list` before you send it again"
    )
