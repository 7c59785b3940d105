"""The rig that is the model."""

import random
from collections.abc import Mapping, Sequence

from tests.sim.broker import SimBroker
from tests.sim.group import Timing
from tests.sim.host import QuietHost
from tests.sim.membership import SimMembership
from tests.sim.reading import SimHistory, SimSource
from tests.sim.rigs import PARTITIONS, Listener, Member, OpenTransaction
from tests.sim.sink import SimSink
from tests.sim.transactions import ProducerFencedError
from worker.core.events import InputTopic, OutputTopic
from worker.ports import History, Position, Sink, Source


class SimRig:
    """A broker in memory, whose time moves when somebody waits."""

    def __init__(self) -> None:
        rng = random.Random(0)
        self._broker = SimBroker(PARTITIONS, rng, Timing(session_ms=800))
        self._host = QuietHost(self._broker, rng)

    def member(self, *, hasty: bool = False) -> Member:
        """Join the group."""
        port = SimMembership(self._host, poll_interval_ms_max=1_500 if hasty else 120_000)
        self._host.clients.append(port)
        return Member(port, Listener())

    def sink(self, member: Member, name: str = "worker") -> Sink:
        """Build a sink."""
        return SimSink(self._host, name, lambda: _told(member))

    def stale_sink(self, member: Member, times: int) -> Sink:
        """Build a sink that tells another generation at first."""
        generations = iter([99] * times)

        def tell() -> tuple[str, int]:
            member_id, generation = _told(member)
            return member_id, next(generations, generation)

        return SimSink(self._host, "stale", tell)

    def source(self) -> Source:
        """Build a source."""
        return SimSource(self._host)

    def history(self) -> History:
        """Build a history."""
        return SimHistory(self._host)

    def transaction(self, name: str, timeout_ms: int = 60_000) -> OpenTransaction:
        """Begin a transaction."""
        return _SimTransaction(self._broker, name, timeout_ms)

    def fill(self, topic: InputTopic, partition: int, values: Sequence[bytes]) -> None:
        """Write records."""
        for value in values:
            self._broker.log(topic, partition).append(0, b"key", value)

    def forget(self, topic: InputTopic, partition: int, before: int) -> None:
        """Delete records."""
        self._broker.log(topic, partition).delete_before(before)

    def visible(self, topic: InputTopic | OutputTopic, partition: int) -> list[tuple[int, bytes | None]]:
        """Return what is visible."""
        log = self._broker.log(topic, partition)
        return [(record.offset, record.value) for record in log.read(log.first, 10_000, committed=True).records]

    def committed_labels(self) -> list[int]:
        """Return the committed label offsets."""
        places = [self._broker.group.committed.get(partition) for partition in range(PARTITIONS)]
        return [-1 if place is None or place.label_offset is None else place.label_offset for place in places]

    def compact_state(self) -> None:
        """Compact all but the last record."""
        for partition in range(PARTITIONS):
            log = self._broker.log(InputTopic.STATE, partition)
            log.compact(log.end - 1, self._broker.now_ms, tombstones_kept_ms=100)

    def pause(self) -> None:
        """Let time go by."""
        self._host.sleep(10)

    def leave(self, member: Member) -> None:
        """Leave the group."""
        member.port.close(member.listener)

    def close(self) -> None:
        """Close everything."""


def _told(member: Member) -> tuple[str, int]:
    assert isinstance(member.port, SimMembership)
    return member.port.group_metadata()


class _SimTransaction:
    def __init__(self, broker: SimBroker, name: str, timeout_ms: int) -> None:
        self._broker = broker
        self._name = name
        self._epoch = broker.transactions.initialise(name, timeout_ms)

    def write(self, topic: InputTopic | OutputTopic, partition: int, value: bytes, key: bytes = b"key") -> None:
        """Write a record."""
        log, record = self._broker.log(topic, partition), (key, value, None)
        self._broker.transactions.append(self._name, self._epoch, log, self._broker.now_ms, record)

    def send_positions(self, member: Member, positions: Mapping[int, Position]) -> None:
        """Send positions."""
        now_ms = self._broker.now_ms
        self._broker.transactions.add_offsets(self._name, self._epoch, _told(member), now_ms, positions)

    def end(self, *, committed: bool) -> bool:
        """End it."""
        try:
            self._broker.transactions.end(self._name, self._epoch, self._broker.now_ms, committed=committed)
        except ProducerFencedError:
            return False
        return True
