"""Options of what becomes of raised conditions: noise control, budget, maintenance windows, silence of streams."""

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from worker.core.options.units import Count, Milliseconds

_Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
_Moment = Annotated[datetime, Meta(tz=True)]
DAY_MS = 86_400_000
REPEATS_MS = {"never": 0, "daily": DAY_MS, "weekly": 7 * DAY_MS}


class NoiseOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When a condition becomes an incident, how often that may speak, and when it is over (event time)."""

    panes_min: Annotated[int, Meta(ge=1, le=64)] = 1
    panes: Annotated[int, Meta(ge=1, le=64)] = 1
    """The condition must have held in `panes_min` of the last `panes` panes."""
    duration_ms: Milliseconds = 0
    """For so long without a break."""
    severity_min: Literal["info", "warning", "critical"] = "warning"
    """`info` are single unusual events at the rate that is expected of a stream in which nothing is wrong."""
    strength_min: Annotated[float, Meta(ge=0.0, le=8.0)] = 0.0
    """Least strength, in doublings beyond the threshold."""
    direction: Literal["up", "down", "both"] = "both"
    deviation_min: Annotated[float, Meta(ge=0.0)] = 0.0
    """Least distance of the observed from the expected value, in the unit of what was observed."""
    deviation_share_min: Annotated[float, Meta(ge=0.0)] = 0.0
    """The same as a share of the expected value."""
    clear_share: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.8
    """An open incident is over when strength and deviation are under this share of their least values."""
    clear_ms: Milliseconds = 0
    """For so long without a break."""
    cooldown_ms: Milliseconds = 60_000
    """After an incident is resolved, the next one of its fingerprint waits."""
    update_ms: Milliseconds = 60_000
    """Least time between two updates; a rise in severity is told at once, but not twice within it."""
    flap_openings: Annotated[int, Meta(ge=0, le=100)] = 4
    """So many times within `flap_window_ms` that a condition comes are flapping; 0: never."""
    flap_window_ms: Milliseconds = 3_600_000
    flap_clear_ms: Milliseconds = 900_000
    """A flapping incident stays open until it has been calm for so long."""


class KindNoiseOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is different for the kinds that fit `kind` and the models that fit `model`, shell patterns.

    All that fit count, later ones more.
    """

    kind: _Pattern = "*"
    model: _Pattern = "*"
    panes_min: Annotated[int, Meta(ge=1, le=64)] | None = None
    panes: Annotated[int, Meta(ge=1, le=64)] | None = None
    duration_ms: Milliseconds | None = None
    severity_min: Literal["info", "warning", "critical"] | None = None
    strength_min: Annotated[float, Meta(ge=0.0, le=8.0)] | None = None
    direction: Literal["up", "down", "both"] | None = None
    deviation_min: Annotated[float, Meta(ge=0.0)] | None = None
    deviation_share_min: Annotated[float, Meta(ge=0.0)] | None = None
    clear_share: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    clear_ms: Milliseconds | None = None
    cooldown_ms: Milliseconds | None = None
    update_ms: Milliseconds | None = None
    flap_openings: Annotated[int, Meta(ge=0, le=100)] | None = None
    flap_window_ms: Milliseconds | None = None
    flap_clear_ms: Milliseconds | None = None

    def changes(self) -> dict[str, object]:
        """Return what is different."""
        found = structs.asdict(self)
        return {name: value for name, value in found.items() if value is not None and name not in ("kind", "model")}


class WindowOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """A planned maintenance: within it no incident of its scope opens."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    begin: _Moment
    end: _Moment
    repeat: Literal["never", "daily", "weekly"] = "never"
    """Every so often from `begin` on."""
    model: _Pattern = "*"
    kind: _Pattern = "*"
    segment: _Pattern | None = None
    feature: _Pattern | None = None


class StaleOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When a stream that used to speak is called silent: after `factor` times its second longest usual silence.

    It is told by the worker's clock while the worker runs, so a worker that was away calls nobody silent for that.
    """

    enabled: bool = True
    predictions_ms: Milliseconds = 300_000
    """At least so long, of a model's predictions."""
    labels_ms: Milliseconds = 900_000
    """At least so long, of a model's labels while its predictions come."""
    factor: Annotated[float, Meta(ge=1.0, le=100.0)] = 2.0
    records_min: Count = 100
    """A stream with fewer records has no usual pace."""


class TuningOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When another least strength of a kind of alert is advised, from what people said of its incidents."""

    enabled: bool = True
    verdicts_min: Annotated[int, Meta(ge=4, le=10_000)] = 10
    """Judged incidents of a kind before anything is advised,"""
    verdicts_step: Count = 5
    """and between two looks."""
    verdicts_max: Annotated[int, Meta(ge=10, le=10_000)] = 200
    """The latest ones that count."""
    all_false_min: Annotated[int, Meta(ge=4, le=10_000)] = 20
    """Judged incidents, where none of them was right: then there is nothing to compare with."""
    lost_share_max: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    """Share of the right alerts that may be lost."""
    change_min: Annotated[float, Meta(gt=0.0, le=8.0)] = 0.25
    """Doublings by which an advice must differ from what is configured, and from the one before."""


class AlertOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of raised conditions. It can be changed at any clean restart: state does not depend on it."""

    noise: NoiseOptions = NoiseOptions()
    kinds: tuple[KindNoiseOptions, ...] = ()
    openings_per_day_max: Annotated[int, Meta(ge=0, le=100_000)] = 24
    """Alert budget of a model in a shard, over any 24 hours of event time; 0: none."""
    windows: tuple[WindowOptions, ...] = ()
    rebaseline_events: Annotated[int, Meta(ge=0, le=10_000_000)] = 2_000
    """For so many events after another version of a model appears, only absolute limits and stale streams alarm."""
    situation_gap_ms: Milliseconds = 300_000
    """Incidents of a model that are no further apart belong to one situation."""
    stale: StaleOptions = StaleOptions()
    incidents_max: Annotated[int, Meta(ge=10, le=10_000)] = 500
    """Fingerprints of a model that are followed at the same time."""
    remembered_max: Annotated[int, Meta(ge=1, le=10_000)] = 200
    """Resolved incidents of a model that feedback can still be about."""
    feedback_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Effects of feedback that are in force, of a model; and silences, of a shard."""
    tuning: TuningOptions = TuningOptions()

    def noise_of(self, model: str, kind: str) -> NoiseOptions:
        """Return the options of a kind of one model."""
        changes: dict[str, object] = {}
        for each in self.kinds:
            if fnmatchcase(kind, each.kind) and fnmatchcase(model, each.model):
                changes |= each.changes()
        if kind.startswith("stale."):
            # Silence has no panes: nothing would ever be seen in two of them.
            changes |= {"panes_min": 1, "panes": 1}
        return structs.replace(self.noise, **changes)


def alert_contradictions(options: AlertOptions) -> list[str]:
    """What cannot be meant together, one sentence each."""
    noises = (options.noise, *(structs.replace(options.noise, **kind.changes()) for kind in options.kinds))
    too_many = any(each.panes_min > each.panes for each in noises)
    found = ["engine.alerts: panes_min must not be larger than panes"] if too_many else []
    for window in options.windows:
        length = (window.end - window.begin).total_seconds() * 1000
        period = REPEATS_MS[window.repeat]
        if length <= 0:
            found.append(f"engine.alerts.windows: `{window.name}` must end after it begins")
        elif period and length >= period:
            found.append(f"engine.alerts.windows: `{window.name}` must be shorter than the time after which it repeats")
    return found
