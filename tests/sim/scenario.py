"""What one run is made of, drawn from its seed: sizes, pacing, input, and which faults may happen.

Each seed enables only some of the faults, so that rare combinations are not drowned by the frequent ones.
"""

import json
import random
from dataclasses import dataclass, field

import msgspec

from tests.sim.faults import PLACES, Fault
from tests.sim.group import Timing
from tests.streams import BAD_VALUES, SMALL, START_MS, Record, records
from worker.budget import BudgetOptions
from worker.core.journal import Origin
from worker.core.options import EngineOptions, ForestOptions, HalfSpaceOptions
from worker.loop import LoopOptions
from worker.recovery.restore_job import RestoreOptions
from worker.recovery.restores import RestoresOptions
from worker.recovery.snapshots import SnapshotOptions
from worker.recovery.track import Identity

ENGINE: EngineOptions = msgspec.structs.replace(
    SMALL,
    warmup_events=6,
    models_max=2,
    # The subject is the loop: one detector that streams, one that is gated, one that is refitted.
    detectors=("half_space_trees", "isolation_forest", "nearest_neighbours"),
    half_space=HalfSpaceOptions(trees=2, height=3, window_events=6),
    forest=ForestOptions(
        trees=2,
        sample_rows=8,
        rows_max=16,
        refit_events_first=8,
        refit_growth=2,
        refit_events_max=16,
        takeover_events_min=2,
        takeover_events_max=4,
    ),
    calibration=msgspec.structs.replace(SMALL.calibration, detector_events_min=6, verdict_events_min=8),
)
"""Everything of an engine, within a few dozen events."""

IDENTITY = Identity("group", Origin("cluster", "p", "l", "s"), "options", "here")

_STREAMS = 8
_WITH_MAINTENANCE = 0.25
_AHEAD = 0.5
_COMMON = tuple(kind for kind in PLACES if kind is not Fault.STORE_DOWN)
_CLUSTER_FAULTS = (Fault.STOP, Fault.JOIN, Fault.TWIN, Fault.COMPACT, Fault.RETAIN, Fault.CLOCK)
_DAMAGE_KINDS = (Fault.CRASH, Fault.FREEZE, Fault.ABORTED, Fault.STOP, Fault.JOIN, Fault.COMPACT)
_LABEL_GARBAGE = (b"{", None, b'{"event_id":"e1","model_id":"m0"}')

_FEEDBACK_GARBAGE = (b"{", None, b'{"kind":"silence"}', b'{"kind":"unheard","feedback_id":"f","author":"a"}')


@dataclass(frozen=True, slots=True)
class Burst:
    """Records that come together. An upstream transaction ends as told (None: there is none)."""

    at_ms: int
    topic: str
    partition: int
    records: list[Record]
    committed: bool | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """All choices of one run."""

    seed: int
    partitions: int
    workers: int
    kinds: tuple[Fault, ...]
    calls_between: int
    faults_max: int
    chaos_ms: int
    timing: Timing
    poll_interval_ms_max: int
    marker_delay_ms_max: int
    transaction_timeout_ms: int
    stable_ids: bool
    chunk_bytes_max: int
    journal_chars_max: int
    options: LoopOptions
    ahead: bool
    """Whether the engine goes on while a commit is waited for."""
    maintained: bool
    """Whether outputs speak of models, and maintenance costs too much at times."""
    bursts: list[Burst] = field(repr=False)

    @property
    def may_refuse(self) -> str:
        """Why workers may refuse to go on in this run; empty: for no reason."""
        return "input_gone" if Fault.RETAIN_LESS in self.kinds else ""


