"""Does with its clients once or twice what a worker does for hours, and says so: to try the steps, and nothing else.

Arguments: servers, prefix of the topics and of all names, step, count, signal.
"""

import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.e2e.faults.steps import Cue, FaultyConnection
from worker.edges.kafka.client import ErrorWatch, close_beside

_WAIT_MAX_S: Final = 20.0
_ROUNDS: Final = 2


def main(servers: str, prefix: str, step: str, count: str, how: str) -> None:
    """Go through all steps."""
    cue = Cue(step, int(count), signal.Signals[how])
    name = f"{prefix}{step}-{how}"
    connection = FaultyConnection(servers, cue=cue, state_topic=f"{prefix}state")
    member = _join(connection, f"{prefix}in", name)
    member.committed([TopicPartition(f"{prefix}in", 0)], timeout=_WAIT_MAX_S)
    _say("committed_lookup")
    _read(connection, "state_read", lambda consumer: consumer.assign([TopicPartition(f"{prefix}state", 0, 0)]))
    _read(connection, "replay_read", lambda consumer: consumer.assign([TopicPartition(f"{prefix}in", 0, 0)]))
    _read(connection, "poll", lambda consumer: consumer.incremental_assign([TopicPartition(f"{prefix}in", 0, 0)]))
    _transact(connection, prefix, member, name)
    close_beside(member).join(_WAIT_MAX_S)
    _say("closed")


def _join(connection: FaultyConnection, topic: str, group: str) -> Consumer:
    assigned: list[TopicPartition] = []

    def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        assert consumer is member
        consumer.incremental_assign(partitions)
        assigned.extend(partitions)
        _say("assigned")

    def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        _say("revoked")

    forced = {"group.id": group, "partition.assignment.strategy": "cooperative-sticky"}
    member = connection.consumer(ErrorWatch(), {}, forced)
    member.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke)
    end = time.monotonic() + _WAIT_MAX_S
    while not assigned:
        assert time.monotonic() < end
        member.poll(0.1)
    return member


def _read(connection: FaultyConnection, step: str, begin: Callable[[Consumer], None]) -> None:
    consumer = connection.consumer(ErrorWatch(), {}, {"group.id": "not-joined"}, "read_uncommitted")
    begin(consumer)
    assert consumer.consume(1, _WAIT_MAX_S)
    _say(step)
    close_beside(consumer).join(_WAIT_MAX_S)


def _transact(connection: FaultyConnection, prefix: str, member: Consumer, name: str) -> None:
    forced = {"transactional.id": name, "transaction.timeout.ms": 10_000, "linger.ms": 0}
    producer = connection.producer(ErrorWatch(), {}, forced)
    producer.init_transactions(_WAIT_MAX_S)
    _say("init")
    for number in range(_ROUNDS):
        _fill(producer, prefix, number)
        offsets = [TopicPartition(f"{prefix}in", 0, number + 1)]
        producer.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), _WAIT_MAX_S)
        _say("send_offsets")
        producer.commit_transaction(_WAIT_MAX_S)
        _say("committed")
    _fill(producer, prefix, _ROUNDS)
    producer.abort_transaction(_WAIT_MAX_S)
    _say("aborted")


def _fill(producer: Producer, prefix: str, number: int) -> None:
    producer.begin_transaction()
    _say("begin")
    for topic, step in (("out", "produce"), ("state", "state_produce")):
        producer.produce(f"{prefix}{topic}", str(number))
        _say(step)
    assert producer.flush(_WAIT_MAX_S) == 0
    _say("flush")


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
