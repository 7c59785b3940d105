"""Events of a batch as columns: no Python object for an event unless somebody asks for one."""

from worker.core.arrivals.events import LabelEvents, PredictionEvents
from worker.core.arrivals.texts import Texts
from worker.core.arrivals.value_column import ValueColumn

__all__ = ["LabelEvents", "PredictionEvents", "Texts", "ValueColumn"]
