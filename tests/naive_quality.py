"""The tally of data quality as plain loops: what `worker.core.kernels.quality.tally` must count."""

from itertools import groupby
from typing import Any

import numpy as np

from worker.core.kernels import quality as q
from worker.core.kernels.arrays import F64, I64
from worker.core.quality.tables import Tables


def naive_tally(cells: F64, times_ms: I64, watermarks_ms: I64, tables: Tables) -> dict[str, Any]:
    """Return the fields of a block, and of what runs on, after all rows (n x c) of an empty block."""
    rows, columns = cells.shape
    width = columns + 1
    bounds, kinds = tables.bounds, tables.kinds
    counts, fresh = np.zeros((q.MEASURES, width), dtype=int), np.zeros((q.MEASURES, width), dtype=int)
    lists: dict[str, list[Any]] = {name: [] for name in ("valid", "code", "other", "ran", "gapped", "sampled")}
    lists |= {name: [] for name in ("minimum", "maximum", "runs", "last", "run", "gap")}
    sample = np.zeros_like(tables.block.sample)
    for column in range(width):
        of_events = column == columns
        values = times_ms.astype(float) if of_events else cells[:, column]
        measured = (watermarks_ms - times_ms).astype(float) if of_events else values
        there = [value for value in values if not np.isnan(value)]
        counts[q.MISSING, column] = rows - len(there)
        lists["valid"].append(len(there))
        runs = [len(list(same)) for _, same in groupby(there)]
        lists["ran"].append(max(runs[:-1], default=0))
        lists["runs"].append(np.bincount([q.octave(each) for each in runs[:-1]], minlength=q.OCTAVES))
        lists["run"].append(runs[-1] if runs else 0)
        lists["last"].append(there[-1] if there else np.nan)
        gaps = [(missing, len(list(same))) for missing, same in groupby(np.isnan(values).tolist())]
        ended = gaps[:-1] if gaps[-1][0] else gaps
        lists["gapped"].append(0 if of_events else max((length for missing, length in ended if missing), default=0))
        lists["gap"].append(gaps[-1][1] if gaps[-1][0] else 0)
        is_numeric = kinds[column] in {q.NUMERIC, q.EVENT}
        outside = [
            (q.LOW if x < bounds.low[column] else q.HIGH, place)
            for place, x in enumerate(measured)
            if x < bounds.low[column] or x > bounds.high[column]
        ]
        new = [
            (q.NEW, place)
            for place, x in enumerate(values)
            if kinds[column] == q.CATEGORICAL and (x == 0 or (x > bounds.known[column] and not bounds.other[column]))
        ]
        for measure, place in (outside if is_numeric else []) + new:
            before = [x for x in values[:place] if not np.isnan(x)]
            counts[measure, column] += 1
            fresh[measure, column] += not of_events and (not before or before[-1] != values[place])
        codes = [x for x in there if kinds[column] == q.CATEGORICAL]
        lists["code"].append(max(codes, default=0))
        lists["other"].append(0 in codes)
        usable = [x for x in measured if is_numeric and not np.isnan(x)]
        lists["minimum"].append(min(usable, default=np.inf))
        lists["maximum"].append(max(usable, default=-np.inf))
        kept = [x for x, place in zip(measured, tables.chosen, strict=False) if place >= 0 and not np.isnan(x)]
        sample[column, : len(kept)] = kept if is_numeric else 0.0
        lists["sampled"].append(len(kept) if is_numeric else 0)
    before_each = [0, *watermarks_ms[:-1].tolist()]
    counts[q.SET_BACK, columns] = sum(now < last for now, last in zip(watermarks_ms.tolist(), before_each, strict=True))
    return {"counts": counts, "fresh": fresh, "sample": sample} | lists