def scenario(seed: int) -> Scenario:
    """Draw a scenario."""
    rng = random.Random(f"scenario {seed}")
    partitions = rng.choice((1, 1, 2, 3))
    chaos_ms = rng.choice((500, 1_000, 2_500))
    journal_chars_max = rng.choice((40, 200, 2_600))
    # By a generator of its own: the other choices stay those that the controls were tuned on.
    maintained = random.Random(f"model store {seed}").random() < _WITH_MAINTENANCE
    ahead = random.Random(f"ahead {seed}").random() < _AHEAD
    return Scenario(
        seed=seed,
        partitions=partitions,
        workers=rng.choice((1, 1, 2, 3)),
        kinds=(*_kinds(rng), *((Fault.STORE_DOWN,) if maintained else ())),
        calls_between=rng.choice((10, 30, 100)),
        faults_max=rng.choice((1, 4, 10)),
        chaos_ms=chaos_ms,
        timing=Timing(session_ms=rng.choice((300, 800))),
        poll_interval_ms_max=rng.choice((1_000, 3_000)),
        marker_delay_ms_max=rng.choice((0, 5, 60)),
        transaction_timeout_ms=rng.choice((400, 1_500, 3_000)),
        stable_ids=rng.random() < 0.5,
        chunk_bytes_max=rng.choice((500, 2_000, 900_000)),
        journal_chars_max=journal_chars_max,
        options=_loop_options(seed, rng, journal_chars_max, ahead=ahead),
        ahead=ahead,
        maintained=maintained,
        bursts=sorted(
            [*_bursts(rng, partitions, chaos_ms), *_feedback_bursts(seed, chaos_ms)], key=lambda burst: burst.at_ms
        ),
    )


def _kinds(rng: random.Random) -> tuple[Fault, ...]:
    special = rng.random()
    if special < 0.1:
        return (Fault.DAMAGE, *rng.sample(_DAMAGE_KINDS, 3))
    if special < 0.13:
        return (Fault.RETAIN_LESS, Fault.CRASH, Fault.ABORTED)
    enabled = {*rng.sample(_COMMON, rng.randint(2, 6)), *((Fault.CRASH,) if rng.random() < 0.3 else ())}
    return (*sorted(enabled), *(kind for kind in _CLUSTER_FAULTS if rng.random() < 0.4))


def _loop_options(seed: int, rng: random.Random, journal_chars_max: int, *, ahead: bool) -> LoopOptions:
    labels, pace = random.Random(f"labels {seed}"), random.Random(f"pace {seed}")
    return LoopOptions(
        commit_interval_ms=rng.choice((50, 150, 300)),
        # A fetch of half of what it may have is a backlog, in which alone the engine goes ahead.
        fetch_records_max=rng.choice((10, 20 if ahead else 500)),
        outputs_max=rng.choice((3, 1_000)),
        idle_close_ms=rng.choice((300, 900)),
        handover_ms=rng.choice((100, 5_000)),
        commit_attempts_max=rng.choice((3, 10)),
        retry_pause_ms=rng.choice((10, 100)),
        wait_ms=rng.choice((20, 200)),
        # By a generator of their own: the other choices stay those that the controls were tuned on.
        label_hold_ms=labels.choice((0, 100, 1_000)),
        held_labels_max=labels.choice((3, 1_000)),
        gather_ms=pace.choice((0, 40)),
        few_records=pace.choice((0, 64)),
        # To fetch ahead of the engine, not only before a commit: the usual bound is more than a simulated run has.
        ahead_records_min=pace.choice((1, 10)) if ahead else 10_000,
        restores=RestoresOptions(
            job=RestoreOptions(
                start_at="latest" if rng.random() < 0.1 else "earliest", records_max=rng.choice((3, 50, 2_000))
            ),
            jobs_max=rng.choice((1, 2)),
            ask_again_ms=rng.choice((20, 200)),
        ),
        snapshots=SnapshotOptions(
            interval_ms=rng.choice((100, 400, 1_500)),
            records_max=rng.choice((8, 30, 1_000)),
            journal_chars_max=journal_chars_max // 2,
            commit_bytes_max=rng.choice((1, 1, 5_000, 4_000_000)),
        ),
        store_pause_ms_max=200,
        budget=BudgetOptions(window_ms=50),
    )


