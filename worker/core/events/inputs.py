"""What comes in: prediction events, labels, and why a record is neither."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

NAME_CHARS_MAX = 256
FEATURES_PER_EVENT_MAX = 10_000

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Identifier = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Timestamp = int | float | Annotated[datetime, Meta(tz=True)]
FeatureValue = float | bool | str | None
PredictionValue = float | bool | str


class PredictionEvent(Struct, frozen=True, gc=False):
    """One answer of a deployed model. Unknown fields are ignored.

    `timestamp` is RFC 3339 with a time zone, or epoch milliseconds; the Kafka record's timestamp where absent.
    """

    event_id: Identifier
    model_id: Identifier
    features: Annotated[dict[Name, FeatureValue], Meta(max_length=FEATURES_PER_EVENT_MAX)]
    prediction: PredictionValue
    timestamp: Timestamp | None = None
    model_version: Name | None = None
    probabilities: dict[Name, Annotated[float, Meta(ge=0.0, le=1.0)]] | None = None
    segment: dict[Name, Name] | None = None
    label: PredictionValue | None = None


class LabelEvent(Struct, frozen=True, gc=False):
    """Ground truth for one prediction event, on the `labels` topic with the same key as the prediction."""

    event_id: Identifier
    model_id: Identifier
    label: PredictionValue
    timestamp: Timestamp | None = None


class RejectCode(StrEnum):
    """Why an input record became a dead letter. Stable: never renamed, only added to."""

    EMPTY = "empty"
    """The record has no value (a tombstone) or an empty one."""
    TOO_LARGE = "too_large"
    """The value is longer than `record_bytes_max`."""
    NOT_UTF8 = "not_utf8"
    """The value is not valid UTF-8, or holds an escaped lone surrogate."""
    NOT_JSON = "not_json"
    """The value is not one JSON document (RFC 8259)."""
    NOT_FINITE = "not_finite"
    """A number is NaN or infinite, written as a word or too large for a double."""
    TOO_DEEP = "too_deep"
    """Objects or arrays are nested too deeply to be read."""
    MISSING_FIELD = "missing_field"
    """A required field is absent."""
    WRONG_TYPE = "wrong_type"
    """A field holds a value of a type that it cannot have."""
    OUT_OF_BOUNDS = "out_of_bounds"
    """A name is empty or too long, there are too many features, or a probability is not in [0, 1]."""
    BAD_TIMESTAMP = "bad_timestamp"
    """The timestamp is not RFC 3339 with a time zone, nor epoch milliseconds between 1970 and 9999."""
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    """The event claims to be later than its Kafka record by more than `future_max_ms`."""
    UNKNOWN_FIELD = "unknown_field"
    """Of `feedback` alone: a field that does not exist. A slip there could silence everything."""
    MODELS_MAX = "models_max"
    """The shard already watches `models_max` other models."""
