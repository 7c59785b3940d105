"""The unusual events of the open incident, kept to be grouped: a fair sample in bounded memory (Algorithm R)."""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64
from worker.core.kernels.reservoir import next_random
from worker.core.state import Arrays, blank, check_like, outside, refuse_if
from worker.core.statistics.bands import Usual

PART_MAX = 1e6
"""Widths of the band; what lies farther beyond it counts as this."""
_ROWS_FIRST = 32
_OFFSET_MAX = 2**63 - 1
_STORED = "stored rows of an incident"


class Kept(NamedTuple):
    """Rows of an incident, in the order of their offsets."""

    parts: F64
    """How unusual each value is by itself (n x d)."""
    cells: F64
    """The values, as the column table has them (n x d, NaN = missing)."""
    offsets: I64


def unusual_parts(rows: F64, usual: Usual) -> F64:
    """Return log(1 + widths beyond the usual band) for each value of rows as detectors see them (n x d).

    It is 0 within the band and for what is missing. Where the band has no width, what differs is one width beyond it.
    Unlike Shapley values it costs no scores, so every unusual event can afford it.
    """
    width = usual.high - usual.low
    with np.errstate(over="ignore"):
        beyond = np.maximum(np.maximum(usual.low - rows, rows - usual.high), 0.0)
        widths = np.where(width > 0.0, beyond / np.where(width > 0.0, width, 1.0), beyond > 0.0)
    parts: F64 = np.log1p(np.minimum(np.nan_to_num(widths, nan=0.0), PART_MAX))
    return parts


class IncidentRows:
    """A sample of the unusual events of one incident: all of them, up to `rows_max`, then each with equal probability.

    Args:
        features: d.
        rows_max: that are kept. Memory grows with the incident, to rows_max x d x 12 bytes.
        seed: of the draws.
    """

    def __init__(self, features: int, rows_max: int, seed: int) -> None:
        room = min(_ROWS_FIRST, rows_max)
        self._rows_max = rows_max
        self._parts: F32 = np.zeros((room, features), dtype=np.float32)
        self._cells: F64 = np.zeros((room, features))
        self._offsets: I64 = np.zeros(room, dtype=np.int64)
        self._random: U64 = np.full(1, seed, dtype=np.uint64)
        self.seen = 0
        """Events of the incident so far, kept or not."""

    def add(self, parts: F64, cells: F64, offset: int) -> None:
        """Offer an event: what makes it unusual (d, finite), its values (d) and its offset."""
        place = self.seen
        self.seen += 1
        if place >= self._rows_max:
            place = int(next_random(self._random) % np.uint64(self.seen))
            if place >= self._rows_max:
                return
        elif place == len(self._offsets):
            self._grow()
        self._parts[place], self._cells[place], self._offsets[place] = parts, cells, offset

    def _grow(self) -> None:
        more = min(max(len(self._offsets), _ROWS_FIRST), self._rows_max - len(self._offsets))
        self._parts = np.pad(self._parts, ((0, more), (0, 0)))
        self._cells = np.pad(self._cells, ((0, more), (0, 0)))
        self._offsets = np.pad(self._offsets, (0, more))

    def kept(self) -> Kept:
        """Return copies of what is kept."""
        order = np.argsort(self._offsets[: self._count], kind="stable")
        return Kept(self._parts[order].astype(np.float64), self._cells[order], self._offsets[order])

    @property
    def _count(self) -> int:
        return min(self.seen, self._rows_max)

    def arrays(self) -> Arrays:
        """Return the live arrays, as long as there are rows."""
        count = self._count
        return {
            "parts": self._parts[:count],
            "cells": self._cells[:count],
            "offsets": self._offsets[:count],
            "random": self._random,
        }

    def restore(self, arrays: Arrays, seen: int) -> None:
        """Take over copies, after so many events of the incident; ValueError for what cannot be."""
        count, width = min(seen, self._rows_max), self._cells.shape[1]
        like = {
            "parts": blank(np.float32, count, width),
            "cells": blank(np.float64, count, width),
            "offsets": blank(np.int64, count),
            "random": blank(np.uint64, 1),
        }
        check_like(_STORED, arrays, like)
        refuse_if(
            _STORED,
            {
                "a part is out of range": outside(arrays["parts"], 0.0, float(np.log1p(PART_MAX)) + 1.0),
                "a value is infinite": np.isinf(arrays["cells"]).any(),
                "an offset is out of range": outside(arrays["offsets"], 0, _OFFSET_MAX),
            },
        )
        self.seen = seen
        self._parts, self._cells = arrays["parts"].copy(), arrays["cells"].copy()
        self._offsets, self._random = arrays["offsets"].copy(), arrays["random"].copy()
