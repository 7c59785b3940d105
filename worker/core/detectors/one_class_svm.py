"""The one-class SVM as a detector: a gated reservoir, refitted when the forest is (`refitted.py`).

Rows are scaled like those of the nearest neighbours. The model is a smooth density over half of the kept rows (nu is
0.5), so it says how far an event is from the bulk of them, whatever its shape.
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.gate import Gate
from worker.core.detectors.protocol import RefitNote
from worker.core.detectors.refit import RefitPool, SvmRequest
from worker.core.detectors.refitted import Refits, Schedule
from worker.core.detectors.scaling import RobustScale
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.gate import ADMITTED, PASSED, keep_rows
from worker.core.kernels.scale import REACH, fill_missing
from worker.core.options import SvmOptions
from worker.core.state import COUNT_MAX, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

_STORED = "stored one-class SVM"
_REQUESTED = 2
_LIMIT = 1.0 + REACH


class OneClassSvm:
    """Scores rows (n x d) by the last model taken over, higher is further outside; NaN before the first.

    A missing value is the median of the warm-up: it makes an event neither more nor less usual. A feature that had no
    value in the warm-up is ignored.
    """

    name: ClassVar[str] = "one_class_svm"

    def __init__(
        self, n_features: int, options: SvmOptions, schedule: Schedule, pool: RefitPool, settle: int, seed: int
    ) -> None:
        """Take what to fit when and where, and how many first rows are kept without asking the gate."""
        self._options = options
        self._settle = settle
        self._scale = RobustScale.unknown(n_features)
        self._rows = np.zeros((options.rows_max, n_features), dtype=np.float32)
        self._counters = np.zeros(3, dtype=np.int64)
        self._random_state = np.full(1, seed, dtype=np.uint64)
        self._gate = Gate(options.gate_quantile, seed + 1)
        self._refits = Refits(SvmArrays, schedule, pool, self._request)
        self.model: SvmArrays | None = None

    @property
    def taken_over(self) -> int:
        """How many refits have been taken over."""
        return self._refits.taken_over

    def fit(self, warmup_rows: F64) -> None:
        """Take the scale; the first model comes with the first refit."""
        self._scale = RobustScale.from_rows(warmup_rows)

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by the current model, then keep it by chance if the gate admits it."""
        scaled = self._scaled(rows)
        scores = self._score(scaled)
        keep_rows(
            scaled,
            scores,
            self._settle,
            self._options.memory_events,
            self._rows,
            self._counters,
            self._random_state,
            self._gate.for_kernel,
        )
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        return self._score(self._scaled(rows))

    def _scaled(self, rows: F64) -> F64:
        scaled = self._scale.to_float64(rows)
        fill_missing(scaled, self._scale.centre)
        return scaled

    def _score(self, scaled: F64) -> F64:
        if self.model is None:
            return np.full(len(scaled), np.nan)
        return -(self.model.decision(scaled) if self._options.score == "decision" else self.model.log_density(scaled))

    def steady(self, rows: int) -> bool:  # noqa: ARG002 - any number of rows
        """Return True: scores change with a refit alone."""
        return True

    def barrier(self) -> int:
        """Return the next count of rows at which a refit is requested or taken over."""
        return self._refits.barrier

    def cross(self) -> RefitNote | None:
        """Request a refit, or take over the one requested (waiting for it). The gate starts anew with a new model."""
        taken = self._refits.cross(self._reservoir)
        self._counters[_REQUESTED] = self._refits.requested_rows
        if taken is None:
            return None
        self.model = taken.model
        self._gate.forget()
        return RefitNote(self.name, taken.refit, taken.rows)

    def _reservoir(self) -> F32:
        return self._rows[: min(int(self._counters[ADMITTED]), len(self._rows))]

    def live(self) -> Arrays:
        """Return the kept rows, the gate, the place in the schedule, and the rows of a refit under way."""
        return {**self._own(), **prefixed("gate", self._gate.arrays()), **prefixed("refits", self._refits.live())}

    def _own(self) -> Arrays:
        return {"rows": self._rows, "counters": self._counters, "random_state": self._random_state}

    def fitted(self) -> Arrays:
        """Return the scale, and the model as bytes, if there is one."""
        model = {} if self.model is None else {"bytes": np.frombuffer(self.model.to_bytes(), dtype=np.uint8)}
        return {**prefixed("scale", self._scale.arrays()), **prefixed("model", model)}

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies. A refit that was under way is requested again; it gives the same model."""
        own = {name: array for name, array in live.items() if "." not in name}
        parts = by_part(_STORED, {name: array for name, array in live.items() if "." in name}, ("gate", "refits"))
        lasting = by_part(_STORED, fitted, ("scale", "model"))
        check_like(_STORED, own, self._own())
        counters = own["counters"]
        rows_max, features = self._rows.shape
        refuse_if(
            _STORED,
            {
                "a kept value is out of range": outside(own["rows"], -REACH, _LIMIT),
                "a count is out of range": outside(counters, 0, COUNT_MAX),
                "it has learned another number of rows": counters[ADMITTED] + counters[PASSED] != seen,
                "a request is too large": counters[_REQUESTED] > rows_max,
            },
        )
        requested = int(counters[_REQUESTED])
        self._scale = self._scale.restored(lasting["scale"])
        self._gate.restore(parts["gate"])
        self._refits.restore(_STORED, seen, parts["refits"], lambda _: requested, features, _LIMIT)
        refuse_if(_STORED, {"there are rows of no request": self._refits.requested_rows != requested})
        self.model = self._stored_model(lasting["model"])
        fill(self._own(), own)

    def _stored_model(self, arrays: Arrays) -> SvmArrays | None:
        """Return the model of the last refit, None if there was none."""
        expected = ["bytes"] * (self.taken_over > 0)
        refuse_if(_STORED, {"there is no model, or one too many": list(arrays) != expected})
        if not expected:
            return None
        model = SvmArrays.from_bytes(arrays["bytes"].tobytes())
        refuse_if(_STORED, {"the model is of other rows": model.n_features != self._rows.shape[1]})
        return model

    def _request(self, rows: F32, _: int) -> SvmRequest:
        """Return the request of a refit: nothing in it is random."""
        return SvmRequest(rows, self._options.nu, self._options.gamma_factor)
