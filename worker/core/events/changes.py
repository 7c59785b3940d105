"""What has changed about a model's inputs or predictions as a whole: the evidence of drift, bias and data quality."""

from typing import Literal

from msgspec import Struct

from worker.core.events.performance import SegmentName


class Changed(Struct, frozen=True, kw_only=True):
    """One feature, segment or the prediction that is not as it should be: what was seen against what is expected."""

    name: str
    """Of the feature; `prediction`; the value of a segment; or empty for the events as such."""
    measure: str
    """What `observed` and `expected` are; README.md has the definition of each."""
    observed: float | None
    expected: float | None
    low: float | None = None
    high: float | None = None
    """What would still be expected, or the interval of a gap."""
    effect: float
    """How large the change is, to rank by; comparable within a kind of alert."""
    p_value: float | None = None
    """Corrected for all features that were looked at, where a test has decided."""
    since_offset: int
    since_ms: int
    """First event of the window in which it was found; of labels: the prediction that was labelled first in it."""
    detail: str | None = None
    """What else there is to say: the new category, the type that came instead, `added` or `vanished`."""


class ChangeEvidence(Struct, frozen=True, kw_only=True):
    """What an alert about many events rests on, largest effect first."""

    changed: list[Changed]
    """At most `features_max` of them."""
    changed_count: int
    """All that are affected now."""
    looked_at: int
    """Features, segments or categories that could have been affected."""
    events: int
    """Of the window in which it was seen."""
    pattern: Literal["sudden", "gradual", "recurring"] | None = None
    """How a drift came, where that can be told."""
    segment: SegmentName | None = None
