"""Brings batches into the cluster, on a thread of its own for each request that may be in flight.

Rule 1: a batch is settled when each of its documents is there, or is a dead letter, and not before.
Rule 2: what may be there already is looked up before it is sent: data streams refuse a repeat only until they roll
over.
Rule 3: a document that is refused becomes a dead letter only if the cluster is seen to take others of its stream:
otherwise it is the cluster that is at fault, and all is tried again.
Rule 4: a dead letter that is refused makes no other one: it stays in Kafka, and an ERROR says so.
Rule 5: a server may refuse all documents of a request for one of them (OpenSearch does, where the ingest pipeline
cannot read it). So a refusal counts only where another one of the stream was taken in the same request, or it was
alone.

    documents -> look up the doubtful ones -> create -> created, repeated ------------> settled
                                                |---- refused, all others of the batch tried -> dead letter
                                                |---- together too large, or refused together -> halves
                                                +---- again, doubtful, blocked -> pause
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from worker.edges.http_client import Answer, NoAnswer, pause_ms, retry_after_ms
from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import STREAMS, ElasticsearchSettings, Stream
from worker.ports import Clock
from worker.ship.answers import Outcome, Verdict, is_blocking, verdicts
from worker.ship.batches import Batch, Item, body_of, halves, stream_name
from worker.ship.cluster import Failed, Found
from worker.ship.figures import Figures
from worker.ship.health import Health

REFUSED: Final = "shipping_refused"
"""A dead letter's reason: the cluster refuses the document, or the record cannot become one."""
TARGET: Final = "elasticsearch"
_CRASHES_MAX: Final = 8
_SLICE_S: Final = 0.1
_THERE: Final = (Outcome.CREATED, Outcome.REPEATED)


class ClusterPort(Protocol):
    """What is asked of the cluster."""

    def create(self, body: bytes) -> Answer | NoAnswer:
        """Send a bulk request."""
        ...

    def look_up(self, streams: Sequence[str], ids: Sequence[str]) -> Found | Failed:
        """Tell which documents are there."""
        ...


class DeadLetters(Protocol):
    """The topic of dead letters."""

    def bury(self, arrived: Arrived, *, reason: str, detail: str, target: str) -> None:
        """Write a record that was given up; return when Kafka has it. Raises SinkError."""
        ...


class Refusals:
    """Tells refusals of documents from those of a cluster that refuses all. All threads may use it.

    Args:
        refused_max: of a stream in a row that are believed without a document taken.
    """

    def __init__(self, refused_max: int) -> None:
        self._refused_max = refused_max
        self._lock = threading.Lock()
        self._taken: Counter[Stream] = Counter()
        self._in_a_row: Counter[Stream] = Counter()

    def taken(self, stream: Stream, documents: int) -> None:
        """Note documents that are there."""
        with self._lock:
            self._taken[stream] += documents
            self._in_a_row[stream] = 0

    def taken_so_far(self, stream: Stream) -> int:
        """Return how many were noted."""
        return self._taken[stream]

    def believed(self, stream: Stream, refused: int, taken_before: int) -> bool:
        """Tell whether refusals are to be believed.

        Args:
            stream: of the documents.
            refused: documents that were refused now.
            taken_before: what `taken_so_far` was before their batch began.
        """
        with self._lock:
            if self._taken[stream] == taken_before and self._in_a_row[stream] + refused > self._refused_max:
                return False
            self._in_a_row[stream] += refused
            return True


class _Suspect(NamedTuple):
    """A document that is refused, for himself as it seems."""

    item: Item
    reason: str
    early: bool
    """Whether that was before any other one of its stream was taken."""


@dataclass(slots=True)
class _Step:
    """What an attempt has led to."""

    left: list[Item] = field(default_factory=list)
    halves: list[list[Item]] = field(default_factory=list)
    settled: int = 0
    reason: str = ""
    blocked: bool = False
    asked_ms: int = 0
    """The pause that the cluster asks for."""


