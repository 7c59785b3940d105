"""What threads over shards gain: the engine alone, as in `benchmarks.stages`, each setting in turn, the best of three.

    python -m benchmarks.threads [--events 200000]

A setting is threads, switch interval of the interpreter in milliseconds, records of a shard in one batch. All must
give the same state. The last line is JSON: microseconds per event, of the wall and of the CPU.
"""

import argparse
import json
import sys
import time
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from benchmarks.events import PARTITIONS
from benchmarks.stages import RememberedRefits, batches
from worker.core.engine import Engine
from worker.core.events import RawBatch
from worker.core.options import EngineOptions
from worker.core.shard import Topics
from worker.dispatch import Dispatch
from worker.edges.clock import SystemClock
from worker.edges.threads import ThreadExecutor
from worker.ports import NoEffort

ROUNDS = 3


class Setting(NamedTuple):
    """How the engine is run."""

    threads: int
    switch_ms: float
    batch: int


SETTINGS = [
    *(Setting(1, 5.0, size) for size in (1250, 2500, 5000)),
    *(Setting(2, ms, 1250) for ms in (5.0, 1.0, 0.2, 0.05)),
    *(Setting(2, 1.0, size) for size in (2500, 5000)),
]


class Cost(NamedTuple):
    """Microseconds per event."""

    wall: float
    cpu: float


def turns(stream: list[RawBatch]) -> list[list[RawBatch]]:
    """Return what one fetch brings after the other: a batch of each partition that has any left."""
    whole = [batch for batch in stream if batch.offsets]
    return [list(group) for _, group in groupby(whole, key=lambda batch: batch.offsets[0])]


def run(setting: Setting, fetches: list[list[RawBatch]], refits: RememberedRefits) -> tuple[Cost, list[str]]:
    """Feed a fresh engine; return what it cost and the digests of its shards."""
    engine = Engine(EngineOptions(), Topics(), refits)
    for partition in range(PARTITIONS):
        engine.add_shard(partition)
    count = sum(len(batch.offsets) for fetch in fetches for batch in fetch)
    with ThreadExecutor(setting.threads) as executor:
        sys.setswitchinterval(setting.switch_ms / 1000)
        wall, cpu = time.perf_counter(), time.process_time()
        dispatch = Dispatch(engine, executor, NoEffort(), SystemClock())
        for fetch in fetches:
            for batch in fetch:
                dispatch.add(batch)
            for _ in dispatch.until_few_wait(0):
                pass
        for _ in dispatch.finish():
            pass
        cost = Cost((time.perf_counter() - wall) / count * 1e6, (time.process_time() - cpu) / count * 1e6)
    return cost, [engine.digest(partition) for partition in range(PARTITIONS)]


def main() -> None:
    """Print a line for each setting, and the JSON line."""
    parser = argparse.ArgumentParser(description="What threads over shards gain.")
    parser.add_argument("--events", type=int, default=200_000)
    count = parser.parse_args().events
    refits = RememberedRefits()
    fetches = {size: turns(batches(count, size)) for size in {setting.batch for setting in SETTINGS}}
    _, digests = run(SETTINGS[0], fetches[SETTINGS[0].batch], refits)
    costs: dict[Setting, list[Cost]] = {setting: [] for setting in SETTINGS}
    for _ in range(ROUNDS):
        for setting in SETTINGS:
            cost, found = run(setting, fetches[setting.batch], refits)
            assert found == digests, f"{setting} gives another state"
            costs[setting].append(cost)
    best = {
        setting: Cost(min(map(attrgetter("wall"), own)), min(map(attrgetter("cpu"), own)))
        for setting, own in costs.items()
    }
    for setting, cost in best.items():
        print(f"{setting}: {cost.wall:.2f} µs of the wall, {cost.cpu:.2f} of the CPU", file=sys.stderr)
    print(json.dumps([{**setting._asdict(), **cost._asdict()} for setting, cost in best.items()]))


if __name__ == "__main__":
    main()
