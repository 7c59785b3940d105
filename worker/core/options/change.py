"""Options of what is watched beside single events: rate of anomalies, drift, data quality, bias."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker.core.options.units import Count, Share

_Frequency = Annotated[int, Meta(ge=0, le=2**40)]
_Bucket = Annotated[int, Meta(ge=-(2**16), le=2**16)]


class StandingAlertOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts about many events: when one is over, and what it shows."""

    quiet_looks: Count = 2
    """Looks in a row at which nothing is affected any more."""
    features_max: Annotated[int, Meta(ge=1, le=100)] = 10


class RateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The share of mildly unusual events against the expected share: a burst alarms though no single event would."""

    enabled: bool = True
    share: Share = 0.02
    """Expected share of events with a p-value of at most this."""
    rise_min: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.25
    """Least rise, as a factor of the odds, that is an alarm: calibrated p-values are not exactly uniform."""
    false_alarm_probability: Share = 0.001
    """That a stream without change ever alarms, for each time the test starts anew."""


class DriftColumnOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a column is expected to hold: a histogram as published in the metrics, or counts of categories."""

    name: str
    """Of the feature, or `prediction`."""
    scale: Annotated[int, Meta(ge=-10, le=5)] = 5
    zero_count: _Frequency = 0
    positive_start: _Bucket = 0
    positive_counts: tuple[_Frequency, ...] = ()
    negative_start: _Bucket = 0
    negative_counts: tuple[_Frequency, ...] = ()
    categories: dict[str, _Frequency] = {}
    missing: _Frequency = 0


class DriftReferenceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The reference of the models whose id fits `model`, a shell pattern. The first that fits counts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    columns: tuple[DriftColumnOptions, ...]
    """Columns that are not here are learned from the stream."""


class DriftOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Drift of inputs and predictions against a reference, in blocks of events."""

    enabled: bool = True
    reference_events: Annotated[int, Meta(ge=200)] = 5_000
    """The first events from which the reference is taken, if they are stable."""
    block_events: Annotated[int, Meta(ge=20, le=100_000)] = 500
    """Events after which the features are looked at."""
    blocks_max: Annotated[int, Meta(ge=1, le=256)] = 32
    """The longest window, in blocks; windows of 1, 2, 4, ... blocks are compared with the reference."""
    bins: Annotated[int, Meta(ge=4, le=64)] = 16
    tests: tuple[Literal["psi", "jensen_shannon", "kolmogorov_smirnov"], ...] = ("psi", "jensen_shannon")
    """Effects that are told; the first one ranks."""
    false_alarms_per_day: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    """Probability that a stationary stream alarms in a day, over all features and looks."""
    psi_min: Annotated[float, Meta(ge=0.0)] = 0.02
    """The least population stability index that is an alarm, freed of what chance adds to it."""
    multivariate: bool = True
    """Whether changes of dependence between the columns are looked for, which no column shows alone."""
    adopt_events: Count = 50_000
    """Events after which a drift that stays, and is stable, becomes the reference."""
    regimes_max: Annotated[int, Meta(ge=0, le=64)] = 4
    """Earlier references that are remembered, to tell that one of them has come back."""
    references: tuple[DriftReferenceOptions, ...] = ()
    """References that are given, not learned."""


def drift_contradictions(options: DriftOptions) -> list[str]:
    """What cannot be meant together, one sentence each."""
    found = []
    if options.adopt_events < options.block_events:
        found.append("engine.drift.adopt_events must be at least block_events: a reference is taken from whole blocks")
    if len(set(options.tests)) < max(len(options.tests), 1):
        found.append("engine.drift.tests must name at least one effect, and none twice: the first one ranks")
    for each in options.references:
        names = [column.name for column in each.columns]
        if len(set(names)) < len(names):
            found.append(f"engine.drift.references of `{each.model}` must not name a column twice")
    return found


class RangeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Declared bounds of a feature."""

    minimum: float | None = None
    maximum: float | None = None


class QualityOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Data quality of each feature, in blocks of events."""

    enabled: bool = True
    block_events: Annotated[int, Meta(ge=20, le=100_000)] = 200
    reference_blocks: Annotated[int, Meta(ge=2, le=1_000)] = 10
    """The first blocks, from which rates and ranges are learned."""
    ids_max: Annotated[int, Meta(ge=16, le=10_000_000)] = 10_000
    """Latest event ids that are kept to find duplicates."""
    names_max: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Unknown features, and unseen categories, that are told by name."""
    ranges: dict[str, RangeOptions] = {}
    """Declared ranges of features; others are learned."""
    range_widths: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 3.0
    """How many of its widths a learned range is widened by on both sides."""
    rise_min: Share = 0.05
    """The least rise of a share (missing, invalid, unseen, out of range, duplicate) that is an alarm."""
    false_alarm_probability: Share = 1e-6
    """That a look at a block of a stream without change finds anything, over all features and kinds."""
    adopt_blocks: Count = 250
    """Blocks for which a state must stand to become normal; a declared range never does."""
    duplicates: bool = True
    """Whether ids are compared with the latest ones."""


class BiasOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Biased predictions: calibration against labels, and gaps between the values of a segment."""

    enabled: bool = True
    gap_max: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    """Largest gap between a value and all others that is no alarm: of rates as it is, of mean absolute errors as a
    share of that of all, of mean signed errors in deviations of the label."""
    error_max: Annotated[float, Meta(gt=0.0)] = 0.1
    """Largest mean signed error that is no alarm: of probabilities, or of numbers in deviations of the label."""
    slope_min: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    """Least calibration slope that is no alarm; the largest one is its inverse."""
    support_min: Count = 300
    """Labelled events of a series, or of a value and of all others, that an alert rests on at least."""


class UnivariateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """A model whose events are one number gets features from its own past, so that detectors work on plain metrics."""

    mode: Literal["off", "auto"] = "auto"
    lags: Annotated[int, Meta(ge=1, le=64)] = 4
    fast_half_life_events: Annotated[float, Meta(ge=1.0, le=1e6)] = 8.0
    slow_half_life_events: Annotated[float, Meta(ge=1.0, le=1e6)] = 100.0
    """Events after which a value counts half in the means that a value is compared with."""
    seasonality: bool = True
    """Whether a profile by hour of the week (UTC) is learned and taken off."""


def quality_contradictions(options: QualityOptions) -> list[str]:
    """What cannot be meant together, one sentence each; empty when the options are sound."""
    return [
        f"engine.quality.ranges: the lower bound of `{name}` must not be above the upper one"
        for name, each in options.ranges.items()
        if each.minimum is not None and each.maximum is not None and each.minimum > each.maximum
    ]


def bias_contradictions(options: BiasOptions, labels: int) -> list[str]:
    """Return what cannot be meant together, where the longest window of a model has so many labels."""
    if options.enabled and options.support_min > labels // 2:
        return [
            "engine.bias.support_min must not be more than half of blocks_max blocks of block_labels: two are compared"
        ]
    return []
