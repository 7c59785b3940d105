"""What is advised for the configuration of alerts."""

from msgspec import Struct

from worker.core.events.alerts import AlertKind
from worker.core.events.performance import MetricValue


class OptionAdvice(Struct, frozen=True):
    """Another value of an option; of `engine.models` and `engine.alerts.kinds`, in an entry for this model."""

    option: str
    """Its path in the settings."""
    present: float
    advised: float


class TuningReport(Struct, frozen=True, kw_only=True):
    """A least strength for one kind of alert of one model, from what people said of its incidents.

    It was chosen on the older half of the verdicts; all figures are of the newer half.
    """

    alert_kind: AlertKind
    option: str
    """Its path in the settings."""
    present: float
    advised: float
    """In doublings beyond the threshold of the kind."""
    toml: str
    """An entry to be added to the settings, after the others of its kind."""
    verdicts: int
    """Incidents that were judged, the last word on each."""
    right: int
    """Those of which somebody said `true_positive`."""
    precision_before: MetricValue
    """Share of the right ones among those that open."""
    precision_after: MetricValue
    recall_before: MetricValue
    """Share of the right ones that open."""
    recall_after: MetricValue
    instead: OptionAdvice | None = None
    """Of `anomaly.input`: what comes to the same without a least strength, but flags fewer events, too. It is an option
    of the detectors: with another value they begin anew."""
    wanted_rate: float | None = None
    """Of `anomaly.input`: the share of events to be flagged while nothing is wrong, and what it was of late."""
    realised_rate: MetricValue | None = None
