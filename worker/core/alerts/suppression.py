"""Why an incident may not open now: a silence, a maintenance window, another version of the model, or ignored."""

from typing import Literal, NamedTuple

from msgspec import Struct

from worker.core.alerts.effects import Effects, Likeness
from worker.core.alerts.scopes import fits, in_window, window_end
from worker.core.alerts.silences import SilenceBook
from worker.core.events import AlertEvent
from worker.core.options import EngineOptions

_ABSOLUTE = ("performance.limit", "stale.labels", "stale.predictions")
"""Kinds that compare with nothing that was learned of a former version."""

Reason = Literal["silence", "window", "version_change", "ignored", "budget", "incidents_max"]


class Held(NamedTuple):
    """What holds an incident back."""

    reason: Reason
    detail: str
    until_ms: int = -1
    """When it is over, as far as time tells; -1: it does not."""
    author: str | None = None
    feedback_id: str | None = None


class Span(Struct, forbid_unknown_fields=True, array_like=True):
    """Events (places in the monitor's count) during which another version of the model is new: [begin, end)."""

    begin: int
    end: int


class Rebaseline:
    """Where a new version makes everything look different for a while.

    Args:
        events: how long that lasts.
    """

    def __init__(self, events: int) -> None:
        self._events = events
        self.spans: list[Span] = []

    def begin(self, sequence: int) -> None:
        """Another version appears, or takes over, with the event of that place."""
        if self._events == 0:
            return
        end = sequence + self._events
        if self.spans and sequence <= self.spans[-1].end:
            self.spans[-1].end = end
        else:
            self.spans.append(Span(sequence, end))

    def holds(self, sequence: int) -> bool:
        """Tell whether an event lies within."""
        return any(each.begin <= sequence < each.end for each in self.spans)

    def end_from(self, sequence: int) -> int | None:
        """Return the place of the first event after `sequence` at which a span ends."""
        return min((each.end for each in self.spans if each.end > sequence), default=None)

    def forget_before(self, sequence: int) -> None:
        """What has ended by then is of no use any more."""
        self.spans = [each for each in self.spans if each.end > sequence]


class Suppression:
    """All reasons for one monitor."""

    def __init__(self, options: EngineOptions, silences: SilenceBook, effects: Effects, rebaseline: Rebaseline) -> None:
        self._options = options
        self._silences = silences
        self._effects = effects
        self._rebaseline = rebaseline

    def holds(self, record: AlertEvent, now_ms: int, sequence: int) -> Held | None:
        """Return what holds an alert back now; None for nothing."""
        silence = self._silences.holding(record, now_ms)
        if silence is not None:
            return Held("silence", silence.reason, silence.end_ms, silence.author, silence.feedback_id)
        for window in self._options.alerts.windows:
            if fits(window, record) and in_window(window, now_ms):
                end_ms = window_end(window, now_ms)
                return Held("window", window.name, -1 if end_ms is None else end_ms)
        if record.kind not in _ABSOLUTE and self._rebaseline.holds(sequence):
            return Held("version_change", "a new version of the model is being learned")
        effect = self._effects.ignoring(Likeness.of(record, self._options))
        if effect is not None:
            text = f"it is like incident {effect.like.incident_id}"
            return Held("ignored", text, -1, effect.author, effect.feedback_id)
        return None
