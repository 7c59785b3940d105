"""Three scikit-learn models on the image segments that River ships: 2,310 regions of outdoor photographs, 7 classes.

Half of the rows, drawn by a fixed seed, train the models; the others are served. They are real rows, served again and
again in ever new order, because there are only 1,155 of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

SEED = 1
VERSION = "2026-01"
COLOUR = (
    "intensity-mean",
    "rawred-mean",
    "rawblue-mean",
    "rawgreen-mean",
    "exred-mean",
    "exblue-mean",
    "exgreen-mean",
    "value-mean",
    "saturation-mean",
    "hue-mean",
)
SHAPE = (
    "region-centroid-col",
    "region-centroid-row",
    "short-line-density-5",
    "short-line-density-2",
    "vedge-mean",
    "vegde-sd",
    "hedge-mean",
    "hedge-sd",
)


class Deployed(NamedTuple):
    """A trained model behind its name, and the rows of its features that it will be asked about."""

    model_id: str
    features: tuple[str, ...]
    classifier: Any
    rows: Rows
    truth: Sequence[str]
    accuracy: float

    def answer(self, rows: Rows) -> tuple[list[str], list[dict[str, float]]]:
        """Return the predicted class of each row (n x d), and the probability of every class."""
        classes = list(map(str, self.classifier.classes_))
        chances = self.classifier.predict_proba(rows)
        best = [classes[place] for place in chances.argmax(axis=1)]
        return best, [dict(zip(classes, row, strict=True)) for row in chances.round(4).tolist()]

    def column(self, feature: str) -> int:
        """Return the place of a feature."""
        return self.features.index(feature)


def deploy() -> list[Deployed]:
    """Train the models. Their names are chosen to fall into different partitions of four."""
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - takes a second, so not for `--help`
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - heavy, and needed here only
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - heavy, and needed here only
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - heavy, and needed here only

    names, table, classes = _segments()
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return [
        _trained("segments-colour", COLOUR, RandomForestClassifier(50, random_state=SEED), names, table, classes),
        _trained("segments-linear", names, linear, names, table, classes),
        _trained("segments-shape", SHAPE, RandomForestClassifier(30, random_state=SEED), names, table, classes),
    ]


def _trained(
    model_id: str,
    features: tuple[str, ...],
    classifier: Any,  # noqa: ANN401 - scikit-learn ships no types
    names: tuple[str, ...],
    table: Rows,
    classes: NDArray[np.str_],
) -> Deployed:
    rows = table[:, [names.index(feature) for feature in features]]
    order = np.random.default_rng(SEED).permutation(len(rows))
    training, served = np.split(order, 2)
    classifier.fit(rows[training], classes[training])
    accuracy = float(classifier.score(rows[served], classes[served]))
    return Deployed(model_id, features, classifier, rows[served], classes[served].tolist(), accuracy)


def _segments() -> tuple[tuple[str, ...], Rows, NDArray[np.str_]]:
    """Return the names of the features, the table (2,310 x 18) and the class of each row."""
    from river.datasets import ImageSegments  # noqa: PLC0415 - as above

    pairs = list(ImageSegments())  # type: ignore[no-untyped-call]  # River types only a part of itself
    names = tuple(pairs[0][0])
    table = np.array([[float(row[name]) for name in names] for row, _ in pairs])
    return names, table, np.array([category for _, category in pairs])
