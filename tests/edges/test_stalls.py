"""When a silent place is looked at, on a clock of the test. The proof and the cure have stories on a real Kafka."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka import stalls
from worker.edges.kafka.history import KafkaReader
from worker.edges.kafka.stalls import Place, StallWatch

HERE, THERE = Place("predictions", 0), Place("labels", 0)
SILENCE_S = 10.0


class Kafka:
    """Says where places end, and holds no record that a probe could find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.ends = {HERE: 5, THERE: 5}
        self.away = False
        self.asked: list[tuple[float, Place]] = []
        self.probed: list[tuple[Place, int]] = []
        monkeypatch.setattr(stalls, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.watch = StallWatch(self._end_of, self._probe, SILENCE_S)

    def pass_time(self, seconds: float, between: Callable[[], object] = lambda: None) -> list[Place | None]:
        """Fetch nothing every half second; return what was proven."""
        found = []
        for _ in range(int(seconds * 2)):
            self.now_s += 0.5
            between()
            found.append(self.watch.stalled((), drained=True))
        return [each for each in found if each is not None]

    def read(self, _records_max: int, _wait_ms: int) -> RawBatch:
        """Be a reader that finds nothing."""
        return RawBatch(0, [], [], [], [], [], InputTopic.PREDICTIONS)

    def close(self) -> None:
        """Be a reader that is closed."""

    def _end_of(self, place: Place) -> int:
        self.asked.append((self.now_s, place))
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return self.ends[place]

    def _probe(self, place: Place, offset: int) -> KafkaReader:
        self.probed.append((place, offset))
        return cast("KafkaReader", self)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """A Kafka on a clock."""
    return Kafka(monkeypatch)


def test_who_gets_records_or_has_read_all_costs_no_probe(kafka: Kafka) -> None:
    """Only the silent one is asked for, once in ten seconds, and nothing lies ahead of it."""
    kafka.watch.begin(HERE, 5)
    kafka.watch.begin(THERE, 5)
    assert kafka.pass_time(60, lambda: kafka.watch.heard(THERE, 6)) == []
    assert {place for _, place in kafka.asked} == {HERE}
    assert len(kafka.asked) in {5, 6}
    assert kafka.probed == []


def test_an_end_without_records_is_probed_once(kafka: Kafka) -> None:
    """The marker of a transaction is no reason to open a connection every ten seconds; a later end is."""
    kafka.watch.begin(HERE, 4)
    assert kafka.pass_time(120) == []
    assert kafka.probed == [(HERE, 4)]
    kafka.ends[HERE] = 6
    assert kafka.pass_time(60) == []
    assert kafka.probed == [(HERE, 4)] * 2


def test_a_broker_that_is_away_is_asked_seldom(kafka: Kafka) -> None:
    """Each question that fails has held up the records of others."""
    kafka.away = True
    for partition in range(100):
        kafka.watch.begin(Place("predictions", partition), 0)
    kafka.pass_time(60)
    times = [at for at, _ in kafka.asked]
    assert len(times) > 5
    assert min(after - before for before, after in pairwise(times)) >= 5.0
