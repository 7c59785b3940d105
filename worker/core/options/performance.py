"""Options of performance monitoring, and what cannot be meant together."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from worker.core.metric_names import ALL_METRICS, LESS_IS_BETTER, MORE_IS_BETTER
from worker.core.options.units import Count


class LimitOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a performance metric must keep to; an alert fires only when its interval excludes the limit.

    `minimum` and `maximum` are absolute. `drop` is how far a metric of which more is better may fall below its
    reference, in the metric's own unit; `rise` how far one of which less is better may exceed it, as a share.
    """

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    minimum: float | None = None
    maximum: float | None = None
    drop: Annotated[float, Meta(ge=0.0)] | None = None
    rise: Annotated[float, Meta(ge=0.0)] | None = None
    clear: Annotated[float, Meta(ge=0.0)] = 0.0
    """How far on the right side of the limit the value must be before a breach is over, in the unit of the limit."""


class ReportOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of the report of a model's training or validation, as a reference instead of its first labels."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    value: float
    support: Annotated[float, Meta(gt=0.0)] | None = None
    """Labelled rows it rests on, for a metric that is a share; without it the value is taken as exact."""


class ModelPerformanceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of the models whose id fits `model`, a shell pattern. The first that fits counts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    classes: tuple[str, ...] = ()
    """All classes there are; a label that is none of them is `unknown_class`."""
    positive: str | None = None
    """Of a binary task; otherwise `true`, `1`, or the last in the order of the alphabet."""
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    """From which a numeric prediction of a binary task means the positive class."""
    segments: tuple[str, ...] = ()
    limits: tuple[LimitOptions, ...] | None = None
    report: tuple[ReportOptions, ...] = ()


class ConceptDriftOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Drift of a model's error (0 or 1 for a class, |e| / (|e| + usual |e|) for a number)."""

    detector: Literal["off", "adwin", "page_hinkley", "ddm", "eddm", "hddm_a", "hddm_w"] = "adwin"
    effect_min: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.02
    """The least rise of the mean error that is an alarm."""
    rest_labels: Count = 1_000
    """After an alarm the detector is not heard for so many labels."""


DEFAULT_LIMITS = (
    LimitOptions("accuracy", drop=0.01),
    LimitOptions("f1", drop=0.02),
    LimitOptions("f1_macro", drop=0.02),
    LimitOptions("mae", rise=0.05),
    LimitOptions("label_coverage", drop=0.05),
    LimitOptions("label_lag_median", rise=1.0),
)


class PerformanceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Joining labels, and what is made of them."""

    enabled: bool = True
    label_wait_max_ms: Annotated[int, Meta(ge=0, le=400 * 86_400_000)] = 86_400_000
    """How long a prediction waits for its label, or a label for its prediction, in event time."""
    join_events_max: Annotated[int, Meta(ge=1, le=50_000_000)] = 50_000
    """Predictions kept for labels and corrections, for each model; 0.1 kB each."""
    early_labels_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    pane_ms: Annotated[int, Meta(ge=100)] = 900_000
    panes_max: Annotated[int, Meta(ge=3, le=10_000)] = 100
    windows_ms: tuple[Annotated[int, Meta(ge=100)], ...] = (3_600_000, 86_400_000)
    """Lengths of the sliding windows, as merges of panes."""
    block_labels: Annotated[int, Meta(ge=10, le=100_000)] = 100
    """Labels after which limits are looked at."""
    blocks_max: Annotated[int, Meta(ge=4, le=1_024)] = 64
    half_life_labels: Count = 1_000
    """Of the decayed window."""
    task_labels: Annotated[int, Meta(ge=2, le=1_000)] = 30
    """Labelled events from which a task is inferred."""
    reference_labels: Annotated[int, Meta(ge=20, le=10_000_000)] = 3_000
    """The first ones, from which the reference is taken if they are stable."""
    support_min: Annotated[int, Meta(ge=10)] = 300
    """Labelled events that an alert rests on at least. With few errors in fewer events intervals are too narrow."""
    alert_confidence: Annotated[float, Meta(ge=0.9, lt=1.0)] = 0.9995
    """Of the intervals that alerts rest on; those that are published are of 95 %."""
    classes_max: Annotated[int, Meta(ge=2, le=200)] = 64
    segments: tuple[str, ...] = ()
    """Names of the segments by which metrics are split."""
    segments_max: Annotated[int, Meta(ge=1, le=1_000)] = 16
    segment_idle_events: Count = 10_000
    """A segment that had none of the last so many events gives way to a new one."""
    limits: tuple[LimitOptions, ...] = DEFAULT_LIMITS
    drift: ConceptDriftOptions = ConceptDriftOptions()
    models: tuple[ModelPerformanceOptions, ...] = ()

    def of_model(self, model_id: str) -> ModelPerformanceOptions:
        """Return what is known of a model, with the common segments and limits where it has none of its own."""
        found = next((each for each in self.models if fnmatchcase(model_id, each.model)), None)
        found = ModelPerformanceOptions(model_id) if found is None else found
        return msgspec.structs.replace(
            found,
            segments=found.segments or self.segments,
            limits=self.limits if found.limits is None else found.limits,
        )


def performance_contradictions(options: PerformanceOptions, pane_ms: int) -> list[str]:
    """Return what cannot be meant together, one sentence each."""
    where = "engine.performance"
    labels = options.blocks_max * options.block_labels
    rules = {
        "pane_ms must be a multiple of engine.pane_ms": options.pane_ms % pane_ms != 0,
        "panes_max panes of pane_ms must reach back over label_wait_max_ms: a label must find its pane": (
            options.panes_max * options.pane_ms < options.label_wait_max_ms
        ),
        "windows_ms must be multiples of pane_ms, and no longer than panes_max panes": any(
            window % options.pane_ms or window > options.panes_max * options.pane_ms for window in options.windows_ms
        ),
        "reference_labels must not be more than blocks_max blocks of block_labels": options.reference_labels > labels,
        "support_min must not be more than blocks_max blocks of block_labels": options.support_min > labels,
        "task_labels must not be more than join_events_max": options.task_labels > options.join_events_max,
    }
    found = [f"{where}.{rule}" for rule, broken in rules.items() if broken]
    limits = [*options.limits, *(limit for model in options.models for limit in model.limits or ())]
    found += [f"{where}.limits: {problem}" for limit in limits for problem in _limit_problems(limit)]
    reports = {report.metric for model in options.models for report in model.report} - ALL_METRICS
    found += [f"{where}.models: report of `{name}`, which is no metric: {_nearest(name)}" for name in sorted(reports)]
    declared = [*options.segments, *(name for model in options.models for name in model.segments)]
    if any(not name for name in declared):
        found.append(f"{where}.segments must have names")
    return found


def _limit_problems(limit: LimitOptions) -> list[str]:
    name = limit.metric
    if name not in ALL_METRICS:
        return [f"`{name}` is no metric: {_nearest(name)}"]
    found = []
    if limit.drop is not None and name not in MORE_IS_BETTER:
        found.append(f"of `{name}` less is better, or neither: say rise or maximum instead of drop")
    if limit.rise is not None and name not in LESS_IS_BETTER:
        found.append(f"of `{name}` more is better, or neither: say drop or minimum instead of rise")
    if limit.minimum is None and limit.maximum is None and limit.drop is None and limit.rise is None:
        found.append(f"`{name}` needs a minimum, maximum, drop or rise")
    if any(limit.clear > each for each in (limit.drop, limit.rise) if each is not None):
        found.append(f"clear of `{name}` must not be more than its drop or rise: it need not be above its reference")
    return found


def _nearest(name: str) -> str:
    near = get_close_matches(name, sorted(ALL_METRICS), n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(ALL_METRICS))}"
