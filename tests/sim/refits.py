"""Forests for thousands of runs on the same few streams: equal requests give equal forests, so each is fitted once."""

from worker.core.detectors.forest_fit import ForestInHand, fit_request
from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.refit import RefitRequest

_FORESTS_MAX = 50_000
_forests: dict[tuple[bytes, object], ForestArrays] = {}


class RememberedRefits:
    """A `RefitPool` that fits at once, unless it has done so before."""

    def submit(self, request: RefitRequest) -> ForestInHand:
        """Return the forest of a request."""
        key = (request.rows.tobytes(), (request.rows.shape, request.trees, request.sample_rows, request.seed))
        forest = _forests.get(key)
        if forest is None:
            if len(_forests) >= _FORESTS_MAX:
                _forests.clear()
            forest = _forests[key] = fit_request(request)
        return ForestInHand(forest)