def _bursts(rng: random.Random, partitions: int, chaos_ms: int) -> list[Burst]:
    """Cut the streams of all partitions into bursts and spread them over the time."""
    total = rng.randint(40, 120)
    models, bad, labels = rng.choice((1, 1, 2)), rng.choice((0.05, 0.3, 1.0, 1.0, 1.0)), rng.choice((0.0, 0.3))
    group, upstream = rng.randrange(_STREAMS), rng.choice((0.0, 0.3))
    bursts: list[Burst] = []
    for partition in range(partitions):
        stream = _stream(group * 10 + partition, total // partitions, models, bad)
        bursts += _spread(rng, "predictions", partition, stream, chaos_ms, upstream)
        few = [_label(rng, number) for number in range(int(len(stream) * labels))]
        bursts += _spread(rng, "labels", partition, few, chaos_ms, upstream)
    return sorted(bursts, key=lambda burst: burst.at_ms)


def _stream(seed: int, count: int, models: int, bad: float) -> list[Record]:
    key = (seed, models, bad)
    if key not in _MADE:
        _MADE[key] = records(seed, 120, models=models, bad=bad)
    return _MADE[key][:count]


_MADE: dict[tuple[int, int, float], list[Record]] = {}


def _spread(
    rng: random.Random, topic: str, partition: int, stream: list[Record], chaos_ms: int, upstream: float
) -> list[Burst]:
    """Cut a stream into bursts at chance times, in order; some are upstream transactions, some of those are aborted."""
    places = sorted({0, len(stream), *(rng.randint(0, len(stream)) for _ in range(rng.randint(1, 8)))})
    times = sorted(rng.randint(0, chaos_ms) for _ in places[1:])
    bursts = []
    for at_ms, begin, end in zip(times, places, places[1:], strict=False):
        committed = rng.random() < 0.7 if rng.random() < upstream else None
        bursts.append(Burst(at_ms, topic, partition, stream[begin:end], committed))
        if committed is False:
            # What was aborted is sent again by whoever sends it.
            bursts.append(Burst(at_ms, topic, partition, stream[begin:end], committed=True))
    return bursts


def _feedback_bursts(seed: int, chaos_ms: int) -> list[Burst]:
    """Let people say something in every third run. By a generator of their own, as above."""
    rng = random.Random(f"feedback {seed}")
    if rng.random() < 0.7:
        return []
    said = [_said(rng, number) for number in range(rng.randint(1, 12))]
    return _spread(rng, "feedback", 0, said, chaos_ms, rng.choice((0.0, 0.3)))


def _said(rng: random.Random, number: int) -> Record:
    stamp = START_MS + rng.randint(0, 6_000)
    if rng.random() < 0.15:
        return rng.choice(_FEEDBACK_GARBAGE), stamp
    said = {"feedback_id": f"f{number}", "author": "somebody"}
    if number and rng.random() < 0.2:
        return json.dumps(said | {"kind": "undo", "undoes": f"f{rng.randrange(number)}"}).encode(), stamp
    if rng.random() < 0.2:
        about = {"kind": "false_positive", "model_id": "m0", "shard": rng.randrange(2), "incident_id": "unknown"}
        return json.dumps(said | about).encode(), stamp
    scope = {"model": rng.choice(("*", "m0", "m1")), "kind": rng.choice(("*", "quality.*", "anomaly"))}
    silence = {
        "kind": "silence",
        "reason": "a test",
        "scope": scope,
        "to": stamp + rng.choice((500, 5_000, 90_000_000)),
    }
    if rng.random() < 0.5:
        silence["from"] = stamp
    return json.dumps(said | silence).encode(), stamp


def _label(rng: random.Random, number: int) -> Record:
    stamp = START_MS + 50 * number
    if rng.random() < 0.15:
        return rng.choice([*_LABEL_GARBAGE, *BAD_VALUES[:3]]), stamp
    label = {"event_id": f"e{rng.randrange(60)}", "model_id": f"m{rng.randrange(2)}", "label": rng.random() < 0.5}
    return json.dumps(label).encode(), stamp
