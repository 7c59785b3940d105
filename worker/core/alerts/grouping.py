"""The unusual events of an incident in groups: a few causes instead of hundreds of rows.

Rows belong together when the same features make them unusual, in the same direction, whatever their values are. So each
row becomes a direction in the space of features: how unusual each value is by itself, with a minus where it is below
the usual median, at length one. A row of which no single value is unusual has none. These are clustered, and the
number of groups is the one with the largest mean silhouette (Rousseeuw 1987), among those whose groups are clearly
different; one group when there is none.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from worker.core.alerts.incident_rows import Kept
from worker.core.columns import Column, Kind
from worker.core.events.alerts import AnomalyGroup, GroupFeature
from worker.core.kernels import kmeans
from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.options.detection import GroupingOptions
from worker.core.statistics.bands import Usual
from worker.core.statistics.clusters import Clusters, fit_clusters

APART = 0.9
"""Least distance of two groups: their directions, both of length one, are 53 degrees apart."""
SILHOUETTE_MIN = 0.25
GROUP_ROWS_MIN = 2
TOLD_PART_MIN = 0.1
"""A feature that adds less to the rows of a group is not told of, unless it is the first."""


def groups(
    kept: Kept, columns: Sequence[Column], usual: Usual, options: GroupingOptions, seed: int
) -> list[AnomalyGroup]:
    """Return the groups of the rows of an incident, largest first; none without rows. O(n^2 d)."""
    if not len(kept.offsets):
        return []
    categorical = np.array([column.kind is Kind.CATEGORICAL for column in columns], dtype=np.bool)
    places = group_places(directions(kept, usual, categorical), options, seed)
    found = [_group(kept, places == place, columns, usual, options) for place in range(int(places.max()) + 1)]
    return sorted(found, key=lambda group: (-group.rows, group.example_offsets))


def directions(kept: Kept, usual: Usual, categorical: Bool) -> F64:
    """Return what makes each row unusual as a direction (n x d, length 1; 0 for a row that no feature makes unusual).

    `categorical` (d) tells for which features there is no "below".
    """
    parts = np.maximum(kept.parts, 0.0)
    largest = parts.max(axis=1, keepdims=True, initial=0.0)
    # Divided first, so that no square overflows or vanishes.
    parts = np.divide(parts, largest, out=np.zeros_like(parts), where=largest > 0.0)
    lengths = np.sqrt((parts * parts).sum(axis=1, keepdims=True))
    below = (kept.cells < usual.median) & ~categorical
    signed: F64 = np.where(below, -parts, parts) / np.maximum(lengths, 1.0)
    return signed


def group_places(rows: F64, options: GroupingOptions, seed: int) -> I64:
    """Return the group (n) of each direction (n x d): as many as the silhouette tells, one when none is clear."""
    best, most = np.zeros(len(rows), dtype=np.int64), SILHOUETTE_MIN
    used = np.ascontiguousarray(rows[:, (rows != 0.0).any(axis=0)])
    if not used.shape[1]:
        return best
    distances = np.empty((len(rows), len(rows)))
    kmeans.pairwise(used, distances)
    for count in range(2, options.groups_max + 1):
        clusters = fit_clusters(used, count, seed)
        if clusters.number < count or not _clear(clusters, options):
            continue
        value = kmeans.silhouette(distances, clusters.places, clusters.sizes, np.empty(count))
        if value > most:
            best, most = clusters.places, value
    return best


def _clear(clusters: Clusters, options: GroupingOptions) -> bool:
    """Whether all groups have support and differ."""
    rows_min = max(GROUP_ROWS_MIN, options.share_min * len(clusters.places))
    steps = clusters.centres[:, :, np.newaxis] - clusters.centres[:, np.newaxis, :]
    apart = np.sqrt((steps * steps).sum(axis=0))
    return bool((clusters.sizes >= rows_min).all() and (apart[np.triu_indices(len(apart), 1)] >= APART).all())


def _group(
    kept: Kept, members: Bool, columns: Sequence[Column], usual: Usual, options: GroupingOptions
) -> AnomalyGroup:
    """Describe the rows of one group."""
    own = Kept(kept.parts[members], kept.cells[members], kept.offsets[members])
    parts = np.maximum(own.parts, 0.0)
    parts /= np.maximum(parts.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    mean = parts.mean(axis=0)
    ranked = np.argsort(-mean, kind="stable")[: options.told_features_max].tolist()
    told = [place for place in ranked if mean[place] >= TOLD_PART_MIN or (place == ranked[0] and mean[place] > 0.0)]
    features = [_feature(columns[place], own.cells[:, place], usual, place, float(mean[place])) for place in told]
    return AnomalyGroup(
        rows=len(own.offsets),
        share=len(own.offsets) / len(kept.offsets),
        features=features,
        example_offsets=own.offsets[: options.examples_max].tolist(),
        text="; ".join(map(describe, features)) or "no single feature stands out",
    )


def _feature(column: Column, cells: F64, usual: Usual, place: int, part: float) -> GroupFeature:
    values = cells[~np.isnan(cells)]
    is_category = column.kind is Kind.CATEGORICAL
    band = [None if is_category or np.isnan(each[place]) else float(each[place]) for each in usual]
    return GroupFeature(
        name=column.name,
        direction=_direction(values, float(usual.median[place]), is_category=is_category),
        typical=_typical(column, values),
        usual_low=band[0],
        usual=band[1],
        usual_high=band[2],
        part=part,
    )


def _direction(values: F64, median: float, *, is_category: bool) -> Literal["above", "below", "rare"]:
    if is_category:
        return "rare"
    return "below" if 2 * int((values < median).sum()) > len(values) else "above"


def _typical(column: Column, values: F64) -> float | bool | str | None:
    if not len(values):
        return None
    if column.kind is Kind.CATEGORICAL:
        codes, counts = np.unique(values, return_counts=True)
        code = codes[counts.argmax()]
        return next((name for name, each in column.codes.items() if each == code), "(other)")
    middle = float(np.median(values))
    return middle >= 0.5 if column.kind is Kind.BOOLEAN else middle  # noqa: PLR2004 # half of the rows


def describe(feature: GroupFeature) -> str:
    """Say in words how a feature of a group differs."""
    value = f"{feature.typical:.4g}" if isinstance(feature.typical, float) else str(feature.typical)
    if feature.direction == "rare":
        return f"{feature.name} is rare: {value}"
    band = "" if feature.usual_low is None else f", usual {feature.usual_low:.4g} to {feature.usual_high:.4g}"
    return f"{feature.name} is {feature.direction} usual: {value}{band}"
