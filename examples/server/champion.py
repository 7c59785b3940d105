"""Models that answer: one trained here at first, then whatever ONNX models were taken over; and recalibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples.server.parcels import CLASSES, SCHEMA, parcels

Features = Mapping[str, float | str | bool | None]
Chances = dict[str, float]
"""Probabilities by class."""

MODEL_ID = "parcels"
FIRST_VERSION = "1"
METHODS = frozenset({"identity", "temperature", "platt", "beta", "isotonic"})
"""Methods of recalibration that this server can apply."""
_TRAINING_ROWS = 2_000


class Model(Protocol):
    """Anything that gives probabilities."""

    @property
    def classes(self) -> Sequence[str]:
        """Return the names of the classes."""

    def chances(self, asked: Sequence[Features]) -> list[Chances]:
        """Return the probabilities of the classes, for each of what is asked."""


class TrainedModel:
    """The first model: scikit-learn, trained when the server starts; the same each time."""

    classes = CLASSES

    def __init__(self) -> None:
        asked, truth = parcels(_TRAINING_ROWS, seed=1, winter=False)
        self._classifier = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
        self._classifier.fit(rows_of(asked, SCHEMA), truth)

    def chances(self, asked: Sequence[Features]) -> list[Chances]:
        """Return the probabilities of the classes, for each of what is asked."""
        return _named(self.classes, self._classifier.predict_proba(rows_of(asked, SCHEMA)))


class OnnxModel:
    """A model that modelvigil has made. Raises ValueError if it does not do what its manifest tells."""

    def __init__(self, model: bytes, manifest: Mapping[str, Any]) -> None:
        self.classes: Sequence[str] = manifest["classes"]
        self._schema: Sequence[Mapping[str, Any]] = manifest["features"]
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # more would only wait for each other over a few rows
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            chances = self._probabilities([{}])[0]
        except Exception as error:  # onnxruntime has no common class of errors
            raise ValueError(f"onnxruntime does not run the model: {error}") from error
        if len(chances) != len(self.classes) or not math.isclose(sum(chances), 1.0, abs_tol=1e-6):
            raise ValueError(f"the model gives {chances.tolist()} for the classes {self.classes}")

    def chances(self, asked: Sequence[Features]) -> list[Chances]:
        """Return the probabilities of the classes, for each of what is asked."""
        return _named(self.classes, self._probabilities(asked))

    def _probabilities(self, asked: Sequence[Features]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._session.run(["probabilities"], {"rows": rows_of(asked, self._schema)})[0]
        return found


def _named(classes: Sequence[str], probabilities: NDArray[np.float64]) -> list[Chances]:
    return [dict(zip(classes, row, strict=True)) for row in probabilities.tolist()]


def rows_of(asked: Sequence[Features], schema: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return features as numbers in the order of a manifest; NaN for what is absent or of another kind."""
    rows = [[_number(features.get(feature["name"]), feature) for feature in schema] for features in asked]
    return np.array(rows).reshape(len(asked), len(schema))


def _number(value: float | str | bool | None, feature: Mapping[str, Any]) -> float:  # noqa: FBT001 - a feature's value
    kind = feature["kind"]
    if kind == "categorical" and isinstance(value, str):
        categories: list[str] = feature["categories"]
        return 1.0 + categories.index(value) if value in categories else 0.0
    if kind == "text" and isinstance(value, str):
        return float(len(value))
    if isinstance(value, bool) == (kind == "boolean") and isinstance(value, float | int):
        return float(value)
    return math.nan


class Recalibration(NamedTuple):
    """Coefficients that put the probability of one of two classes right; it needs no library of ours."""

    method: str
    coefficients: Mapping[str, Sequence[float]]
    p_min: float = 1e-5
    positive: str = CLASSES[-1]
    """The class whose probability it is."""

    def applied(self, own: Chances) -> Chances:
        """Return the probabilities of two classes, put right."""
        if self.method == "identity":
            return own
        p = self.probability(own[self.positive])
        return {each: p if each == self.positive else 1.0 - p for each in own}

    def probability(self, p: float) -> float:
        """Return one probability, put right."""
        c, safe = self.coefficients, min(max(p, self.p_min), 1.0 - self.p_min)
        if self.method == "platt":
            return _logistic(c["a"][0] + c["b"][0] * math.log(safe / (1.0 - safe)))
        if self.method == "temperature":
            return _logistic(c["b"][0] * math.log(safe / (1.0 - safe)))
        if self.method == "beta":
            return _logistic(c["a"][0] + c["b"][0] * math.log(safe) - c["c"][0] * math.log(1.0 - safe))
        if self.method == "isotonic":
            return float(np.interp(p, c["x"], c["y"]))
        return p


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))
