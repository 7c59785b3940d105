"""Lets scikit-learn fit boosted trees and flattens them; and answers the requests for fits of any challenger.

Nothing that scores events imports this or `linear_fit.py`: loading scikit-learn takes more than a second.
"""

from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.boosted_arrays import FEATURES_MAX, NODES_MAX, BoostedArrays, without_trees
from worker.core.maintenance.challengers import (
    BoostedRequest,
    ChallengerModel,
    ChallengerRequest,
    LabelledRows,
    LinearRequest,
)
from worker.core.maintenance.fitting import CheckedRows, checked, one_thread
from worker.core.maintenance.linear_fit import fit_linear
from worker.core.maintenance.target import Target
from worker.core.options.maintenance import BoostedOptions
from worker.core.state import AnyArray

_CELL_MAX = 1e300
"""Cells are cut here, so that the middle of two of them is finite."""


def fit_challenger(request: ChallengerRequest) -> ChallengerModel:
    """Fit the model that a request describes. Raises ValueError beyond the limits."""
    match request:
        case BoostedRequest(labelled, options, seed):
            return fit_boosted(labelled, options, seed)
        case LinearRequest(labelled, options):
            return fit_linear(labelled, options)


def fit_boosted(labelled: LabelledRows, options: BoostedOptions, seed: int) -> BoostedArrays:
    """Fit scikit-learn's histogram gradient boosting: equal arguments, equal bytes, on any number of cores.

    Without early stopping: its held-out tenth is drawn at random, which tells little about later rows of a stream.
    With labels of a single class there are no trees. Raises ValueError beyond the limits.
    """
    fitted_on = checked(labelled, features_max=FEATURES_MAX, cell_max=_CELL_MAX)
    target, n_features = fitted_on.target, fitted_on.rows.shape[1]
    if options.iterations * target.n_raw * (2 * options.leaves_max - 1) > NODES_MAX:
        raise ValueError(
            f"boosted trees: {options.iterations} iterations of {target.n_raw} trees of {options.leaves_max} leaves "
            f"may have more than {NODES_MAX} nodes"
        )
    if len(target.classes) == 1:
        return without_trees(n_features, target)
    model = _fit(fitted_on, options, seed)
    trees = [tree.nodes for iteration in model._predictors for tree in iteration]  # noqa: SLF001 (it has no other name)
    return _flatten(trees, n_features, target, np.ravel(model._baseline_prediction))  # noqa: SLF001 (as above)


def _fit(fitted_on: CheckedRows, options: BoostedOptions, seed: int) -> Any:  # noqa: ANN401 (scikit-learn has no types)
    """Return scikit-learn's model."""
    kind = HistGradientBoostingClassifier if fitted_on.target.classes else HistGradientBoostingRegressor
    model = kind(
        max_iter=options.iterations,
        max_leaf_nodes=options.leaves_max,
        max_depth=options.depth_max,
        learning_rate=options.learning_rate,
        min_samples_leaf=options.leaf_rows_min,
        l2_regularization=options.l2,
        early_stopping=False,
        categorical_features=None,
        random_state=seed,
    )
    # scikit-learn 1.9 has no bins for a column without any value; as a constant it is asked by no tree.
    rows = np.where(np.isnan(fitted_on.rows).all(axis=0), 0.0, fitted_on.rows)
    with one_thread():
        return model.fit(rows, fitted_on.targets, sample_weight=fitted_on.weights)


def _flatten(trees: list[AnyArray], n_features: int, target: Target, baseline: F64) -> BoostedArrays:
    """Copy scikit-learn's nodes, each tree level by level, so that siblings become neighbours."""
    starts = np.cumsum([0, *(len(nodes) for nodes in trees)], dtype=np.int64)
    nodes, tree = np.concatenate(trees), np.repeat(np.arange(len(trees)), np.diff(starts))
    asks = nodes["is_leaf"] == 0
    old_left, old_right = (nodes[side].astype(np.int64) + starts[tree] for side in ("left", "right"))
    order = _level_by_level(starts[:-1], asks, old_left, old_right)
    order = order[np.argsort(tree[order], kind="stable")]
    place = np.empty(len(nodes), dtype=np.int64)
    place[order] = np.arange(len(nodes))
    left = np.where(asks, place[np.where(asks, old_left, 0)] - starts[tree], 0)
    nodes, asks, left = nodes[order], asks[order], left[order]
    return BoostedArrays(
        n_features=n_features,
        target=target,
        baseline=baseline,
        starts=starts,
        feature=np.where(asks, nodes["feature_idx"], 0).astype(np.int16),
        threshold=np.where(asks, nodes["num_threshold"], 0.0),
        left=left.astype(np.int32),
        missing_left=asks & (nodes["missing_go_to_left"] != 0),
        value=np.where(asks, 0.0, nodes["value"]),
    )


def _level_by_level(roots: I64, asks: AnyArray, left: I64, right: I64) -> I64:
    """Return all nodes: the roots, then the children of those, and so on; siblings beside each other."""
    levels, level = [], roots
    while len(level):
        levels.append(level)
        parents = level[asks[level]]
        level = np.stack([left[parents], right[parents]], axis=1).ravel()
    return np.concatenate(levels)
