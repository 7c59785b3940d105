"""Labelled streams in time order, with the kind of model that is trained on their beginning and then deployed.

Those of a folder (labelled_*.npz: X, y), real ones that River and scikit-learn ship, and River's generators: some with
a drift, some without one.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from river import datasets
from river.datasets import synth
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from worker.core.kernels.arrays import F64

CLASSES_MAX = 20
"""A `y` of more distinct numbers is a number to predict."""
TRAINED_SHARE = 0.15
GENERATED_ROWS = 10_000
SHUTTLE_ROWS = 12_000
HELD_OUT = 0.2
"""Of the training time, to measure what the model promised."""

CHAMPIONS: Mapping[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000)
    ),
    "random forest": lambda: RandomForestClassifier(100, random_state=0),
    "ridge regression": lambda: make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), Ridge()),
    "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=0),
}
KNOWN: Mapping[str, tuple[str, float, int]] = {
    "elec2": ("logistic regression", 0.15, 1),
    "noaa_weather": ("random forest", 0.15, 0),
    "bike": ("gradient boosting", 0.20, 0),
}
"""Champion, share of the rows it is trained on, and columns to drop (a running date), by the folder's README."""


class LabelledStream(NamedTuple):
    """Rows (n x d), the class codes or numbers that come true (n), and the names of classes: none for numbers."""

    name: str
    champion: str
    rows: F64
    targets: F64
    classes: tuple[str, ...]
    trained: int
    """First rows, that the champion is trained on; the rest is served."""


class Champion(NamedTuple):
    """A trained model on the rows that are served (n)."""

    classes: tuple[str, ...]
    """Those it knows; none for numbers."""
    outputs: F64
    """Probabilities n x classes, or numbers n x 1."""
    promised: float
    """Accuracy or R2 of one trained on the first four fifths of the training time, on the last fifth of it."""


def train(stream: LabelledStream) -> Champion:
    """Train the champion on the beginning of a stream, and let it answer for the rest."""
    rows, targets = stream.rows[: stream.trained], stream.targets[: stream.trained]
    early = int(len(rows) * (1.0 - HELD_OUT))
    promised = float(
        CHAMPIONS[stream.champion]().fit(rows[:early], targets[:early]).score(rows[early:], targets[early:])
    )
    model = CHAMPIONS[stream.champion]().fit(rows, targets)
    served = stream.rows[stream.trained :]
    if not stream.classes:
        return Champion((), model.predict(served)[:, np.newaxis], promised)
    known = tuple(stream.classes[int(code)] for code in model.classes_)
    return Champion(known, model.predict_proba(served), promised)


def folder_streams(folder: Path) -> Iterator[LabelledStream]:
    """Yield the labelled streams of a folder; the champion of an unknown one is chosen by the kind of its `y`."""
    for path in sorted(folder.glob("labelled_*.npz")):
        with np.load(path, allow_pickle=False) as file:
            rows, truth = file["X"].astype(np.float64), file["y"]
        name = path.stem.removeprefix("labelled_")
        targets, classes = _targets(truth)
        usual = "random forest" if classes else "gradient boosting"
        champion, share, dropped = KNOWN.get(name, (usual, TRAINED_SHARE, 0))
        yield LabelledStream(name, champion, rows[:, dropped:], targets, classes, int(len(rows) * share))


def _targets(truth: Any) -> tuple[F64, tuple[str, ...]]:  # noqa: ANN401 - an array of any type
    """Return class codes and names, or numbers and no names."""
    distinct, codes = np.unique(truth, return_inverse=True)
    is_number = truth.dtype.kind in "iuf"
    if is_number and (len(distinct) > CLASSES_MAX or bool((distinct != np.floor(distinct)).any())):
        return truth.astype(np.float64), ()
    return codes.astype(np.float64), tuple(str(int(each) if is_number else each) for each in distinct)


def shipped_streams() -> Iterator[LabelledStream]:
    """Yield streams that are always the same, without a network: real ones first, then generated ones."""
    for name, champion, source in (
        ("bananas", "random forest", datasets.Bananas()),  # type: ignore[no-untyped-call] # River has no types here
        ("phishing", "logistic regression", datasets.Phishing()),
        ("image_segments", "random forest", datasets.ImageSegments()),  # type: ignore[no-untyped-call] # as above
        ("shuttle", "logistic regression", islice(datasets.Shuttle(), SHUTTLE_ROWS)),
    ):
        yield _stream(name, champion, *_columns(source))
    rows, digits = load_digits(return_X_y=True)
    yield _stream("digits", "logistic regression", rows, digits)
    yield _stream("water_flow", "ridge regression", *_water_flow())
    for name, champion, generator in _generators():
        yield _stream(name, champion, *_columns(islice(generator, GENERATED_ROWS)))


def _generators() -> Iterator[tuple[str, str, Any]]:
    """Yield generators of rows: with an abrupt, a gradual, an incremental drift, and without one."""
    sea = synth.SEA(variant=0, seed=1), synth.SEA(variant=2, seed=2)
    yield "sea_drift", "logistic regression", synth.ConceptDriftStream(*sea, seed=3, position=5_000, width=1_000)
    agrawal = synth.Agrawal(classification_function=0, seed=1), synth.Agrawal(classification_function=4, seed=2)
    yield "agrawal_drift", "random forest", synth.ConceptDriftStream(*agrawal, seed=3, position=5_000, width=500)
    stagger = synth.STAGGER(classification_function=0, seed=1), synth.STAGGER(classification_function=2, seed=1)
    yield "stagger_drift", "random forest", synth.ConceptDriftStream(*stagger, seed=1, position=5_000, width=50)
    moving = synth.RandomRBFDrift(seed_model=1, seed_sample=2, n_classes=4, n_features=6, change_speed=0.0002)
    yield "rbf_drift", "random forest", moving
    yield "hyperplane", "logistic regression", synth.Hyperplane(seed=4, n_drift_features=5, mag_change=0.001)
    yield "friedman_drift", "gradient boosting", synth.FriedmanDrift(drift_type="gra", position=(4_000, 7_000), seed=1)
    yield "friedman", "ridge regression", synth.Friedman(seed=1)
    yield "waveform", "logistic regression", synth.Waveform(seed=1)
    yield "agrawal", "logistic regression", synth.Agrawal(classification_function=0, seed=5)


def _columns(source: Any) -> tuple[F64, Any]:  # noqa: ANN401 - pairs of features and what is true, River's
    features, truth = zip(*source, strict=True)
    return np.array([list(each.values()) for each in features], dtype=np.float64), np.array(truth)


def _water_flow() -> tuple[F64, F64]:
    """Return the flow of the two hours before and the hour of the day, and the flow."""
    flow = np.array([value for _, value in datasets.WaterFlow()])  # type: ignore[no-untyped-call] # as above
    return np.column_stack([flow[:-2], flow[1:-1], np.arange(len(flow) - 2) % 24]), flow[2:]


def _stream(name: str, champion: str, rows: F64, truth: Any) -> LabelledStream:  # noqa: ANN401 - an array of any type
    targets, classes = _targets(truth)
    return LabelledStream(name, champion, rows, targets, classes, int(len(rows) * TRAINED_SHARE))
