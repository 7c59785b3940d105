"""Plays a range of the input through the engine, and compares what comes out with what was published."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from worker.core.engine import Engine
from worker.core.options import EngineOptions, MaintenanceOptions
from worker.core.shard import Topics
from worker.core.warm_up import compile_kernels
from worker.edges.kernel_cache import KernelCache
from worker.edges.refit_pool import ProcessRefitPool
from worker.replay.difference import Caught, Difference, KindCount, by_kind, caught, compare
from worker.replay.incidents import Incident, in_order
from worker.replay.inputs import Inputs, ShardPlan
from worker.replay.moments import Span, WarmUp
from worker.replay.published import Published, read_marks, read_published
from worker.replay.shard_replay import Counted, Pace, ShardReplay
from worker.settings import Settings

_A_LITTLE_TICKS = 2
"""Ticks beyond the last sign of life: those of a worker were not at the same times."""


class SelectionError(Exception):
    """A partition was asked for that there is not; the message says which there are."""


class Wanted(NamedTuple):
    """What is to be played, and what it is compared with."""

    span: Span = Span()
    warm_up: WarmUp = WarmUp()
    partitions: Sequence[int] = ()
    """All, if there are none."""
    against: EngineOptions | None = None
    """Compare with a replay under these options instead of what was published."""


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, records: int) -> None:
        """Something new begins, with about so many records."""
        ...

    def advance(self, records: int) -> None:
        """So many more are done."""
        ...


class Report(Struct, frozen=True, kw_only=True):
    """What came of a replay. Times are milliseconds since the epoch, in event time; null: without a bound."""

    topic: str
    partitions: list[int]
    from_ms: int | None
    to_ms: int | None
    against: str
    """`published`, or `replayed` where the same input was played under other options instead."""
    played: Counted
    seconds: float
    published: int
    replayed: int
    differences: int
    """Incidents on one side only."""
    shifted: int
    """Of those on both sides: other ids, because they opened a little earlier or later."""
    other_severity: int
    caught: Caught
    kinds: list[KindCount]
    difference: Difference
    notes: list[str]


def run_replay(settings: Settings, wanted: Wanted, progress: Progress) -> Report:
    """Play and compare.

    Raises:
        SelectionError: there is no such partition.
        BrokerUnreachableError, TopicsError, SourceError: as `cluster` and the edges say.
    """
    begun_s = time.monotonic()
    with closing(Inputs(settings)) as inputs:
        partitions = _selected(inputs.partitions, wanted.partitions)
        published = read_published(inputs.alerts.batches(), partitions)
        marks = read_marks(inputs.feedback())
        plans = [inputs.plan(partition, wanted.span, wanted.warm_up) for partition in partitions]
        with ProcessRefitPool(settings.worker.refit_processes) as pool:
            if settings.engine.uses("one_class_svm"):
                pool.warm()
            KernelCache.of_this_program().complete(compile_kernels, lambda what: progress.begin(what, 0))
            player = _Player(settings, inputs, published, pool, progress)
            replayed, counted = player.play(plans, wanted.span, settings.engine)
            before = published.incidents
            if wanted.against is not None:
                before, _ = player.play(plans, wanted.span, wanted.against)
    spans = {plan.partition: plan.counted for plan in plans}
    difference = compare(before, replayed, lambda incident: spans[incident.shard].covers(incident.opened_ms))
    both = difference.both
    return Report(
        topic=settings.topics.predictions,
        partitions=partitions,
        from_ms=wanted.span.from_ms,
        to_ms=wanted.span.to_ms,
        against="published" if wanted.against is None else "replayed",
        played=counted,
        seconds=round(time.monotonic() - begun_s, 1),
        published=len(difference.only_published) + len(both),
        replayed=len(difference.only_replayed) + len(both),
        differences=difference.differences,
        shifted=sum(pair.shifted for pair in both),
        other_severity=sum(pair.published.severity != pair.replayed.severity for pair in both),
        caught=caught(difference, marks),
        kinds=by_kind(difference),
        difference=difference,
        notes=_notes(plans, published, replayed, spans),
    )


_NO_MAINTENANCE = MaintenanceOptions(enabled=False)
"""It raises no alert, and takes long; what thinned it is not known either."""


class _Player:
    """Plays shard after shard, each with an engine that has nothing else."""

    def __init__(
        self, settings: Settings, inputs: Inputs, published: Published, pool: ProcessRefitPool, progress: Progress
    ) -> None:
        self._settings = settings
        self._inputs = inputs
        self._published = published
        self._pool = pool
        self._progress = progress

    def play(self, plans: Sequence[ShardPlan], span: Span, options: EngineOptions) -> tuple[list[Incident], Counted]:
        """Return the incidents of all shards, and what was played."""
        topics = self._settings.topics
        options = msgspec.structs.replace(options, maintenance=_NO_MAINTENANCE)
        incidents: list[Incident] = []
        counted = Counted()
        for plan in plans:
            engine = Engine(options, Topics(topics.predictions, topics.labels, topics.feedback), self._pool)
            self._progress.begin(f"shard {plan.partition} of {len(plans)}", plan.records)
            with self._inputs.feeds(plan) as feeds:
                shard = ShardReplay(engine, plan.partition, feeds, self._pace(plan, span), self._progress.advance)
                shard.run()
            incidents += shard.book.incidents()
            counted.add(shard.counted)
        return in_order(incidents), counted

    def _pace(self, plan: ShardPlan, span: Span) -> Pace:
        """Tick to the end of the range, or as long as a worker was surely there."""
        interval_ms = self._settings.worker.idle_close_ms
        if span.to_ms is not None:
            return Pace(interval_ms, min(span.to_ms, int(time.time() * 1000)))
        # What opened in a silence has to open again; that it ended there is no difference.
        opened_ms = self._published.opened_at_ms.get(plan.partition)
        return Pace(interval_ms, None if opened_ms is None else opened_ms + _A_LITTLE_TICKS * interval_ms)


def _selected(there: int, wanted: Sequence[int]) -> list[int]:
    unknown = [partition for partition in wanted if partition >= there]
    if unknown:
        raise SelectionError(f"--partition {unknown[0]}: there are the partitions 0 to {there - 1}")
    return sorted(set(wanted)) or list(range(there))


def _notes(
    plans: Sequence[ShardPlan], published: Published, replayed: Sequence[Incident], spans: Mapping[int, Span]
) -> list[str]:
    """Return what a reader of the numbers should know."""
    notes = list(dict.fromkeys(note for plan in plans for note in plan.notes))
    if published.unreadable:
        notes.append(f"{published.unreadable} records on the topic of alerts are no alerts of this version: left out")
    for name, incidents in (("published", published.incidents), ("replayed", replayed)):
        outside = sum(not spans[incident.shard].covers(incident.opened_ms) for incident in incidents)
        if outside:
            notes.append(f"{outside} {name} incidents opened outside the range, by event time: not counted")
    return notes
