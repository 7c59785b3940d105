"""What of the model no real Kafka can be brought to show at will: late requests, delayed control records, shares."""

import random

import pytest

from tests.sim.broker import SimBroker
from tests.sim.group import assignment
from tests.sim.transactions import ProducerFencedError
from worker.core.events import OutputTopic

_RECORD = (b"key", b"value", None)


def _visible(broker: SimBroker) -> int:
    return len(broker.log(OutputTopic.ALERTS, 0).committed_records())


def test_a_late_end_ends_the_next_transaction_of_the_same_epoch() -> None:
    """The hole of Kafka without KIP-890, version 2, for clients that go on after a timeout with the same producer."""
    broker = SimBroker(1, random.Random(0))
    log, transactions = broker.log(OutputTopic.ALERTS, 0), broker.transactions
    epoch = transactions.initialise("worker", 60_000)
    transactions.append("worker", epoch, log, 0, _RECORD)
    broker.end_later(100, "worker", epoch, committed=True)
    transactions.end("worker", epoch, 0, committed=False)
    transactions.append("worker", epoch, log, 0, _RECORD)
    broker.tick(100)
    assert _visible(broker) == 1


def test_a_late_end_of_a_former_producer_does_nothing() -> None:
    """That is why a sink is replaced after an unknown outcome."""
    broker = SimBroker(1, random.Random(0))
    log, transactions = broker.log(OutputTopic.ALERTS, 0), broker.transactions
    old = transactions.initialise("worker", 60_000)
    transactions.append("worker", old, log, 0, _RECORD)
    broker.end_later(100, "worker", old, committed=True)
    new = transactions.initialise("worker", 60_000)
    transactions.append("worker", new, log, 0, _RECORD)
    broker.tick(100)
    assert _visible(broker) == 0
    with pytest.raises(ProducerFencedError):
        transactions.append("worker", old, log, 0, _RECORD)
    transactions.end("worker", new, 100, committed=True)
    assert _visible(broker) == 1


def test_control_records_come_later_and_one_by_one() -> None:
    """A commit is answered before all of it is visible; the next write of the same producer waits for the rest."""
    broker = SimBroker(8, random.Random(1), marker_delay_ms_max=100)
    logs = [broker.log(OutputTopic.ALERTS, partition) for partition in range(8)]
    epoch = broker.transactions.initialise("worker", 60_000)
    for log in logs:
        broker.transactions.append("worker", epoch, log, 0, _RECORD)
    broker.transactions.end("worker", epoch, 0, committed=True)
    broker.tick(50)
    assert 0 < sum(len(log.committed_records()) for log in logs) < len(logs)
    broker.transactions.append("worker", epoch, logs[0], 50, _RECORD)
    assert sum(len(log.committed_records()) for log in logs) == len(logs)


@pytest.mark.parametrize("seed", range(20))
def test_shares_settle_balanced_and_nothing_has_two_owners(seed: int) -> None:
    """Round by round, as the group does it: partitions that change hands are free in between."""
    rng = random.Random(seed)
    partitions, members = rng.randint(1, 6), [f"member-{number}" for number in range(rng.randint(1, 4))]
    owned: dict[str, frozenset[int]] = {member: frozenset() for member in members}
    owned[members[-1]] = frozenset(range(partitions))
    for _ in range(2):
        assigned = assignment(partitions, owned)
        for member, mine in assigned.items():
            others = [part for other, parts in owned.items() if other != member for part in parts]
            assert mine.isdisjoint(others)
        owned = assigned
    shares = sorted(map(len, owned.values()))
    assert shares[-1] - shares[0] <= 1
    assert sorted(part for mine in owned.values() for part in mine) == list(range(partitions))
