"""What all fits of challengers share: labelled rows that are checked and cut to what fits can bear, and one thread.

A fit is a pure function of its request. scikit-learn adds gradients up in as many parts as there are threads, so that
a last bit, and with it a split of a tree, might depend on the cores of a machine. And its threads wait for one another
in busy loops: with more threads than idle cores a fit of 0.1 s took up to 16 s. So a fit uses one.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from worker.core.kernels.arrays import F64
from worker.core.maintenance.challengers import ROWS_MAX, LabelledRows
from worker.core.maintenance.target import Target
from worker.core.state import refuse_if

TARGET_MAX = 1e30
"""Numbers to predict are cut here: scikit-learn holds gradients as float32."""
WEIGHT_MAX = 1e9
_ROWS_MIN = 2


class CheckedRows(NamedTuple):
    """Labelled rows as a fit takes them."""

    rows: F64
    targets: F64
    weights: F64 | None
    target: Target


def checked(labelled: LabelledRows, *, features_max: int, cell_max: float) -> CheckedRows:
    """Return rows as float64 within +-cell_max; ValueError for too few, too many, or labels that cannot be."""
    rows, targets, n_classes, weights = labelled
    n_rows, n_features = rows.shape
    count = len(targets)
    refuse_if(
        "labelled rows of a challenger",
        {
            f"{rows.shape} is not {_ROWS_MIN} to {ROWS_MAX} rows of 1 to {features_max} columns": not (
                _ROWS_MIN <= n_rows <= ROWS_MAX and 1 <= n_features <= features_max
            ),
            f"there are {count} targets for {n_rows} rows": targets.shape != (n_rows,),
            "a target is not finite": not np.isfinite(targets).all(),
        },
    )
    if weights is not None:
        is_wrong = weights.shape != (n_rows,) or not ((weights > 0.0) & (weights <= WEIGHT_MAX)).all()
        refuse_if("labelled rows of a challenger", {"a weight is missing or out of range": is_wrong})
    codes: tuple[int, ...] = ()
    if n_classes > 0:
        found = np.unique(targets)
        refuse_if("labelled rows of a challenger", {"a class is not a code": bool((found != np.floor(found)).any())})
        codes = tuple(int(code) for code in found)
    return CheckedRows(
        rows=np.clip(np.ascontiguousarray(rows, dtype=np.float64), -cell_max, cell_max),
        targets=np.clip(np.asarray(targets, dtype=np.float64), -TARGET_MAX, TARGET_MAX),
        weights=weights,
        target=Target(n_classes, codes),
    )


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which OpenMP and BLAS use one thread."""
    limited: AbstractContextManager[Any] = _loaded_pools().limit(limits=1)
    return limited


@cache
def _loaded_pools() -> ThreadpoolController:
    # Before its first fit scikit-learn has loaded all of them; to look for them takes 11 ms.
    return ThreadpoolController()
