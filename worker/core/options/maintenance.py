"""Options of model maintenance: what is fitted, when, and what evidence an advice needs."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from worker.core.options.units import Count, Milliseconds, Share

ChallengerName: TypeAlias = Literal["recent", "all", "linear", "online"]
ClassLoss: TypeAlias = Literal["log_loss", "brier", "error"]
NumberLoss: TypeAlias = Literal["squared_error", "absolute_error"]
TreeKind: TypeAlias = Literal["hoeffding_adaptive_tree", "adaptive_random_forest"]
OnlineKind: TypeAlias = Literal["linear", "hoeffding_adaptive_tree", "adaptive_random_forest"]
Labels: TypeAlias = Annotated[int, Meta(ge=1, le=2**31)]


class BoostedOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Histogram gradient boosting (Friedman 2001; Ke et al. 2017, LightGBM), scikit-learn's."""

    iterations: Annotated[int, Meta(ge=1, le=1000)] = 100
    leaves_max: Annotated[int, Meta(ge=2, le=256)] = 31
    depth_max: Annotated[int, Meta(ge=1, le=64)] = 8
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    leaf_rows_min: Annotated[int, Meta(ge=1, le=100_000)] = 20
    l2: Annotated[float, Meta(ge=0.0, le=1e6)] = 1.0
    """Penalty on the values of leaves."""


class LinearOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Ridge regression, or logistic (softmax) regression with the same penalty, on standardised features."""

    penalty: Annotated[float, Meta(gt=0.0, le=1e9)] = 1.0
    """Of half the squared coefficients, against a sum of losses over rows: 1 / C of scikit-learn."""
    iterations_max: Annotated[int, Meta(ge=1, le=10_000)] = 300


class OnlineLinearOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Stochastic gradient descent."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.005
    """Per label. With 0.01: accuracy on noaa 0.750 instead of 0.745, on elec2 0.752 instead of 0.756."""
    fade: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.001
    """Weight of the newest row in means and variances: they remember some 1 / fade rows."""


class OnlineTreeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Hoeffding adaptive tree (Bifet, Gavaldà 2009); adaptive random forest (Gomes et al. 2017)."""

    trees: Annotated[int, Meta(ge=1, le=100)] = 3
    """Of a forest. Each may have another one growing in the background."""
    depth_max: Annotated[int, Meta(ge=1, le=20)] = 8
    leaf_rows: Annotated[int, Meta(ge=1, le=100_000)] = 50
    """Rows a leaf sees between attempts to split it (the grace period)."""
    features_max: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Features that a leaf of a forest considers, drawn for each leaf; a single tree considers all."""
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.01
    """Probability of a wrong split that the Hoeffding bound allows."""
    tie: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    """Width of the bound below which two equally good splits are no reason to wait."""
    repeats: Annotated[int, Meta(ge=1, le=10)] = 3
    """Mean of the Poisson weight of a row in a tree of a forest (6 in the paper; costs time)."""
    rows_max: Annotated[int, Meta(ge=2, le=100_000)] = 5_000
    """Rows that are kept, and learned again by who restores them: up to 3 s of CPU for a forest."""
    rows_kept: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """Rows that the successor starts with; less than `rows_max`."""

    def __post_init__(self) -> None:
        if self.rows_kept >= self.rows_max:
            raise ValueError(f"rows_kept ({self.rows_kept}) must be less than rows_max ({self.rows_max})")


class OnlineOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Which model learns online, and what bounds it."""

    kind: OnlineKind = "linear"
    linear: OnlineLinearOptions = OnlineLinearOptions()
    trees: OnlineTreeOptions = OnlineTreeOptions()


FOR_ALL_ROWS = BoostedOptions()
"""For a sample of all labelled rows: more leaves are worth their cost (bike: R2 0.88 against 0.85 with 8)."""
FOR_RECENT_ROWS = BoostedOptions(leaves_max=8)
"""For some 2,000 recent rows: more leaves learn noise (elec2: accuracy 0.756 with 31, 0.764 with 8)."""


class RecalibrationOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the outputs of a model are put right."""

    block_labels: Annotated[int, Meta(ge=10, le=100_000)] = 200
    """Labels after which candidates are judged and refitted."""
    rows_min: Labels = 200
    """Labels before the first fit."""
    class_labels_min: Count = 10
    """Labels of each kind that a window must have, to be fitted on."""
    fade: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.9
    """Of the losses, a block: they are remembered for some 2,000 labels."""
    evidence: Annotated[float, Meta(ge=0.0)] = 1.0
    """Standard errors by which another candidate must be better, to be taken."""
    blocks_min: Annotated[int, Meta(ge=2, le=10_000)] = 3
    """Blocks of losses before anything but the identity is taken."""
    class_loss: ClassLoss = "brier"
    """By which candidates are compared: proper, and bounded, so that a few sure and wrong answers do not decide."""
    number_loss: NumberLoss = "squared_error"
    precision: Annotated[float, Meta(gt=0.0)] = 1.0
    """Of the prior that holds coefficients of probabilities to those that change nothing."""
    publish_change_min: Annotated[float, Meta(ge=0.0)] = 0.01
    """Least mean change of a probability over the latest block (of a number: in standard deviations of the targets)
    for which new coefficients of the same candidate are published."""
    knots_max: Annotated[int, Meta(ge=2, le=1_000)] = 40
    """Of an isotonic regression."""
    segments_max: Annotated[int, Meta(ge=1, le=1_000)] = 16
    """Segments with a bias of their own; others have that of all rows."""
    generations_max: Annotated[int, Meta(ge=2, le=10_000)] = 64
    """Sets of coefficients that are remembered: labels that come later than so many blocks do not judge."""
    blocks_max: Annotated[int, Meta(ge=20, le=10_000)] = 100
    """Blocks that the figures before and after rest on."""
    scaled_classes_max: Count = 12
    """Classes beyond which there is no vector scaling: it costs their square."""


class GateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When a challenger is ready."""

    false_promotion_probability: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    """That any challenger that is no better gets ready within `span_labels`."""
    span_labels: Annotated[int, Meta(ge=1_000, le=2**31)] = 20_000
    gain_min: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.02
    """Share of the champion's loss by which a challenger must be better, to be worth a promotion."""
    block_labels: Annotated[int, Meta(ge=50, le=100_000)] = 200
    """Labels whose mean is tested: shorter is faster, longer stands more autocorrelation."""
    labels_min: Annotated[int, Meta(ge=100, le=2**31)] = 1_000
    hold_labels: Annotated[int, Meta(ge=0, le=2**31)] = 1_500
    """So long the evidence must stay at its limit: more than the labels between two refits."""
    segment_loss_max: Annotated[float, Meta(ge=0.0)] = 0.05
    """No segment may be worse by more, in units of the loss."""
    segment_labels_min: Annotated[int, Meta(ge=1, le=1_000)] = 200


class RankingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How the advice moves."""

    memory_labels: Annotated[int, Meta(ge=200, le=10**7)] = 700
    """Labels from which on the past fades: a label's weight after so many others is 1 / e."""
    switch_errors: Annotated[float, Meta(ge=0.0)] = 1.5
    """Standard errors by which a candidate must be better to be advised; the champion needs none."""
    labels_min: Annotated[int, Meta(ge=100, le=2**31)] = 500


class AfterOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When a new version has regressed."""

    false_rollback_probability: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    labels_min: Annotated[int, Meta(ge=100, le=2**31)] = 500
    hold_labels: Annotated[int, Meta(ge=0, le=2**31)] = 500
    allowed_loss: Annotated[float, Meta(ge=0.0)] = 0.02
    """By how much it may be worse than promised, in units of the loss."""
    watch_labels_max: Annotated[int, Meta(ge=1_000, le=2**31)] = 5_000
    """A challenger goes on learning, a version does not: for so long their difference may be held against it."""


class ObjectiveOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a decision threshold is to make as large as possible."""

    kind: Literal["accuracy", "f1", "cost", "recall_at_precision"] = "f1"
    false_positive_cost: Annotated[float, Meta(ge=0.0)] = 1.0
    false_negative_cost: Annotated[float, Meta(ge=0.0)] = 1.0
    """Of an event, for `cost`: the mean cost of an event is made small; right decisions cost nothing."""
    precision_min: Share = 0.9
    """For `recall_at_precision`: the lower limit of the precision must not be below."""


class ThresholdOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a decision threshold is advised."""

    every_labels: Labels = 1_000
    """Looked for after so many labels."""
    change_min: Share = 0.02
    """Least distance from the present threshold, and from the one advised before."""
    block_labels: Annotated[int, Meta(ge=10, le=2**31)] = 200
    blocks_max: Annotated[int, Meta(ge=20, le=10_000)] = 40
    """A threshold is chosen on the older half of these blocks, and judged on the newer one."""
    positives_min: Count = 50
    """Positives, and negatives, that each half must have."""
    z: Annotated[float, Meta(gt=0.0)] = 2.81
    """Of the interval of the gain that must be above 0: wide, because it is looked at again and again."""


class RegimeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How the inputs of a model are clustered into regimes, and when a change of them is told."""

    enabled: bool = True
    cells_per_event_max: Count = 32
    """Distances cost features x regimes cells; with more than so many, only every second, third, ... event is used."""
    start_rows: Annotated[int, Meta(ge=64)] = 4_096
    """Rows after which the regimes are looked for, in a sample of them."""
    start_regimes_max: Annotated[int, Meta(ge=1, le=32)] = 8
    regimes_max: Annotated[int, Meta(ge=1, le=64)] = 12
    """With the later ones; then the one that vanished first gives way, or the new one is counted as refused."""
    pane_rows: Annotated[int, Meta(ge=64)] = 1_024
    memory_rows: Count = 50_000
    """Rows of one regime from which on its centre follows a drift instead of being the mean of all."""
    new_share_min: Share = 0.02
    """Share of the rows that a new place needs, in each of `new_panes` panes."""
    new_panes: Annotated[int, Meta(ge=1, le=16)] = 3
    false_panes: Annotated[float, Meta(gt=1.0)] = 1e5
    """Panes between two false "vanished" at least, on average, while a regime keeps its share."""
    vanished_panes: Count = 2
    """Panes that a regime has to be away at least."""
    examples_max: Annotated[int, Meta(ge=1, le=100)] = 5
    told_features_max: Count = 5


class RetrainOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a model should be trained again elsewhere."""

    kinds: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...] = (
        "performance.drop",
        "performance.limit",
        "drift.concept",
        "drift.input",
    )
    """Kinds of alerts of which an opening is a reason."""
    cooldown_ms: Milliseconds = 86_400_000
    """No further request so long, in event time; what comes up meanwhile is told with the next one."""
    labels_min: Annotated[int, Meta(ge=0, le=2**31)] = 500
    """Labelled rows since the first reason that a request waits for, no longer than `cooldown_ms`."""
    reasons_max: Annotated[int, Meta(ge=1, le=100)] = 10


class ModelMaintenanceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is different for the models whose id fits `model`, a shell pattern. The first that fits counts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    enabled: bool | None = None
    objective: ObjectiveOptions | None = None
    challengers: tuple[ChallengerName, ...] | None = None


class MaintenanceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Recalibration, challengers, thresholds, regimes. Without labels nothing of it runs."""

    enabled: bool = True
    waiting_rows_max: Annotated[int, Meta(ge=64, le=10_000_000)] = 20_000
    """Predictions whose features are kept until their label comes, for each model: 4 bytes for each feature. Labels
    that come later than that teach nothing and judge nothing here (they are counted)."""
    begin_labels: Annotated[int, Meta(ge=20, le=2**31)] = 200
    """Labels with which the shadow pool begins: by then it is known whether there are probabilities, and of what."""
    class_labels_min: Count = 20
    """Labels of a class that was not there at the beginning, with which the pool begins anew."""
    class_loss: Literal["brier", "error"] = "brier"
    """By which candidates are compared; without probabilities it is always `error`."""
    challengers: tuple[ChallengerName, ...] = ("recent", "all")
    recent_rows: Annotated[int, Meta(ge=100, le=100_000)] = 2_000
    """Latest labelled rows, on which `recent` and `linear` are fitted; 4 bytes for each feature."""
    sampled_rows: Annotated[int, Meta(ge=100, le=100_000)] = 8_000
    """Random sample of all labelled rows, on which `all` is fitted; the same."""
    fit_rows_min: Annotated[int, Meta(ge=50, le=100_000)] = 500
    refit_labels: Annotated[int, Meta(ge=50, le=2**31)] = 600
    """Labels between two fits of the challengers,"""
    refit_interval_ms: Milliseconds = 60_000
    """and event time between them."""
    drift_refit_labels: Annotated[int, Meta(ge=50, le=2**31)] = 400
    """When concept drift is told, so many labels since the last fit are enough."""
    takeover_labels: Labels = 200
    """Labels between a fit's request and its taking over,"""
    takeover_ms: Milliseconds = 5_000
    """and event time between them: a position of the stream, so that a replay takes over at the same event."""
    advice_artefacts: bool = True
    """Store the advised challenger at each advice and each refit of it, for servers that follow the advice."""
    search_labels: Annotated[int, Meta(ge=0, le=2**31)] = 5_000
    """Labels between two searches of hyper-parameters (successive halving), 0: none;"""
    search_interval_ms: Milliseconds = 900_000
    """and event time between them: a search takes seconds of CPU."""
    recent: BoostedOptions = FOR_RECENT_ROWS
    all: BoostedOptions = FOR_ALL_ROWS
    linear: LinearOptions = LinearOptions()
    online: OnlineOptions = OnlineOptions()
    recalibration: RecalibrationOptions = RecalibrationOptions()
    gate: GateOptions = GateOptions()
    ranking: RankingOptions = RankingOptions()
    after: AfterOptions = AfterOptions()
    objective: ObjectiveOptions = ObjectiveOptions()
    threshold: ThresholdOptions = ThresholdOptions()
    regimes: RegimeOptions = RegimeOptions()
    retrain: RetrainOptions = RetrainOptions()
    models: tuple[ModelMaintenanceOptions, ...] = ()

    def of_model(self, model_id: str) -> "MaintenanceOptions":
        """Return the options of a model."""
        own = next((each for each in self.models if fnmatchcase(model_id, each.model)), None)
        if own is None:
            return self
        names = ("enabled", "objective", "challengers")
        changed = {name: value for name in names if (value := getattr(own, name)) is not None}
        return msgspec.structs.replace(self, **changed)


def maintenance_contradictions(options: MaintenanceOptions) -> list[str]:
    """Return what cannot be meant together, one sentence each."""
    where = "engine.maintenance"
    declared = [options.challengers, *(each.challengers for each in options.models if each.challengers is not None)]
    rules = {
        "challengers must not name one twice": any(len(set(names)) < len(names) for names in declared),
        "fit_rows_min must not be more than recent_rows or sampled_rows: no fit would ever have enough": (
            options.fit_rows_min > min(options.recent_rows, options.sampled_rows)
        ),
        "takeover_labels must be less than refit_labels and drift_refit_labels: one fit at a time": (
            options.takeover_labels >= min(options.refit_labels, options.drift_refit_labels)
        ),
        "gate.hold_labels must be more than refit_labels: a fit that came out well is not yet a better challenger": (
            options.gate.hold_labels <= options.refit_labels
        ),
        "drift_refit_labels must not be more than refit_labels: drift must not make refits rarer": (
            options.drift_refit_labels > options.refit_labels
        ),
    }
    return [f"{where}.{rule}" for rule, broken in rules.items() if broken]
