"""An online challenger: a model of River that learns each labelled row as its label comes.

Off by default. On elec2, noaa and bike (labels 500 late) no kind was better than the boosted challengers, which are
fitted again and again on 2,000 rows; "linear" came nearest where two classes are to be told apart, and costs least.
"""

import numpy as np

from worker.core.kernels.arrays import F32, F64
from worker.core.maintenance.online_linear import OnlineLinear
from worker.core.maintenance.online_trees import CELL_MAX, OnlineTrees
from worker.core.options.maintenance import OnlineOptions
from worker.core.state import AnyArray, Arrays, outside, refuse_if

_WHAT = "online challenger"


class OnlineChallenger:
    """Predicts numbers (`target_classes` 0) or probabilities of classes; learns row by row, in order.

    Rows are float32 with NaN = missing, and are cut at 1e30. How a stream is cut into batches changes no bit.
    """

    def __init__(self, target_classes: int, features: int, options: OnlineOptions, seed: int) -> None:
        refuse_if(
            _WHAT,
            {
                "there are 0 (regression) or more classes": target_classes < 0,
                "there is no feature": features < 1,
            },
        )
        self._classes, self._features = target_classes, features
        self._model: OnlineLinear | OnlineTrees
        if options.kind == "linear":
            self._model = OnlineLinear(target_classes, features, options.linear)
        else:
            self._model = OnlineTrees(target_classes, features, options.kind, options.trees, seed)

    @property
    def features(self) -> int:
        """Columns of rows."""
        return self._features

    @property
    def births(self) -> int:
        """How often trees were born again; a linear model is not."""
        return self._model.births if isinstance(self._model, OnlineTrees) else 0

    def predict(self, rows: F32) -> F64:
        """Return numbers [n, 1] or probabilities [n, target_classes]; NaN before anything was learned."""
        return self._model.predict(self._cells(rows))

    def learn(self, rows: F32, targets: F64) -> None:
        """Learn rows [n, features] with finite numbers or codes of classes [n]. Raises ValueError for others."""
        cells = self._cells(rows)
        is_no_code = self._classes > 0 and (
            outside(targets, 0, self._classes - 1) or bool((targets != np.floor(targets)).any())
        )
        refuse_if(
            _WHAT,
            {
                f"{len(rows)} rows have targets of shape {targets.shape}": targets.shape != (len(rows),),
                "a target is not finite": not np.isfinite(targets).all(),
                "a target is no class": is_no_code,
            },
        )
        self._model.learn(cells, np.clip(targets, -CELL_MAX, CELL_MAX))

    def _cells(self, rows: F32) -> F32:
        if rows.shape[1:] != (self._features,):
            raise ValueError(f"{_WHAT}: rows of shape {rows.shape} do not have {self._features} columns")
        return np.clip(np.asarray(rows, dtype=np.float32), np.float32(-CELL_MAX), np.float32(CELL_MAX))

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return all state: the numbers of a linear model, or the rows that trees have learned since their birth."""
        return self._model.arrays()

    def restore(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned. Raises ValueError, with the reason, for anything else.

        Trees learn their rows again when they are first asked.
        """
        self._model.restore(arrays)
