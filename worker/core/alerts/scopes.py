"""Which alerts a silence or a maintenance window is about, and when a window is open.

Times are integer milliseconds of UTC, so a daily window keeps its hour of UTC when clocks are changed for summer.
Intervals hold their beginning and not their end.
"""

from fnmatch import fnmatchcase

from worker.core.alerts.measures import lead, segment_of
from worker.core.codec import milliseconds
from worker.core.events import AlertEvent, Scope
from worker.core.options import WindowOptions
from worker.core.options.alerts import REPEATS_MS


def fits(scope: Scope | WindowOptions, record: AlertEvent) -> bool:
    """Tell whether an alert is meant. One about no segment, or no feature, fits no pattern of these, not even `*`."""
    return (
        fnmatchcase(record.model_id, scope.model)
        and fnmatchcase(record.kind, scope.kind)
        and _fits(scope.segment, segment_of(record) or "")
        and _fits(scope.feature, lead(record))
    )


def _fits(pattern: str | None, name: str) -> bool:
    return pattern is None or (name != "" and fnmatchcase(name, pattern))


def in_window(window: WindowOptions, now_ms: int) -> bool:
    """Tell whether a maintenance window is open."""
    return window_end(window, now_ms) is not None


def window_end(window: WindowOptions, now_ms: int) -> int | None:
    """Return when a maintenance window that is open ends (ms); None when it is not open."""
    begin_ms, end_ms = milliseconds(window.begin), milliseconds(window.end)
    since_ms = now_ms - begin_ms
    if since_ms < 0:
        return None
    period_ms = REPEATS_MS[window.repeat]
    if period_ms:
        end_ms += since_ms // period_ms * period_ms
    return end_ms if now_ms < end_ms else None
