"""Which models have series of their own, and their figures: those of the last complete window, as it was published.

Rule 1: there are never more than `models_max` of them. The first ones to appear have a place; that of a model which is
        on no shard here any more is taken only when another model needs it, so that its counters are not lost before.
Rule 2: when a shard goes, the figures of its models go at once: an old figure would be taken for a new one.
Rule 3: what was shown once is replaced and never changed, so that other threads can read it at any time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.edges.telemetry.metrics import OTHER, Metric, Metrics
from worker.edges.telemetry.records import Column, Pane, Performance

_FEATURE_METRICS = (
    Metrics.FEATURE_MEAN,
    Metrics.FEATURE_MEDIAN,
    Metrics.FEATURE_DEVIATION,
    Metrics.FEATURE_MISSING,
    Metrics.FEATURE_DRIFT_PSI,
)
_RATED = {
    "accuracy": Metrics.ACCURACY,
    "precision": Metrics.PRECISION,
    "recall": Metrics.RECALL,
    "f1": Metrics.F1,
    "f1_macro": Metrics.F1_MACRO,
    "mse": Metrics.MSE,
    "mae": Metrics.MAE,
    "r2": Metrics.R2,
}
Values = dict[Metric, float]


class ModelFigures(NamedTuple):
    """What is shown of one model in one shard."""

    model_id: str
    shard: int
    values: Values
    features: Mapping[str, Values]


class _ShownPane(NamedTuple):
    start_ms: int
    events: int
    values: Values
    features: dict[str, Values]


class _ShownLabels(NamedTuple):
    length_ms: float
    end_ms: int
    values: Values


class ModelBook:
    """The models of one process.

    Args:
        models_max: models with series of their own.
        features_max: features of a model with series of their own, the first ones of its schema.
    """

    def __init__(self, models_max: int, features_max: int) -> None:
        self._models_max = models_max
        self._features_max = features_max
        self._shards_of: dict[str, set[int]] = {}
        self._panes: dict[tuple[str, int], _ShownPane] = {}
        self._labels: dict[tuple[str, int], _ShownLabels] = {}
        self._evicted: list[str] = []

    def appeared(self, model_id: str, shard: int) -> bool:
        """Note a model of a shard; return whether it has series."""
        shards = self._shards_of.get(model_id)
        if shards is None:
            if len(self._shards_of) >= self._models_max and not self._make_room():
                return False
            shards = self._shards_of[model_id] = set()
        shards.add(shard)
        return True

    def _make_room(self) -> bool:
        gone = next((model_id for model_id, shards in self._shards_of.items() if not shards), None)
        if gone is None:
            return False
        del self._shards_of[gone]
        self._evicted.append(gone)
        return True

    def take_evicted(self) -> list[str]:
        """Return the models that have lost their place since the last time."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def label_of(self, model_id: str, shard: int) -> str:
        """Return the name under which something is counted."""
        return model_id if self.appeared(model_id, shard) else OTHER

    def beyond(self, models: Iterable[str]) -> int:
        """Return how many of these different models have no series."""
        return len(set(models) - self._shards_of.keys())

    def here(self) -> list[str]:
        """Return the models with series that are on a shard of this process."""
        return [model_id for model_id, shards in self._shards_of.items() if shards]

    def forget(self, shards: Sequence[int]) -> None:
        """Drop the figures of shards that have gone."""
        gone = set(shards)
        for owners in self._shards_of.values():
            owners.difference_update(gone)
        for figures in (self._panes, self._labels):
            for key in [key for key in figures if key[1] in gone]:
                del figures[key]

    def show_pane(self, pane: Pane) -> None:
        """Show a published pane. Of one in several parts the largest part counts, with the columns of its own parts."""
        key = (pane.model_id, pane.shard)
        shown = self._panes.get(key)
        if shown is None or shown.start_ms != pane.pane_start_ms:
            features = self._features(pane.columns, self._features_max)
            self._panes[key] = _ShownPane(pane.pane_start_ms, pane.events, _values(pane), features)
        elif not pane.events:
            more = self._features(pane.columns, self._features_max - len(shown.features))
            self._panes[key] = shown._replace(features=more | shown.features)  # another part may be smaller
        elif pane.events > shown.events:
            features = self._features(pane.columns, self._features_max)
            self._panes[key] = _ShownPane(pane.pane_start_ms, pane.events, _values(pane), features)

    def _features(self, columns: Sequence[Column], features_max: int) -> dict[str, Values]:
        features = [column for column in columns if column.role == "feature"][: max(features_max, 0)]
        return {column.name: _known(zip(_FEATURE_METRICS, column.figures, strict=True)) for column in features}

    def show_performance(self, record: Performance) -> None:
        """Show what labels say of the whole model, by prediction time: the shortest sliding window, or the pane."""
        if not record.is_candidate:
            return
        key, length_ms, end_ms = (record.model_id, record.shard), record.length_ms, record.end_ms or 0
        shown = self._labels.get(key)
        # A late label corrects a pane that is not the latest one.
        if shown is not None and (shown.length_ms, -shown.end_ms) < (length_ms, -end_ms):
            return
        rated = {metric: record.metrics[name].value for name, metric in _RATED.items() if name in record.metrics}
        lag_ms = record.label_lag.median.value
        coverage = None if record.label_coverage is None else record.label_coverage.value
        rated |= {
            Metrics.LABELLED: record.labelled,
            Metrics.LABEL_COVERAGE: coverage,
            Metrics.LABEL_LAG: None if lag_ms is None else lag_ms / 1000,
        }
        self._labels[key] = _ShownLabels(length_ms, end_ms, _known(rated.items()))

    def figures(self) -> list[ModelFigures]:
        """Return what is shown. Called from other threads."""
        panes, labels = self._panes.copy(), self._labels.copy()
        found = []
        for key in panes.keys() | labels.keys():
            pane, labelled = panes.get(key), labels.get(key)
            values = (pane.values if pane else {}) | (labelled.values if labelled else {})
            found.append(ModelFigures(*key, values, pane.features if pane else {}))
        return sorted(found, key=lambda each: each[:2])


def _known(figures: Iterable[tuple[Metric, float | None]]) -> Values:
    return {metric: value for metric, value in figures if value is not None}


def _values(pane: Pane) -> Values:
    """Return the figures of a pane itself."""
    prediction = next((column for column in pane.columns if column.role == "prediction"), None)
    figures = {
        Metrics.WINDOW_END: pane.pane_end_ms / 1000,
        Metrics.EVENTS_PER_SECOND: pane.events_per_second,
        Metrics.ANOMALY_RATIO: pane.anomaly_rate,
        Metrics.DRIFT_PSI: pane.drift_psi,
    }
    if prediction is not None:
        figures[Metrics.PREDICTION_MEAN] = prediction.mean
        figures[Metrics.PREDICTION_MEDIAN] = prediction.median
        figures[Metrics.PREDICTION_DEVIATION] = prediction.standard_deviation
    return _known(figures.items())
