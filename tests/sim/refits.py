"""Models for thousands of runs on the same few streams: equal requests give equal models, so each is fitted once."""

from typing import TypeVar

from worker.core.detectors.forest_fit import InHand, ModelInHand, fit_request
from worker.core.detectors.refit import FittedHere, FittedModel, RefitRequest

_Fitted = TypeVar("_Fitted")

_MODELS_MAX = 50_000
_models: dict[tuple[object, ...], FittedModel] = {}


class RememberedRefits:
    """A `ChallengerPool` that fits at once; a detector unless it has done so before."""

    def submit(self, request: RefitRequest) -> ModelInHand:
        """Return the model of a request."""
        key = (type(request), request.rows.tobytes(), request.rows.shape, *request[1:])
        model = _models.get(key)
        if model is None:
            if len(_models) >= _MODELS_MAX:
                _models.clear()
            model = _models[key] = fit_request(request)
        return ModelInHand(model)

    def fit_challenger(self, request: FittedHere[_Fitted]) -> InHand[_Fitted]:
        """Fit now: these streams are too short for challengers."""
        return InHand(request.fit())
