"""Shippers that hand partitions on, are stopped and are killed, over streams that roll over: each record once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.test_ship_settling import Clock, Log
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.ship import progress
from worker.ship.batches import Batch
from worker.ship.figures import Figures
from worker.ship.health import Health
from worker.ship.progress import Begin, Mark, Place
from worker.ship.shipper import Shipper

RECORDS = 40
PLACES: list[Place] = [("letters", 0), ("letters", 1)]
STEPS = ["step", "step", "tick", "send", "send last", "lose answer", "settle", "settle last", "roll over"]
STEPS += ["hand over", "kill", "stop"]


class Record:
    """A record as a consumer gives it."""

    def __init__(self, place: Place, offset: int) -> None:
        self._place, self._offset = place, offset

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 5

    def headers(self) -> None: ...

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"


class Outputs:
    """Partitions of a topic for one member of the group."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.next: dict[Place, int] = {}

    def fetch(self, records_max: int, wait_ms: int) -> list[Any]:
        records: list[Any] = []
        for place in self.next:
            if self.next[place] < RECORDS:
                records.append(Record(place, self.next[place]))
                self.next[place] += 1
        return records

    def serve(self, wait_ms: int) -> None: ...

    def commit(self, marks: Mapping[Place, Mark]) -> bool:
        if self._world.owner is not self:
            return False
        self._world.marks |= marks
        return True

    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        return {}

    def reached(self, places: Sequence[Place]) -> dict[Place, int]:
        return {}

    def at_end(self) -> bool:
        return False


class Pool:
    """Batches on their way; the test says when something happens to them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.out: list[Batch] = []
        self.asked: list[Batch] = []
        """Those of `out` that the cluster has, and has not answered yet."""
        self._finished: list[Batch] = []

    @property
    def full(self) -> bool:
        return len(self.out) + len(self._finished) >= 3

    @property
    def idle(self) -> bool:
        return not self.out and not self._finished

    def submit(self, batch: Batch) -> None:
        self.out.append(batch)

    def finished(self, wait_s: float = 0.0) -> list[Batch]:
        self._clock.now_ms += int(1000 * wait_s)
        found, self._finished = self._finished, []
        return found

    def abandon(self) -> None:
        self.out.clear()
        self.asked.clear()

    def close(self) -> None: ...

    def settle(self, batch: Batch) -> None:
        """Give a batch back."""
        batch.settled = True
        self.out.remove(batch)
        self._finished.append(batch)


class World:
    """Kafka, the cluster, and the shipper that has the partitions."""

    def __init__(self) -> None:
        self.marks: dict[Place, Mark] = {}
        self.indices: list[Counter[str]] = [Counter()]
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        """Let a new shipper have all partitions."""
        log = Log()
        health = Health(log, self.clock)
        self.pool, self.owner = Pool(self.clock), Outputs(self)
        options = ElasticsearchSettings(bulk_records_max=5, linger_ms=0)
        empty = set() if any(self.indices) else {"dead_letters"}
        port: Any = self.pool
        topics: Any = {"letters": "dead_letters"}
        streams: Any = empty
        self.shipper = Shipper(options, topics, streams, port, health, Figures(health), self.clock, log)
        self.shipper.read_from(self.owner)
        begins = {}
        for place in PLACES:
            mark = self.marks.get(place)
            begins[place] = Begin(mark.offset if mark else 0, mark is not None, mark.metadata if mark else "", RECORDS)
        self.owner.next = {place: begin.offset for place, begin in begins.items()}
        self.shipper.assigned(begins)

    def send(self, batch: Batch) -> None:
        """Create documents as a settler does: what is in question is looked up first."""
        for item in batch.items:
            if not (item.doubtful and any(item.id in index for index in self.indices)):
                # The index that is written to refuses a repeat.
                self.indices[-1][item.id] = 1

    def do(self, step: str) -> None:
        """Do something."""
        if step in {"step", "tick"}:
            self.clock.now_ms += 1_000 if step == "tick" else 0
            self.shipper.step(0)
        elif step == "roll over":
            self.indices.append(Counter())
        elif step in {"hand over", "stop", "kill"}:
            if step != "kill":
                (self.shipper.stop if step == "stop" else self.shipper.revoked)()
            self.start()
        elif self.pool.out:
            self._do_with(self.pool.out[-1 if step.endswith("last") else 0], step)

    def _do_with(self, batch: Batch, step: str) -> None:
        asked = self.pool.asked
        if batch not in asked:
            self.send(batch)
            asked.append(batch)
        if step.startswith("send"):
            return
        asked.remove(batch)
        if step == "lose answer":
            for item in batch.items:
                item.doubtful = True
        else:
            self.pool.settle(batch)

    def finish(self) -> None:
        """Let all be shipped."""
        for _ in range(300):
            self.do("step")
            self.do("settle")
            self.do("tick")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(STEPS), max_size=60))
@example([*["step", "step", "step", "send last"] * 3, "kill", *["step"] * 3, "settle", "stop", "roll over"])
@example([*["step", "step", "step", "settle last"] * 9, "kill", *["step"] * 3, "kill", "roll over"])
@example([*["step"] * 3, "send", "hand over", "roll over"])
@example([*["step"] * 2, "send", "roll over"])
def test_each_record_is_one_document_in_the_end(steps: list[str]) -> None:
    """A batch is settled, in question or lost at any moment, out of order, with a ceiling that is always near."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "AHEAD", 4)
        world = World()
        for step in steps:
            world.do(step)
        world.finish()
    documents: Counter[str] = sum(world.indices, Counter())
    assert documents == Counter(f"{topic}-{part}-{at}-5" for topic, part in PLACES for at in range(RECORDS))
    assert {place: mark.offset for place, mark in world.marks.items()} == dict.fromkeys(PLACES, RECORDS)
