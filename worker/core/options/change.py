"""Options of what is watched beside single events: rate of anomalies, drift, data quality, bias."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker.core.options.units import Count, Milliseconds, Share


class StandingAlertOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts about many events: how often one may speak, what it shows, and when it is over."""

    update_ms: Milliseconds = 60_000
    quiet_looks: Count = 2
    """Looks in a row at which nothing is affected any more."""
    features_max: Annotated[int, Meta(ge=1, le=100)] = 10


class RateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The share of mildly unusual events against the expected share: a burst alarms though no single event would."""

    enabled: bool = True
    share: Share = 0.02
    """Expected share of events with a p-value of at most this."""
    false_alarm_probability: Share = 0.001
    """That a stream without change ever alarms, for each time the test starts anew."""


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
    """The least effect that is an alarm."""
    multivariate: bool = True


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
    ranges: dict[str, tuple[float | None, float | None]] = {}
    """Declared ranges of features; others are learned."""


class BiasOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Biased predictions: calibration against labels, and gaps between segments."""

    enabled: bool = True
    gap_max: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    """Largest gap between two segments, as a share, that is no alarm."""
    error_max: Annotated[float, Meta(gt=0.0)] = 0.1
    """Largest mean signed error that is no alarm: of probabilities, or of numbers in deviations of the label."""
    slope_min: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    """Least calibration slope that is no alarm; the largest one is its inverse."""
    support_min: Count = 300


class UnivariateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """A model whose events are one number gets features from its own past, so that detectors work on plain metrics."""

    mode: Literal["off", "auto"] = "auto"
    lags: Annotated[int, Meta(ge=1, le=64)] = 4
    seasonality: bool = True
    """Whether a profile by hour of the week is learned and taken off."""
