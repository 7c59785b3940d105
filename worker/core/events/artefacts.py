"""What is told of a stored model beside its bytes: all that a server needs to load it, and where it comes from."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker.core.events.performance import MetricValue

MANIFEST_VERSION = 1

Checksum = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ModelPath = Annotated[str, Meta(pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*/[0-9a-f]{64}[.]onnx$")]


class InputFeature(Struct, frozen=True):
    """One column of `rows`, and how a server fills it. A value that is absent or null is NaN, whatever the kind.

    numeric: the number. boolean: 0 or 1. text: the number of characters. categorical: 1 for the first of `categories`,
    2 for the second, ..., and 0 for any other value. Where categories would be more than 200 kB, an event leaves them
    out of all features, and only the stored manifest has them.
    """

    name: str
    kind: Literal["numeric", "boolean", "categorical", "text"]
    categories: list[str] = []


class TrainingRange(Struct, frozen=True):
    """Rows of one partition that the model was fitted on: offsets from `first` to `last`, both included."""

    topic: str
    partition: int
    first: int
    last: int
    rows: int


class MetricChange(Struct, frozen=True):
    """A metric of the deployed model and of what is offered, on the same later labels, and after less before.

    The intervals of 95 % rest on blocks of labels, each left out in turn: they hold for one look.
    """

    name: str
    before: MetricValue
    after: MetricValue
    difference: MetricValue


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything beside the bytes of a model. Deterministic, but for `libraries`, which is empty in events."""

    format_version: int = MANIFEST_VERSION
    format: Literal["onnx"] = "onnx"
    model_id: str
    replaces_version: str | None
    """The version of the deployed model that it was compared with."""
    version: str
    """What the server is to report as `model_version` when it has taken the model."""
    candidate: str
    task: Literal["classification", "regression"]
    features: list[InputFeature]
    classes: list[str]
    """Columns of `probabilities` in order; empty for a regression."""
    trained_on: list[TrainingRange]
    metrics: list[MetricChange]
    seed: int
    decided_ms: int
    """Event time of the decision, epoch milliseconds: the clock of no machine."""
    sha256: Checksum
    bytes: int
    libraries: dict[str, str]


class ArtefactReport(Struct, frozen=True):
    """A stored model: `path` is below the root of the artefact store, which the configuration names."""

    path: ModelPath
    manifest: Manifest