@dataclass(slots=True)
class Settler:
    """Settles batches; each thread has its own one, with what is shared in it."""

    settings: ElasticsearchSettings
    cluster: ClusterPort
    dead_letters: DeadLetters
    refusals: Refusals
    health: Health
    figures: Figures
    clock: Clock
    log: Any
    stopping: Callable[[], bool]
    name: str
    """Of its thread."""
    draw: Callable[[], float] = random.random
    taken_before: dict[Stream, int] = field(default_factory=dict)
    """Documents of each stream that were taken when the batch in hand began."""
    suspects: list[_Suspect] = field(default_factory=list)
    """Of the batch in hand."""

    def settle(self, batch: Batch) -> bool:
        """Settle a batch; False if it was given up before. Raises SinkError."""
        self.taken_before = {stream: self.refusals.taken_so_far(stream) for stream in STREAMS}
        self.suspects.clear()
        work, failures = [self._fit(batch.items)], 0
        while any(work) or self.suspects:
            if batch.abandoned or self.stopping():
                self.health.worked(self.name)
                return False
            step = self._judged() if not any(work) or self._refuses_all() else self._attempt(work.pop())
            work += step.halves
            if step.left:
                work.append(step.left)
                self._failed(step, 0 if step.settled else failures, batch)
                failures = 0 if step.settled else failures + 1
            elif step.settled:
                self.health.worked(self.name)
        self.health.worked(self.name)
        return True

    def _fit(self, items: Sequence[Item]) -> list[Item]:
        for item in items:
            if item.unfit:
                self._bury(item, item.unfit)
        return [item for item in items if not item.unfit]

    def _attempt(self, items: list[Item]) -> _Step:
        doubtful = [item for item in items if item.doubtful]
        found = self._found(doubtful) if doubtful else frozenset()
        if isinstance(found, Failed):
            answer = found.answer
            blocked = isinstance(answer, Answer) and is_blocking(answer.status)
            return _Step(left=items, reason=found.reason, blocked=blocked, asked_ms=self._asked_ms(answer))
        for item in doubtful:
            item.doubtful = False
        there = [item for item in items if item.id in found]
        self._count(there, [Verdict(Outcome.REPEATED)] * len(there))
        missing = [item for item in items if item.id not in found] if there else items
        if not missing:
            return _Step(settled=len(there))
        step = self._sent(missing)
        step.settled += len(there)
        return step

    def _sent(self, missing: list[Item]) -> _Step:
        began_s = time.perf_counter()
        answer = self.cluster.create(body_of(missing))
        self.figures.bulk_seconds.observe(time.perf_counter() - began_s)
        step = self._sorted(missing, verdicts(answer, len(missing)))
        step.asked_ms = self._asked_ms(answer)
        self.figures.requests.labels("retried" if step.left or step.halves else "ok").inc()
        return step

    def _found(self, items: Sequence[Item]) -> frozenset[str] | Failed:
        streams = sorted({stream_name(item.stream, self.settings.namespace) for item in items})
        answer = self.cluster.look_up(streams, [item.id for item in items])
        return answer.ids if isinstance(answer, Found) else answer

    def _sorted(self, items: list[Item], told: list[Verdict]) -> _Step:
        """Tell what is settled from what is not, and do what a refusal asks for."""
        self._count(items, told)
        if told[0].outcome is Outcome.SPLIT:
            return _Step(halves=halves(items))
        if told[0].outcome is Outcome.CREATED and told[0] is told[-1] and told.count(told[0]) == len(told):
            return _Step(settled=len(items))
        step, refused = _Step(), list[tuple[Item, str]]()
        for item, verdict in zip(items, told, strict=True):
            if verdict.outcome in _THERE:
                step.settled += 1
                continue
            crashed = verdict.outcome is Outcome.CRASHED
            item.crashes += crashed
            item.doubtful = crashed or verdict.outcome is Outcome.DOUBTFUL
            if verdict.outcome is Outcome.REFUSED or (crashed and item.crashes > _CRASHES_MAX):
                refused.append((item, verdict.reason))
                continue
            step.left.append(item)
            # Of several reasons the one that a person must look at is told.
            if not step.reason or (verdict.outcome is Outcome.BLOCKED and not step.blocked):
                step.reason = verdict.reason
            step.blocked |= verdict.outcome is Outcome.BLOCKED
        taken = {item.stream for item, verdict in zip(items, told, strict=True) if verdict.outcome in _THERE}
        self._suspect(refused, taken, step, alone=len(items) == 1)
        return step

    def _suspect(self, refused: Sequence[tuple[Item, str]], taken: set[Stream], step: _Step, *, alone: bool) -> None:
        """Tell who is refused for himself from those that may be refused for another one (rule 5)."""
        self.suspects += [
            _Suspect(item, reason, early=not self._takes(item.stream))
            for item, reason in refused
            if alone or item.stream in taken
        ]
        others = [item for item, _ in refused if not alone and item.stream not in taken]
        if others:
            step.halves = halves(others) if len(others) > 1 else [others]

    def _takes(self, stream: Stream) -> bool:
        """Tell whether the cluster has taken documents of a stream since the batch in hand began."""
        return self.refusals.taken_so_far(stream) != self.taken_before[stream]

    def _refuses_all(self) -> bool:
        """Tell whether the cluster seems to refuse all of a stream, so that there is no sense in going on."""
        counts = Counter(each.item.stream for each in self.suspects)
        too_many = self.settings.refused_max
        return any(suspects > too_many and not self._takes(stream) for stream, suspects in counts.items())

    def _judged(self) -> _Step:
        """Bury what is refused, stream by stream, if that is to be believed (rule 3)."""
        step, suspects = _Step(), self.suspects
        self.suspects = []
        for stream in sorted({each.item.stream for each in suspects}):
            of_stream = [each for each in suspects if each.item.stream == stream]
            if self._takes(stream):
                # The cluster may have been mended since: these get another chance.
                early = [each.item for each in of_stream if each.early]
                step.halves += [early] if early else []
                of_stream = [each for each in of_stream if not each.early]
            if self.refusals.believed(stream, len(of_stream), self.taken_before[stream]):
                for each in of_stream:
                    self._bury(each.item, each.reason)
                step.settled += len(of_stream)
            else:
                step.left += [each.item for each in of_stream]
                step.blocked = True
                step.reason = f"all documents of {stream} are refused, so none is given up: {of_stream[0].reason}"
        return step

    def _bury(self, item: Item, reason: str) -> None:
        """Keep a record as a dead letter (rule 4)."""
        arrived = item.arrived
        told = "the cluster refuses a dead letter, it is in Kafka only"
        if item.stream != "dead_letters":
            self.dead_letters.bury(arrived, reason=REFUSED, detail=reason, target=TARGET)
            told = "a record was not shipped, it is a dead letter now"
        self.figures.documents.labels(item.stream, "refused").inc()
        where = {"topic": arrived.topic, "partition": arrived.partition, "offset": arrived.offset}
        self.log.error(told, detail=reason, **where)

    def _count(self, items: Sequence[Item], told: Sequence[Verdict]) -> None:
        """Count what is there now."""
        if not items:
            return
        pairs = Counter(
            (item.stream, verdict.outcome)
            for item, verdict in zip(items, told, strict=True)
            if verdict.outcome in _THERE
        )
        for (stream, outcome), documents in pairs.items():
            self.figures.documents.labels(stream, outcome.value).inc(documents)
            self.refusals.taken(stream, documents)

    def _failed(self, step: _Step, failures: int, batch: Batch) -> None:
        """Tell of a failure, and wait before the next attempt."""
        self.health.failed(self.name, step.reason, blocked=step.blocked)
        drawn_ms = pause_ms(failures, self.settings.retry_ms, self.settings.retry_max_ms, self.draw())
        until_ms = self.clock.monotonic_ms() + max(drawn_ms, step.asked_ms)
        while not (batch.abandoned or self.stopping()):
            left_s = (until_ms - self.clock.monotonic_ms()) / 1000
            if left_s <= 0:
                return
            self.clock.pause(int(1000 * min(left_s, _SLICE_S)) + 1)

    def _asked_ms(self, answer: Answer | NoAnswer) -> int:
        if isinstance(answer, NoAnswer):
            return 0
        return min(retry_after_ms(answer.retry_after, self.clock.epoch_ms()), self.settings.retry_after_max_ms)
