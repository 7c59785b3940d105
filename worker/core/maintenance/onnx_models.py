"""Challengers as ONNX models: from flat arrays to bytes.

ONNX because a server loads it without our code, without scikit-learn and without unpickling anything. The bytes depend
on the arrays alone, so their SHA-256 can be published before anybody has written them, and is the same in a replay.

Every model takes `rows` (n x d, double): the features in the order of the manifest, NaN = missing. It gives
`probabilities` (n x classes, double) or `prediction` (n x 1, double).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import I64, Bool
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.challengers import ChallengerModel
from worker.core.maintenance.linear_arrays import STANDARDISED_MAX, LinearArrays
from worker.core.maintenance.onnx_graph import DOMAIN_ML, Attribute, constant, model_bytes, node
from worker.core.maintenance.target import Target

_SUM = 1
"""`aggregate_function` of TreeEnsemble."""
_AT_MOST = 0
"""`nodes_modes` of TreeEnsemble: left when value <= threshold."""
_LOGISTIC_CLASSES = 2


class Raw(NamedTuple):
    """The beginning of a graph: nodes that end in `raw` (n x n_raw), and the constants that they need."""

    nodes: list[bytes]
    constants: list[bytes]


def onnx_model(model: ChallengerModel, features: Sequence[str], classes: Sequence[str]) -> bytes:
    """Return a challenger as ONNX, its outputs as `model.predict` gives them to 1e-12.

    Classes that no label showed have no column: `published_classes` tells which have. O(size of the model).

    Args:
        model: the challenger.
        features: names of its columns in order.
        classes: names of all declared classes by code; none for a regression.

    Raises:
        ValueError: there are other numbers of names than the model has columns or classes.
    """
    if len(features) != model.n_features or len(classes) != model.target.n_classes:
        raise ValueError(
            f"a model of {model.n_features} features and {model.target.n_classes} classes was given "
            f"{len(features)} and {len(classes)} names"
        )
    raw = _linear(model) if isinstance(model, LinearArrays) else _boosted(model)
    properties = {
        "features": json.dumps(list(features)),
        "classes": json.dumps(published_classes(model.target, classes)),
    }
    return _with_link(raw, model.target, len(features), properties)


def published_classes(target: Target, classes: Sequence[str]) -> list[str]:
    """Return the names of the columns of `probabilities`, in order; none for a regression."""
    return [classes[code] for code in target.classes]


# --------------------------------------------------------------------------------------------------------------- links


def _with_link(raw: Raw, target: Target, n_features: int, properties: dict[str, str]) -> bytes:
    """Add the way from raw outputs to what is published, and the model around it."""
    output, constants = "probabilities" if target.classes else "prediction", raw.constants
    if not target.classes:
        link = [node("Identity", ["raw"], output)]
    elif len(target.classes) == _LOGISTIC_CLASSES:
        link = [
            node("Sigmoid", ["raw"], "second"),
            node("Sub", ["one", "second"], "first"),
            node("Concat", ["first", "second"], output, {"axis": 1}),
        ]
        constants = [*constants, constant("one", np.ones(1))]
    else:
        link = [node("Softmax", ["raw"], output, {"axis": 1})]
    return model_bytes([*raw.nodes, *link], constants, output, (n_features, max(len(target.classes), 1)), properties)


# ------------------------------------------------------------------------------------------------------- linear models


def _linear(model: LinearArrays) -> Raw:
    nodes = [
        node("IsNaN", ["rows"], "missing"),
        node("Where", ["missing", "mean", "rows"], "filled"),
        node("Sub", ["filled", "mean"], "centred"),
        node("Div", ["centred", "scale"], "standardised"),
        node("Clip", ["standardised", "lowest", "highest"], "cut"),
        node("MatMul", ["cut", "coefficients"], "products"),
        node("Add", ["products", "intercept"], "raw"),
    ]
    parts = {
        "mean": model.mean,
        "scale": model.scale,
        "lowest": np.array(-STANDARDISED_MAX),
        "highest": np.array(STANDARDISED_MAX),
        "coefficients": model.coefficients.T,
        "intercept": model.intercept,
    }
    return Raw(nodes, [constant(name, values) for name, values in parts.items()])


# --------------------------------------------------------------------------------------------------------------- trees


def _boosted(model: BoostedArrays) -> Raw:
    """Return the trees as a TreeEnsemble (`ai.onnx.ml` 5): thresholds and leaves stay doubles.

    The older TreeEnsembleRegressor answers in floats, and takes rows for others that lie on a rounded threshold.
    """
    attributes = _tree_attributes(model if model.n_trees else _with_a_leaf(model))
    ensemble = node("TreeEnsemble", ["rows"], "leaves", attributes, DOMAIN_ML)
    return Raw([ensemble, node("Add", ["leaves", "baseline"], "raw")], [constant("baseline", model.baseline)])


def _with_a_leaf(model: BoostedArrays) -> BoostedArrays:
    """Return a model without a tree with one that adds nothing: an ensemble of none is not allowed."""
    return replace(
        model,
        starts=np.array([0, 1]),
        feature=np.zeros(1, dtype=np.int16),
        threshold=np.zeros(1),
        left=np.zeros(1, dtype=np.int32),
        missing_left=np.zeros(1, dtype=np.bool_),
        value=np.zeros(1),
    )


def _tree_attributes(model: BoostedArrays) -> dict[str, Attribute]:
    """Return the attributes of TreeEnsemble. It numbers branches and leaves apart, and a root must be a branch.

    So a tree that is one leaf becomes a branch, behind all others, with that leaf on both sides.
    """
    roots, tree = model.starts[:-1], np.repeat(np.arange(model.n_trees), np.diff(model.starts))
    asks = model.left > 0
    first = model.left[asks] + roots[tree[asks]]
    lone = roots[~asks[roots]]
    place = np.where(asks, np.cumsum(asks), np.cumsum(~asks)) - 1
    begins = place[roots]
    begins[~asks[roots]] = len(first) + np.arange(len(lone))
    beyond = np.zeros(len(lone))
    return {
        "nodes_featureids": _integers(model.feature[asks], beyond),
        "nodes_splits": np.append(model.threshold[asks], beyond),
        "nodes_modes": np.full(len(first) + len(lone), _AT_MOST, dtype=np.uint8),
        "nodes_missing_value_tracks_true": _integers(model.missing_left[asks], beyond),
        **_children("true", np.append(first, lone), place, asks),
        **_children("false", np.append(first + 1, lone), place, asks),
        "leaf_targetids": _integers(tree[~asks] % model.target.n_raw),
        "leaf_weights": model.value[~asks],
        "tree_roots": _integers(begins),
        "n_targets": model.target.n_raw,
        "aggregate_function": _SUM,
        "post_transform": 0,
    }


def _children(side: str, child: I64, place: I64, asks: Bool) -> dict[str, Attribute]:
    """Return where one side of each branch leads, and whether that is a leaf."""
    return {f"nodes_{side}nodeids": _integers(place[child]), f"nodes_{side}leafs": _integers(~asks[child])}


def _integers(*parts: np.ndarray) -> list[int]:
    integers: list[int] = np.concatenate(parts).astype(np.int64).tolist()
    return integers
