"""A model whose events are one number: what becomes of it is decided when the warm-up is over.

One number is: exactly one feature, a number; or no feature, and a prediction that is a number.
"""

import numpy as np

from worker.core.columns import Column, ColumnTable, Kind
from worker.core.detectors.series import SeriesFeatures
from worker.core.kernels.arrays import F64, I64
from worker.core.options import UnivariateOptions
from worker.core.state import COUNT_MAX, Arrays, blank, check_like, outside, refuse_if

_STORED = "stored numbers"


class Numbers:
    """Keeps what the warm-up needs to begin a series, then the series, if the events are one number."""

    def __init__(self, options: UnivariateOptions) -> None:
        self._options = options
        self._warmup: list[F64] = []
        self.series: SeriesFeatures | None = None

    def learn_warmup(self, predictions: F64, times_ms: I64) -> None:
        """Keep predictions and event times (n) of the warm-up."""
        if self._options.mode != "off":
            # Times are below 2^53: exact as doubles.
            self._warmup.append(np.column_stack([predictions, times_ms.astype(np.float64)]))

    def end_warmup(self, rows: F64, table: ColumnTable) -> F64:
        """Return the rows of the warm-up (n x d) as detectors shall see them."""
        kept, self._warmup = self._warmup_rows(), []
        if not self._is_one_number(table):
            return rows
        self.series = SeriesFeatures(self._options)
        values = rows[:, 0] if rows.shape[1] else kept[:, 0]
        return self.series.rows(np.ascontiguousarray(values), kept[:, 1].astype(np.int64))

    def columns(self, table: ColumnTable) -> list[Column]:
        """Return the columns of the rows that detectors see."""
        if self.series is None:
            return table.columns[1:]
        name = table.columns[-1].name
        names = [name if each == "value" else f"{name}: {each}" for each in self.series.names]
        return [Column(each, Kind.NUMERIC, {}) for each in names]

    def _is_one_number(self, table: ColumnTable) -> bool:
        is_single = len(table) <= 2  # noqa: PLR2004 - the prediction, and one feature at most
        return self._options.mode != "off" and is_single and table.columns[-1].kind is Kind.NUMERIC

    def _warmup_rows(self) -> F64:
        return np.concatenate(self._warmup) if self._warmup else np.empty((0, 2))

    # Storing and restoring.

    def live(self) -> Arrays:
        """Return what changes with every event."""
        if self.series is not None:
            return self.series.live()
        return {"warmup": self._warmup_rows()} if self._warmup else {}

    def restore(self, seen: int, table: ColumnTable, live: Arrays) -> None:
        """Take over copies, after `seen` events with the columns restored; ValueError for what cannot be."""
        if table.frozen:
            if self._is_one_number(table):
                self.series = SeriesFeatures(self._options)
                self.series.restore(live)
            else:
                check_like(_STORED, live, {})
            return
        keeps = seen > 0 and self._options.mode != "off"
        check_like(_STORED, live, {"warmup": blank(np.float64, seen, 2)} if keeps else {})
        for rows in live.values():
            refuse_if(
                _STORED,
                {
                    "a prediction is infinite": np.isinf(rows[:, 0]).any(),
                    "a time is out of range": outside(rows[:, 1], 0, COUNT_MAX),
                },
            )
            self._warmup = [rows.copy()]
