"""Which alerts a target wants."""

from fnmatch import fnmatchcase

from worker.core.events import AlertEvent
from worker.notify_settings import TargetSettings

_RANK = {"info": 0, "warning": 1, "critical": 2}


def wants(target: TargetSettings, event: AlertEvent) -> bool:
    """Tell whether a target wants to hear of this step."""
    return event.status in target.statuses and wants_incident(target, event)


def wants_incident(target: TargetSettings, event: AlertEvent) -> bool:
    """Tell whether a target wants to hear of the incident at all, whatever the step."""
    return (
        _RANK[event.severity] >= _RANK[target.severity_min]
        and any(fnmatchcase(event.kind, pattern) for pattern in target.kinds)
        and any(fnmatchcase(event.model_id, pattern) for pattern in target.models)
    )
