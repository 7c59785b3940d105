"""One run from its seed to its findings.

chaos (input, faults) -> settling (no more faults) -> idle (panes close) -> leaving -> over, and then the checks.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from unittest.mock import patch

from tests.sim.broker import INPUTS
from tests.sim.follower import Follower
from tests.sim.log import PartitionLog
from tests.sim.operations import Operations
from tests.sim.oracle import Findings, ShardOracle
from tests.sim.restoring import restored_digest
from tests.sim.scenario import Scenario, scenario
from tests.sim.schedule import StuckError
from tests.sim.world import LoopFactory, Process, World
from tests.streams import START_MS
from worker.core import snapshot
from worker.core.events import InputTopic
from worker.core.journal import decode_pointer
from worker.ports import PositionUnstableError
from worker.recovery import track
from worker.recovery.problems import StateProblemError

SETTLED_WITHIN_MS = 40_000
_DAY_MS = 86_400_000
_AUDIT_SHARE = 0.2


class Phase(Enum):
    """Where a run is."""

    CHAOS = 0
    SETTLING = 1
    IDLE = 2
    LEAVING = 3


@dataclass(slots=True)
class Outcome:
    """What became of a run."""

    scenario: Scenario
    findings: Findings
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    simulated_ms: int = 0
    fingerprint: int = 0
    """Of the whole course: the same seed gives the same one."""
    trace: list[str] = field(default_factory=list)
    failure: Exception | None = None
    """What ended the run before its time."""

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings.problems


def run(seed: int, *, build: LoopFactory | None = None, traced: bool = False) -> Outcome:
    """Simulate one run."""
    return Driver(scenario(seed), build=build, traced=traced).run()


class Driver:
    """Plays a scenario."""

    def __init__(self, plan: Scenario, *, build: LoopFactory | None = None, traced: bool = False) -> None:
        self._plan = plan
        self._world = World(plan, build=build, traced=traced)
        self._broker = self._world.broker
        self._phase = Phase.CHAOS
        self._follower = Follower(self._broker)
        self._operations = Operations(self._world)
        self._findings = Findings()
        self._noted: dict[Process, dict[int, str]] = {}
        """The digests of what each worker owns, between two turns, once nothing changes any more."""
        self._oracles = [ShardOracle(self._broker, partition, self._findings) for partition in range(plan.partitions)]
        self._commits_seen = 0
        self._quiet_since_ms = 0
        self._rest_epoch_ms = 0
        """What the workers' clocks said when everything had come to rest."""

    def run(self) -> Outcome:
        """Play it and check it."""
        outcome = Outcome(self._plan, self._findings)
        with _small_bounds(self._plan):
            _attempt(outcome, self._play)
            if outcome.failure is None:
                _attempt(outcome, self._audit_all)
            # Also after a failure: what was visible by then must be right.
            for oracle in self._oracles:
                _attempt(outcome, partial(self._check_visible, oracle))
            if outcome.failure is None and not self._world.refused:
                _attempt(outcome, self._check_rest)
        world = self._world
        outcome.faults, outcome.ends, outcome.trace = world.faults.counts, world.ends, world.trace
        outcome.commits, outcome.simulated_ms = self._commits, world.scheduler.now_ms
        course = (world.scheduler.now_ms, world.scheduler.steps, self._broker.group.history, world.rng.random())
        outcome.fingerprint = zlib.crc32(repr(course).encode())
        return outcome

    @property
    def _commits(self) -> int:
        return sum(map(len, self._broker.group.history.values()))

    @property
    def _epoch_ms(self) -> int:
        """What the workers' clocks say."""
        return self._broker.epoch_ms + self._broker.now_ms

    # The course.

    def _play(self) -> None:
        scheduler = self._world.scheduler
        self._operations.schedule()
        self._world.on_step = self._stepped
        scheduler.at(self._plan.chaos_ms, self._settle)
        self._follow()
        scheduler.run()

    def _follow(self) -> None:
        """Look in from outside now and then: read the outputs, restore what is stored."""
        self._follower.read()
        if self._world.rng.random() < _AUDIT_SHARE:
            self._audit(self._world.rng.choice(self._oracles))
        if self._phase is not Phase.LEAVING:
            scheduler = self._world.scheduler
            scheduler.at(scheduler.now_ms + self._world.rng.randint(50, 400), self._follow)

    def _audit(self, oracle: ShardOracle) -> None:
        """Restore a shard as a new owner would, right now, beside the one that has it."""
        commits = len(self._broker.group.history.get(oracle.partition, ()))
        if commits:
            try:
                oracle.audits[commits] = restored_digest(self._broker, oracle.partition)
            except PositionUnstableError:
                return  # a new owner would have to wait, too
            except StateProblemError as problem:
                if problem.kind != self._plan.may_refuse:
                    raise

    def _settle(self) -> None:
        """From here on nothing goes wrong any more, and everything must come to rest."""
        self._phase = Phase.SETTLING
        self._world.note("driver", "settling")
        self._world.faults.end()
        self._operations.calm = True
        self._broker.epoch_ms = START_MS + _DAY_MS
        scheduler = self._world.scheduler
        scheduler.at(scheduler.now_ms + SETTLED_WITHIN_MS, self._give_up)

    def _give_up(self) -> None:
        if self._phase is not Phase.LEAVING:
            raise StuckError(f"{self._phase.name.lower()} for {SETTLED_WITHIN_MS} ms: {self._broker.group.committed}")

    def _stepped(self, process: Process) -> None:
        """A worker is between two turns: see whether everything is done, and note what it holds in memory."""
        if self._phase is Phase.SETTLING and self._drained():
            self._phase = Phase.IDLE
        if self._phase is not Phase.IDLE:
            return
        if not self._quiet():
            self._noted.clear()
            return
        if process not in self._noted:
            self._noted[process] = {part: process.engine.digest(part) for part in process.engine.partitions}
        if self._noted.keys() >= set(self._world.processes):
            self._leave()

    def _drained(self) -> bool:
        return all(self._is_worked_off(partition) for partition in range(self._plan.partitions))

    def _is_worked_off(self, partition: int) -> bool:
        position = self._broker.group.committed.get(partition)
        if position is None:
            return False
        pointer = decode_pointer(position.metadata)
        taken = (position.offset, pointer.label_offset, pointer.feedback_offset)
        logs = [*(self._broker.log(topic, partition) for topic in INPUTS), self._broker.log(InputTopic.FEEDBACK, 0)]
        ends = map(_visible_end, logs)
        return all(offset >= end for offset, end in zip(taken, ends, strict=True))

    def _quiet(self) -> bool:
        """Whether nothing has been committed for a while, and every shard has an owner who wants no tick any more."""
        now_ms = self._world.scheduler.now_ms
        if self._commits != self._commits_seen:
            self._commits_seen, self._quiet_since_ms = self._commits, now_ms
        if now_ms - self._quiet_since_ms < 3 * self._plan.options.commit_interval_ms:
            return False
        owned: list[int] = []
        for process in self._world.processes:
            membership, engine = process.membership, process.engine
            if membership is None or not membership.settled or process.live_shards != len(membership.owned):
                return False
            if any(engine.wants_tick(partition, self._epoch_ms) for partition in engine.partitions):
                return False
            if any(map(engine.thinning, engine.partitions)):
                return False
            owned += engine.partitions
        return sorted(owned) == list(range(self._plan.partitions))

    def _leave(self) -> None:
        """Everything has come to rest: let all workers stop."""
        self._phase = Phase.LEAVING
        self._rest_epoch_ms = self._epoch_ms
        self._world.note("driver", "leaving")
        self._operations.leaving = True
        for process in self._world.processes:
            process.stopping = True

    # The checks.

    def _audit_all(self) -> None:
        """Restore all shards once more, when every transaction has ended."""
        self._world.tick(self._world.scheduler.now_ms + _DAY_MS)
        for oracle in self._oracles:
            self._audit(oracle)

    def _check_visible(self, oracle: ShardOracle) -> None:
        """Hold what is visible of a shard against the fold of its journals."""
        self._world.tick(self._world.scheduler.now_ms + _DAY_MS)
        earliest = self._plan.options.restores.job.start_at == "earliest"
        oracle.fold(self._broker.group.history.get(oracle.partition, []), from_start=earliest)
        oracle.compare_outputs()

    def _check_rest(self) -> None:
        """Hold the state of each shard against the oracle's, once everything is at rest."""
        self._findings.problems += self._follower.problems()
        if self._plan.maintained:
            self._findings.problems += self._world.models.missing(self._broker)
        digests = {partition: digest for noted in self._noted.values() for partition, digest in noted.items()}
        for oracle in self._oracles:
            oracle.compare_state(digests[oracle.partition], "its owner")
            if oracle.engine.wants_tick(oracle.partition, self._rest_epoch_ms):
                self._findings.problems.append(f"shard {oracle.partition}: panes are still open")


def _attempt(outcome: Outcome, step: Callable[[], object]) -> None:
    """Do something; whatever it raises is a finding of this seed."""
    try:
        step()
    except Exception as failure:  # noqa: BLE001 - a loop or a check that fails must not hide the seed
        outcome.failure = outcome.failure or failure
        outcome.findings.problems.append(f"{type(failure).__name__}: {failure}")


def _visible_end(log: PartitionLog) -> int:
    """Return the offset after the last record that a reader of committed ones will see."""
    return max((record.offset + 1 for record in log.archive if record.transaction not in log.aborted), default=0)


@contextmanager
def _small_bounds(plan: Scenario) -> Iterator[None]:
    """Make chunks and journals small, so that short runs reach their bounds."""
    with (
        patch.object(snapshot, "CHUNK_BYTES_MAX", plan.chunk_bytes_max),
        patch.object(track, "JOURNAL_CHARS_MAX", plan.journal_chars_max),
    ):
        yield
