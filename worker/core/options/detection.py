"""Options of the detectors, their calibration and the incidents of flagged events."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker.core.options.units import Count, Share


class HalfSpaceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Half-space trees (Tan, Ting, Liu 2011) as arrays; for its own score River draws them."""

    trees: Annotated[int, Meta(ge=1, le=200)] = 10
    height: Annotated[int, Meta(ge=1, le=15)] = 8
    window_events: Count = 250
    score: Literal["river", "log"] = "log"
    """`river`: River's sum of masses. `log`: the mean over the trees of -log2(1 + mass x 2^depth)."""
    gate_quantile: Annotated[float, Meta(gt=0.5, le=1.0)] = 1.0
    """Of `log`: rows whose score lies above this quantile of past scores are not learned; 1: all are."""
    fade: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Of `log`: the share of its masses that a tree keeps when a window ends; 0: it knows one window only."""


class ForestOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Isolation forest (Liu, Ting, Zhou 2008), scikit-learn's, refitted off the hot path.

    The fits start when a monitor has seen `refit_events_first` events, then at every `refit_growth` times as many,
    at last every `refit_events_max` events. With 3 ms a fit, that is 0.1 µs per event in the long run.
    """

    trees: Annotated[int, Meta(ge=1, le=1000)] = 50
    sample_rows: Annotated[int, Meta(ge=2, le=4096)] = 128
    rows_max: Annotated[int, Meta(ge=16, le=100_000)] = 512
    refit_events_first: Count = 256
    refit_growth: Annotated[int, Meta(ge=2, le=100)] = 4
    refit_events_max: Count = 32_768
    takeover_events_min: Count = 256
    takeover_events_max: Count = 8192


class CalibrationOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How scores become p-values: a reservoir of past scores and an exponential tail beyond its 98 % quantile."""

    scores_max: Annotated[int, Meta(ge=64, le=65_536)] = 2048
    memory_events: Count = 200_000
    regime_events: Count = 5000
    """A burst, or a drift of the inputs, that has lasted for so many events is the new normal: detectors begin anew."""
    learn_flagged: Literal["always", "unless_burst", "never"] = "unless_burst"
    detector_events_min: Count = 100
    verdict_events_min: Count = 500


class GroupingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How the unusual events of an incident are grouped by what makes them unusual.

    While an incident is open, a model keeps a sample of them: rows_max x features x 12 bytes at most (60 kB for 10
    features, 1.5 MB for 256); nothing otherwise.
    """

    enabled: bool = True
    rows_max: Annotated[int, Meta(ge=1, le=2_000)] = 500
    """Kept of one incident: a random sample of them when there are more."""
    rows_min: Count = 30
    """With fewer unusual events an alert has no groups."""
    groups_max: Annotated[int, Meta(ge=2, le=16)] = 5
    share_min: Share = 0.02
    """Of the rows, in a group; at least 2 rows."""
    told_features_max: Count = 3
    examples_max: Count = 5


class IncidentOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When flagged events become one condition, what it shows, and when it is over (event time).

    It is over when both `quiet_ms` and `quiet_events` have passed without a flagged event. `burst_flagged_min`
    flagged events among about a hundred make it critical: on a clean stream one such event in a thousand is expected.
    """

    quiet_ms: Annotated[int, Meta(ge=1)] = 30_000
    quiet_events: Annotated[int, Meta(ge=1)] = 100
    evidence_max: Annotated[int, Meta(ge=1, le=100)] = 10
    features_max: Annotated[int, Meta(ge=1, le=100)] = 5
    burst_flagged_min: Annotated[float, Meta(gt=1.0, lt=100.0)] = 5.0
    grouping: GroupingOptions = GroupingOptions()


class NeighboursOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Distance to the nearest neighbours in a gated reservoir of past rows."""

    neighbours: Annotated[int, Meta(ge=1, le=16)] = 10
    rows_max: Annotated[int, Meta(ge=32, le=10_000)] = 256
    distance: Literal["kth", "mean"] = "kth"
    """To the last of the neighbours, or the mean to all of them."""
    memory_events: Annotated[int, Meta(ge=0)] = 20_000
    """From so many learned events on the past fades; 0: all of it counts the same."""
    gate_quantile: Annotated[float, Meta(gt=0.5, le=1.0)] = 0.95
    """Rows whose score lies above this quantile of past scores are not learned; 1: all are."""


class SvmOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """One-Class SVM (Schölkopf et al. 2001), scikit-learn's, refitted like the forest."""

    rows_max: Annotated[int, Meta(ge=16, le=2_000)] = 300
    nu: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    gamma_factor: Annotated[float, Meta(gt=0.0)] = 0.3
    """The kernel's gamma is this, divided by features times variance."""
    score: Literal["decision", "log"] = "decision"
    """`decision`: minus scikit-learn's. `log`: minus the logarithm of the density that it is about."""
    memory_events: Annotated[int, Meta(ge=0)] = 0
    """From so many events on the past fades; 0: all of it counts the same."""
    gate_quantile: Annotated[float, Meta(gt=0.5, le=1.0)] = 0.95
    """Rows whose score lies above this quantile of past scores are not learned; 1: all are."""


class TailsOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Surprise of each feature's value in the tails of a gated reservoir of its past values."""

    rows_max: Annotated[int, Meta(ge=64, le=65_536)] = 256
    memory_events: Annotated[int, Meta(ge=0)] = 20_000
    """From so many events on the past fades; 0: all of it counts the same."""
    gate_quantile: Annotated[float, Meta(gt=0.5, le=1.0)] = 0.95
    """Rows whose score lies above this quantile of past scores are not learned; 1: all are."""
