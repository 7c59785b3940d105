"""One simulated world: the cluster, the workers on it, and the trace of what happened."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from tests.offering import OfferingEngine
from tests.sim.broker import SimBroker
from tests.sim.faults import Fault, Faults, SimCrash, Site
from tests.sim.maintenance import Models, SimEffort, SimStore
from tests.sim.membership import SimMembership
from tests.sim.reading import SimClock, SimHistory, SimSource
from tests.sim.refits import RememberedRefits
from tests.sim.scenario import ENGINE, IDENTITY, Scenario
from tests.sim.schedule import Scheduler, Task
from tests.sim.sink import SimSink
from tests.streams import START_MS
from worker.core.engine import Engine
from worker.core.shard import Topics
from worker.loop import CommitFailedError, FencedError, Loop, Ports, StateRefusedError
from worker.observer import MaintenanceCost, Observer, Shards
from worker.ports import CommitOutcome, InlineExecutor, SinkError, SourceError

STEPS_MAX = 60_000
_EXPECTED_ENDS = (FencedError, CommitFailedError, SourceError, SinkError, StateRefusedError)
LoopFactory = Callable[["Process", Ports], Loop]


class World:
    """Everything of one run. `build` makes the loop of a worker; tests of the checks put a broken one there."""

    def __init__(self, scenario: Scenario, *, build: LoopFactory | None = None, traced: bool = False) -> None:
        self.scenario = scenario
        self.rng = random.Random(f"world {scenario.seed}")
        self.broker = SimBroker(
            scenario.partitions, self.rng, scenario.timing, marker_delay_ms_max=scenario.marker_delay_ms_max
        )
        self.broker.epoch_ms = START_MS + 4_000
        self.faults = Faults(self.rng, scenario.kinds, scenario.calls_between, scenario.faults_max)
        self.scheduler = Scheduler(self.rng, self.tick, STEPS_MAX)
        self.processes: list[Process] = []
        self.models = Models()
        self.ends: Counter[str] = Counter()
        self.refused = False
        """Whether a worker has rightly refused to go on: the run is over then."""
        self.trace: list[str] = []
        self.on_step: Callable[[Process], object] = lambda _: None
        self.on_end: Callable[[Process], object] = lambda _: None
        self.build = build or WatchedLoop
        self.traced = traced
        self._started = 0

    def tick(self, now_ms: int) -> None:
        """Move everything that moves by itself."""
        self.broker.tick(now_ms, self._beat)

    def _beat(self, now_ms: int) -> None:
        for process in self.processes:
            if process.membership is not None:
                process.membership.beat(now_ms)

    def start(self, slot: int) -> "Process":
        """Start a worker in a slot (its pod, so to speak)."""
        self._started += 1
        name = f"w{slot}" if self.scenario.stable_ids else f"w{slot}.{self._started}"
        process = Process(self, slot, name)
        self.processes.append(process)
        self.note(name, "starts")
        process.task = self.scheduler.spawn(name, process.live)
        return process

    def note(self, who: str, what: str) -> None:
        """Remember for the trace."""
        if self.traced:
            self.trace.append(f"{self.scheduler.now_ms:6d} {who:8s} {what}")

    def ended(self, process: "Process", how: str) -> None:
        """A worker has come to its end."""
        self.note(process.name, how)
        self.ends[how.split(":", maxsplit=1)[0]] += 1
        self.processes.remove(process)
        self.on_end(process)


class AheadExecutor(InlineExecutor):
    """Lets the loop believe that work goes on beside: what is fetched ahead of a commit is done before it is sent."""

    is_beside = True


class Process:
    """One worker process; to its ports it is a `Host`."""

    def __init__(self, world: World, slot: int, name: str) -> None:
        self.world = world
        self.broker = world.broker
        self.rng = world.rng
        self.slot = slot
        self.name = name
        self.dead = False
        self.stopping = False
        self.live_shards = 0
        """As the loop last told: restored, and worked on."""
        self.membership: SimMembership | None = None
        engine = OfferingEngine if world.scenario.maintained else Engine
        self.engine = engine(ENGINE, Topics(), RememberedRefits())
        self.task: Task | None = None
        self._frozen_until_ms = 0
        self._cut_off_until_ms = 0

    @property
    def beats(self) -> bool:
        """Whether the cluster hears from it."""
        return not self.dead and self.broker.now_ms >= max(self._frozen_until_ms, self._cut_off_until_ms)

    def live(self, _task: Task) -> None:
        """Be a worker process from the start to the end."""
        try:
            how = self._work()
        except SimCrash:
            how = "crash"
        self.dead = True
        self.world.ended(self, how)

    def _work(self) -> str:
        try:
            self.world.build(self, self._ports()).run(lambda: self.stopping)
        except _EXPECTED_ENDS as error:
            return f"{type(error).__name__}: {error}"
        return "stopped"

    def _ports(self) -> Ports:
        plan = self.world.scenario
        self.membership = SimMembership(self, plan.poll_interval_ms_max)
        sink = SimSink(self, self.name, self.membership.group_metadata, plan.transaction_timeout_ms)
        executor = AheadExecutor() if plan.ahead else None
        ports = Ports(self.membership, SimSource(self), SimHistory(self), sink, SimClock(self), executor=executor)
        if not plan.maintained:
            return ports
        return ports._replace(effort=SimEffort(self, plan.chaos_ms), artefacts=SimStore(self, self.world.models))

    def enter(self, site: Site) -> Fault | None:
        """Pass a site."""
        if self.dead:
            raise SimCrash
        if self.rng.random() < 0.3:
            self.sleep(self.rng.choice((0, 1, 2, 5, 12)))
        handing_over = self.membership is not None and self.membership.serving
        fault = self.world.faults.at(site, handing_over=handing_over)
        if fault is None:
            return None
        self.world.note(self.name, f"{fault} at {site}")
        match fault:
            case Fault.CRASH:
                self.dead = True
                raise SimCrash
            case Fault.FREEZE:
                plan = self.world.scenario
                session_ms, timeout_ms = plan.timing.session_ms, plan.transaction_timeout_ms
                wait_ms = self.rng.choice((100, 2 * session_ms, 4 * session_ms, timeout_ms - 100, timeout_ms + 500))
                self._frozen_until_ms = self.broker.now_ms + wait_ms
                self.sleep(wait_ms)
            case Fault.SLOW:
                self.sleep(self.rng.choice((100, 1_000, 3_500)))
            case Fault.CUT_OFF:
                self._cut_off_until_ms = self.broker.now_ms + self.rng.choice((200, 1_000, 3_000))
            case _:
                return fault
        return None

    def sleep(self, wait_ms: int) -> None:
        """Let time go by, and others run."""
        assert self.task is not None
        self.world.scheduler.sleep(self.task, wait_ms)
        if self.dead:
            raise SimCrash


class RefusedError(Exception):
    """A worker refuses stored state. No fault of these runs is a reason for that."""


class WatchedLoop(Loop):
    """The production loop; it only says when it is between two turns."""

    def __init__(self, process: Process, ports: Ports) -> None:
        identity = IDENTITY._replace(writer=f"{process.name}@{process.world.scheduler.now_ms}")
        super().__init__(process.engine, ports, identity, process.world.scenario.options, Witness(process))
        self._process = process

    def step(self, stop: Callable[[], bool] = lambda: False) -> None:
        """One turn."""
        super().step(stop)
        self._process.world.on_step(self._process)


class Witness(Observer):
    """Writes what the loop tells into the trace."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._name = process.name
        self._world = process.world
        self._note = process.world.note

    def committed(self, outputs: Sequence[object], seconds: float) -> None:
        self._note(self._name, f"committed {len(outputs)} outputs")

    def aborted(self, outcome: CommitOutcome) -> None:
        self._note(self._name, f"transaction {outcome.value}")

    def snapshot(self, partition: int, size: int, seconds: float) -> None:
        self._note(self._name, f"snapshot of {partition}, {size} bytes")

    def restored(self, partition: int, replayed: int, seconds: float) -> None:
        self._note(self._name, f"restored {partition}, replayed {replayed}")

    def refused(self, partition: int, kind: str, message: str) -> None:
        membership = self._process.membership
        if membership is not None and not membership.settled:
            # It reads by a pointer that others have left behind, and does not know yet that it owns nothing any more.
            self._note(self._name, f"refused {partition} as a zombie: {message}")
            self._world.ends["refused as a zombie"] += 1
        elif kind != self._world.scenario.may_refuse:
            raise RefusedError(f"{kind}: {message}")
        else:
            self._world.refused = True
            self._world.scheduler.finish()

    def noted(self, partition: int, message: str) -> None:
        self._note(self._name, f"noted {partition}: {message}")

    def maintained(self, cost: MaintenanceCost) -> None:
        if cost.level:
            self._note(self._name, f"maintenance at level {cost.level}")

    def artefact_failed(self, message: str) -> None:
        self._note(self._name, message)

    def abandoned(self, partitions: Sequence[int]) -> None:
        self._note(self._name, f"abandoned {list(partitions)}")

    def shards(self, shards: Shards) -> None:
        self._process.live_shards = shards.live

    def partitions(self, what: str, partitions: Sequence[int]) -> None:
        self._note(self._name, f"{what} {list(partitions)}")
