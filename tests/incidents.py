"""Stories of raised conditions, drawn from a seed, and a player that plays them to an alert desk."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tests.raised import MODEL, PANE_MS, START_MS, over, raised
from worker.core.alerts.desk import AlertDesk, Rows, StoredDesk
from worker.core.alerts.silences import Silence, SilenceBook
from worker.core.events import (
    AlertEvent,
    AlertKind,
    FalsePositiveFeedback,
    IgnoreFeedback,
    IncidentFeedback,
    OutputTopic,
    Scope,
    SilenceFeedback,
    TruePositiveFeedback,
)
from worker.core.options import AlertOptions, EngineOptions, KindNoiseOptions, NoiseOptions, WindowOptions
from worker.core.options.alerts import DAY_MS
from worker.core.telling import Owner, Told

RANK = {"info": 0, "warning": 1, "critical": 2}
SUBJECTS: tuple[tuple[AlertKind, str], ...] = (
    ("quality.missing", "one"),
    ("quality.missing", "two"),
    ("drift.input", "one"),
    ("bias.error", "one"),
    ("performance.limit", "f1"),
)
ABSOLUTE = {"performance.limit"}
FEEDBACK: Mapping[str, Callable[..., IncidentFeedback]] = {
    "false_positive": FalsePositiveFeedback,
    "true_positive": TruePositiveFeedback,
    "ignore_like_this": IgnoreFeedback,
}


class Step(NamedTuple):
    """One thing that happens to a desk."""

    what: str
    """row, label, tick, silence, judge, undo."""
    now_ms: int = 0
    """The watermark of a row, or the clock of a tick."""
    raises: tuple[AlertEvent, ...] = ()
    is_new_version: bool = False
    silence: SilenceFeedback | None = None
    choice: int = 0
    """Which incident is judged, or which feedback is taken back."""
    feedback: str = ""


class Story(NamedTuple):
    """Options, and what happens."""

    options: EngineOptions
    steps: list[Step]


def story(seed: int, count: int) -> Story:
    """Draw a story; a shorter one of the same seed is its beginning."""
    rng = random.Random(seed)
    options = _options(rng)
    return Story(options, list(_steps(rng, count)))


def _options(rng: random.Random) -> EngineOptions:
    panes = rng.choice([1, 1, 2, 4])
    noise = NoiseOptions(
        panes_min=rng.randint(1, panes),
        panes=panes,
        duration_ms=rng.choice([0, 0, 700, 5_000]),
        severity_min=rng.choice(["info", "warning", "warning", "critical"]),
        strength_min=rng.choice([0.0, 0.0, 1.0, 2.5]),
        direction=rng.choice(["both", "both", "up", "down"]),
        deviation_min=rng.choice([0.0, 0.0, 0.2]),
        deviation_share_min=rng.choice([0.0, 0.0, 0.5]),
        clear_share=rng.choice([0.0, 0.5, 0.8, 1.0]),
        clear_ms=rng.choice([0, 0, 300, 2_000]),
        cooldown_ms=rng.choice([0, 0, 500, 3_000, 60_000]),
        update_ms=rng.choice([0, 200, 1_500]),
        flap_openings=rng.choice([0, 2, 3]),
        flap_window_ms=rng.choice([500, 4_000]),
        flap_clear_ms=rng.choice([0, 1_000, 3_000]),
    )
    begin = datetime.fromtimestamp((START_MS + rng.choice([-DAY_MS, 500, 3_000])) / 1000, tz=UTC)
    window = WindowOptions(
        name="backup",
        begin=begin,
        end=begin + timedelta(milliseconds=rng.choice([700, 5_000])),
        repeat=rng.choice(["never", "daily", "daily"]),
        kind=rng.choice(["*", "quality.*"]),
    )
    alerts = AlertOptions(
        noise=noise,
        kinds=(KindNoiseOptions(kind="drift.*", strength_min=1.0, cooldown_ms=0),),
        openings_per_day_max=rng.choice([0, 1, 2, 4, 9]),
        windows=(window,) if rng.random() < 0.4 else (),
        rebaseline_events=rng.choice([0, 3, 8]),
        situation_gap_ms=rng.choice([0, 1_000]),
        incidents_max=10,
        remembered_max=rng.choice([1, 4]),
        feedback_max=rng.choice([3, 6]),
    )
    return EngineOptions(pane_ms=PANE_MS, alerts=alerts)


class _Sources:
    """Conditions as sources raise them: opened, updated while they last, resolved."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[tuple[AlertKind, str], dict[str, Any]] = {}
        self._count = 0

    def steps(self, now_ms: int) -> tuple[AlertEvent, ...]:
        """Return what is raised now, at most one step of each condition."""
        rng = self._rng
        count = rng.choice([0, 0, 1, 1, 2])
        return tuple(self._step(subject, now_ms) for subject in rng.sample(SUBJECTS, count))

    def _step(self, subject: tuple[AlertKind, str], now_ms: int) -> AlertEvent:
        rng, (kind, name) = self._rng, subject
        known = self._open.get(subject)
        if known is not None and rng.random() < 0.35:
            del self._open[subject]
            return over(name, kind=kind, number=known["number"], at_ms=now_ms, flagged_events=known["flagged"])
        status = "opened" if known is None else "updated"
        if known is None:
            self._count += 1
            known = self._open[subject] = {"number": self._count, "flagged": 0}
        known["flagged"] += rng.choice([0, 1, 3])
        lead = name if kind == "performance.limit" else rng.choice(["age", "age", "income"])
        return raised(
            lead,
            subject=name,
            kind=kind,
            number=known["number"],
            at_ms=now_ms,
            onset_ms=now_ms - rng.choice([0, 0, 100, 1_500]),
            status=status,
            severity=rng.choice(["info", "warning", "warning", "critical"]),
            strength=rng.choice([0.0, 1.0, 2.0, 2.2, 4.0, 8.0]),
            deviation=rng.choice([-0.6, 0.0, 0.18, 0.3, 0.6]),
            flagged_events=known["flagged"],
        )


