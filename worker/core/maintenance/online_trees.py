"""Online trees: River's Hoeffding adaptive tree, or its adaptive random forest, born again now and then.

Their state is stored as the rows they have learned since their birth: who restores it learns them again, and has the
same trees to the last bit. So a life must end. When `rows_max` rows are kept, a successor takes over that has learned
the latest `rows_kept` of them as they came: no label has to wait for a thousand others to be learned again.

    rows    0 ................ rows_max - rows_kept ......... rows_max
            the trees learn -->  the successor, too  -------->  takes over; the first rows are dropped

A missing cell is the mean of its column, over the rows that were learned.
"""

import math
from typing import Any

import numpy as np

from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F32, F64, I64
from worker.core.options.maintenance import OnlineTreeOptions, TreeKind
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

CELL_MAX = 1e30
"""Cells and targets are cut here: squares of squares are finite."""
_STORED = "stored online trees"


class OnlineTrees:
    """Learns row by row; its state is rows. Nothing is learned again before it is needed."""

    def __init__(self, classes: int, features: int, kind: TreeKind, options: OnlineTreeOptions, seed: int) -> None:
        self._classes, self._features, self._kind = classes, features, kind
        self._options, self._seed = options, seed
        self._rows: F32 = np.zeros((options.rows_max, features), dtype=np.float32)
        self._targets: F64 = np.zeros(options.rows_max)
        self._counts: I64 = np.zeros(2, dtype=np.int64)
        """Rows that are kept, and successors that took over."""
        self._trees: _Life | None = None
        self._successor: _Life | None = None

    @property
    def births(self) -> int:
        """Successors that took over so far."""
        return int(self._counts[1])

    def learn(self, rows: F32, targets: F64) -> None:
        """Learn rows [n, features] with numbers or codes of classes [n], one after the other."""
        trees = self._living()
        for row, cells, target in zip(rows, rows.tolist(), targets.tolist(), strict=True):
            kept = int(self._counts[0])
            self._rows[kept], self._targets[kept] = row, target
            self._counts[0] = kept + 1
            trees.learn(cells, target)
            if kept >= self._inherited:
                self._successor = self._successor or self._life(self.births + 1)
                self._successor.learn(cells, target)
            if kept + 1 == self._options.rows_max:
                trees = self._take_over()

    def predict(self, rows: F32) -> F64:
        """Return numbers [n, 1] or probabilities [n, classes]; NaN before anything was learned."""
        outputs = np.full((len(rows), max(self._classes, 1)), np.nan)
        if self._counts[0]:
            trees = self._living()
            for row, cells in enumerate(rows.tolist()):
                outputs[row] = trees.predict(cells)
        return outputs

    @property
    def _inherited(self) -> int:
        """Place of the first row that the successor learns."""
        return self._options.rows_max - self._options.rows_kept

    def _life(self, number: int) -> "_Life":
        seed = derived_seed("online trees", self._seed, number)
        return _Life(_grown(self._kind, self._classes, self._features, self._options, seed), self._classes)

    def _living(self) -> "_Life":
        """Return the trees; after a restore they learn their rows here, and so does the successor."""
        if self._trees is None:
            kept = int(self._counts[0])
            rows, targets = self._rows[:kept].tolist(), self._targets[:kept].tolist()
            self._trees = self._life(self.births)
            for cells, target in zip(rows, targets, strict=True):
                self._trees.learn(cells, target)
            if kept > self._inherited:
                self._successor = self._life(self.births + 1)
            for cells, target in zip(rows[self._inherited :], targets[self._inherited :], strict=True):
                self._successor.learn(cells, target)  # type: ignore[union-attr]  # there is one if there are rows
        return self._trees

    def _take_over(self) -> "_Life":
        inherited, kept = self._inherited, self._options.rows_kept
        for mine in (self._rows, self._targets):
            mine[:kept] = mine[inherited:].copy()
            mine[kept:] = 0
        self._counts[:] = kept, self.births + 1
        self._trees, self._successor = self._successor, None
        return self._living()

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {"rows": self._rows, "targets": self._targets, "counts": self._counts}

    def restore(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned. Raises ValueError, with the reason, for anything else."""
        check_like(_STORED, arrays, self.arrays())
        targets, last = arrays["targets"], max(self._classes - 1, 0)
        refuse_if(
            _STORED,
            {
                "as many rows cannot be kept": outside(arrays["counts"][:1], 0, self._options.rows_max - 1),
                "the count of births is out of range": outside(arrays["counts"][1:], 0, COUNT_MAX),
                "a cell is out of range": bool((np.abs(arrays["rows"]) > np.float32(CELL_MAX)).any()),
                "a target is out of range": outside(targets, -CELL_MAX, CELL_MAX),
                "a class does not exist": self._classes > 0
                and (outside(targets, 0, last) or bool((targets != np.floor(targets)).any())),
            },
        )
        fill(self.arrays(), arrays)
        self._trees = self._successor = None


class _Life:
    """A tree or forest of River from its birth on."""

    def __init__(self, trees: Any, classes: int) -> None:  # noqa: ANN401 - one of four classes of River
        self._trees, self._classes = trees, classes
        self._counts: dict[int, int] = {}
        self._means: dict[int, float] = {}

    def learn(self, cells: list[float], target: float) -> None:
        for column, value in enumerate(cells):
            if not math.isnan(value):
                self._counts[column] = count = self._counts.get(column, 0) + 1
                mean = self._means.get(column, 0.0)
                self._means[column] = mean + (value - mean) / count
        self._trees.learn_one(self._filled(cells), int(target) if self._classes else target)

    def predict(self, cells: list[float]) -> list[float]:
        """Return a number or probabilities; NaN if there are none that are finite."""
        inputs = self._filled(cells)
        if self._classes == 0:
            number = float(self._trees.predict_one(inputs))
            return [number if math.isfinite(number) else math.nan]
        votes = self._trees.predict_proba_one(inputs)
        shares = [float(votes.get(code, 0.0)) for code in range(self._classes)]
        total = sum(shares)
        known = math.isfinite(total) and total > 0.0
        return [share / total if known else math.nan for share in shares]

    def _filled(self, cells: list[float]) -> dict[int, float]:
        return {
            column: self._means.get(column, 0.0) if math.isnan(value) else value for column, value in enumerate(cells)
        }


def _grown(kind: TreeKind, classes: int, features: int, options: OnlineTreeOptions, seed: int) -> Any:  # noqa: ANN401 - one of four classes of River
    """Return River's model.

    Leaves tell the shares of their classes or the mean: with naive Bayes in the leaves (River's default) accuracy is
    much the same, but the log loss 5 to 50 % higher; with linear models in them, numbers run away.
    """
    # River takes a second to load, and only a worker with online challengers needs this part of it.
    from river import forest, tree  # noqa: PLC0415 - see above

    common: dict[str, Any] = {
        "grace_period": options.leaf_rows,
        "max_depth": options.depth_max,
        "delta": options.delta,
        "tau": options.tie,
        "leaf_prediction": "mc" if classes else "mean",
        "seed": seed,
    }
    if kind == "hoeffding_adaptive_tree":
        single = tree.HoeffdingAdaptiveTreeClassifier if classes else tree.HoeffdingAdaptiveTreeRegressor
        return single(**common)
    common |= {
        "n_models": options.trees,
        "max_features": min(options.features_max, features),
        "lambda_value": options.repeats,
    }
    return forest.ARFClassifier(**common) if classes else forest.ARFRegressor(**common)
