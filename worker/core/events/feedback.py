"""What people say of alerts. Fields that are not known are refused here: a slip in a scope would silence everything."""

from typing import Annotated

from msgspec import Meta, Struct, field

from worker.core.events.inputs import Identifier, Timestamp

_Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
_Text = Annotated[str, Meta(min_length=1, max_length=1_000)]


class Scope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which alerts are meant. What is left out fits all; `model`, `kind` and `feature` are shell patterns."""

    model: _Pattern = "*"
    kind: _Pattern = "*"
    segment: _Pattern | None = None
    """As `name=value`, a shell pattern; alerts about no segment do not fit."""
    feature: _Pattern | None = None
    """The feature with the largest part in the alert."""


class SilenceFeedback(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="silence"):
    """No incident of a scope opens for a while. One that is still there when it ends opens then."""

    feedback_id: Identifier
    """Sent twice, it counts once."""
    author: Identifier
    reason: _Text
    scope: Scope
    begin: Timestamp | None = field(default=None, name="from")
    """Event time; at once, if it is left out."""
    end: Timestamp = field(name="to")


class _AboutIncident(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    feedback_id: Identifier
    author: Identifier
    reason: str = ""
    model_id: Identifier
    shard: Annotated[int, Meta(ge=0)]
    incident_id: Identifier


class TruePositiveFeedback(_AboutIncident, frozen=True, kw_only=True, tag="true_positive"):
    """An incident was worth telling: what false positives have asked of its kind is asked less."""


class FalsePositiveFeedback(_AboutIncident, frozen=True, kw_only=True, tag="false_positive"):
    """An incident was not worth telling: from now on more is asked of its kind."""


class IgnoreFeedback(_AboutIncident, frozen=True, kw_only=True, tag="ignore_like_this"):
    """Incidents like this one do not open any more: same kind, segment, feature and direction, not much stronger."""


class UndoFeedback(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="undo"):
    """An earlier feedback event has no effect any more."""

    feedback_id: Identifier
    author: Identifier
    reason: str = ""
    undoes: Identifier
    """Its `feedback_id`."""


IncidentFeedback = TruePositiveFeedback | FalsePositiveFeedback | IgnoreFeedback
FeedbackEvent = SilenceFeedback | TruePositiveFeedback | FalsePositiveFeedback | IgnoreFeedback | UndoFeedback