def _steps(rng: random.Random, count: int) -> Iterator[Step]:
    gaps = rng.choice([[0, 1, 60, 300, 900], [0, 300, 2_500, 9_000], [300, 3_600_000, 20_000_000, 90_000_000]])
    has_ticks, back = rng.random() < 0.6, rng.choice([0.0, 0.0, 0.03])
    sources, now_ms = _Sources(rng), START_MS
    yield Step("row", now_ms)
    for number in range(count):
        drawn = rng.random()
        if drawn < 0.75:
            now_ms += -rng.choice([500, 50_000]) if rng.random() < back else rng.choice(gaps)
            yield Step("row", now_ms, sources.steps(now_ms), is_new_version=rng.random() < 0.03)
        elif drawn < 0.8:
            yield Step("label", now_ms, sources.steps(now_ms))
        elif drawn < 0.88:
            if has_ticks:
                yield Step("tick", now_ms + rng.choice([0, 500, 2_000, 70_000]))
        elif drawn < 0.91:
            yield Step("silence", now_ms, silence=_silence(rng, f"f{number}", now_ms))
        elif drawn < 0.97:
            yield Step("judge", now_ms, choice=rng.randrange(9), feedback=rng.choice(sorted(FEEDBACK)))
        else:
            yield Step("undo", now_ms, choice=rng.randrange(99))


def _silence(rng: random.Random, feedback_id: str, now_ms: int) -> SilenceFeedback:
    scope = rng.choice([Scope(), Scope(kind="quality.*"), Scope(feature="age"), Scope(segment="region=*")])
    begin_ms = now_ms + rng.choice([-1_000, 0, 400])
    end_ms = begin_ms + rng.choice([300, 2_000, 30_000])
    return SilenceFeedback(
        feedback_id=feedback_id, author="ann", reason="upgrade", scope=scope, begin=begin_ms, end=end_ms
    )


# -------------------------------------------------------------------------------------------------------------- driver


class Happened(NamedTuple):
    """A step, what was told because of it, and what of feedback took effect."""

    step: Step
    told: list[Told]
    judged: tuple[str, str, str] | None = None
    """Id and kind of the feedback, and the incident."""
    undone: str | None = None
    was_wanted: bool = True
    """Of a tick."""


class Player:
    """Plays steps to a desk, as a monitor and a shard do."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._book = SilenceBook(options.alerts.feedback_max)
        self.desk = self._new_desk()
        self._rows = 0
        self._given: list[str] = []
        self._other = 10**6
        """Offset of the latest record that is no event."""

    def _new_desk(self) -> AlertDesk:
        return AlertDesk(Owner(MODEL, 0, "predictions"), self._options, self._book)

    def rows(self, steps: Sequence[Step]) -> list[Told]:
        """Play consecutive rows as one batch."""
        offsets = 2 * np.arange(self._rows, self._rows + len(steps))
        raises = [
            Told(OutputTopic.ALERTS, int(offset), each.fingerprint, each)
            for offset, step in zip(offsets, steps, strict=True)
            for each in step.raises
        ]
        for place, step in enumerate(steps):
            if step.is_new_version:
                self.desk.rebaseline(self._rows + place)
        first, self._rows = self._rows, self._rows + len(steps)
        times = np.array([step.now_ms for step in steps], dtype=np.int64)
        return list(self.desk.process(raises, Rows(offsets, times, first)))

    def play(self, step: Step) -> Happened:
        """Play one step."""
        self._other += step.what != "row"
        match step.what:
            case "row":
                return Happened(step, self.rows([step]))
            case "label":
                raises = [Told(OutputTopic.ALERTS, self._other, each.fingerprint, each) for each in step.raises]
                return Happened(step, list(self.desk.take(raises)))
            case "tick":
                wanted = self.desk.wants_tick(step.now_ms)
                return Happened(step, list(self.desk.tick(step.now_ms, 2 * self._rows)), was_wanted=wanted)
            case "silence":
                assert step.silence is not None
                if self._book.add(step.silence, step.now_ms) is not None:
                    self._given.append(step.silence.feedback_id)
                return Happened(step, [])
            case "judge":
                return self._judge(step)
        return self._undo(step)

    def _judge(self, step: Step) -> Happened:
        remembered = self.desk.state().effects.remembered
        if not remembered:
            return Happened(step, [])
        incident_id = remembered[step.choice % len(remembered)].incident_id
        feedback_id = f"j{len(self._given)}"
        event = FEEDBACK[step.feedback](
            feedback_id=feedback_id, author="bob", model_id=MODEL, shard=0, incident_id=incident_id
        )
        if self.desk.effects.refusal(event) is not None:
            return Happened(step, [])
        self.desk.effects.apply(event)
        self._given.append(feedback_id)
        told = list(self.desk.reconsider(self._other))
        return Happened(step, told, judged=(feedback_id, step.feedback, incident_id))

    def _undo(self, step: Step) -> Happened:
        if not self._given:
            return Happened(step, [])
        undone = self._given[step.choice % len(self._given)]
        told: list[Told] = []
        if self._book.remove(undone) is not None:
            told = list(self.desk.reconsider(self._other)) if self.desk.holds_back else []
        elif self.desk.effects.is_in_force(undone):
            self.desk.effects.undo(undone)
            told = list(self.desk.reconsider(self._other))
        return Happened(step, told, undone=undone)

    @property
    def silences(self) -> list[Silence]:
        """The silences that are in force."""
        return self._book.state().silences

    def crash(self) -> None:
        """Go on as another desk, with what was stored of this one."""
        stored, silences = self.stored(), self._book.state()
        self._book = SilenceBook(self._options.alerts.feedback_max)
        self._book.restore(silences)
        self.desk = self._new_desk()
        self.desk.restore(msgspec.msgpack.decode(stored, type=StoredDesk))

    def stored(self) -> bytes:
        """Return all state."""
        return msgspec.msgpack.encode(self.desk.state())
