"""The silences of one shard: which feedback asked for them, and which of them an alert falls under.

Silences are about models that may not even be known yet, so they belong to the shard and not to a monitor.
"""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.alerts.scopes import fits
from worker.core.codec import TIMESTAMP_MS_MAX, milliseconds
from worker.core.events import AlertEvent, FeedbackEvent, Scope, SilenceFeedback
from worker.core.state import refuse_if

KNOWN_FACTOR = 10
"""Ids of feedback that are known, to count each once and to tell what cannot be undone: so many times the bound."""

_Time = Annotated[int, Meta(ge=0, le=TIMESTAMP_MS_MAX)]


class Silence(Struct, frozen=True, forbid_unknown_fields=True):
    """One silence in force from `begin_ms` to before `end_ms`, in event time."""

    feedback_id: str
    author: str
    reason: str
    scope: Scope
    begin_ms: _Time
    end_ms: _Time

    def holds(self, record: AlertEvent, now_ms: int) -> bool:
        """Tell whether an alert falls under it now."""
        return self.begin_ms <= now_ms < self.end_ms and fits(self.scope, record)


class StoredSilences(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is stored. Where nothing was undone, the bytes are those of workers that noted nothing undone."""

    silences: list[Silence]
    known: list[str]
    undone: dict[str, str] = {}
    """Of those that are known: id of what has been undone, and the model that it was about; none for a silence."""


class SilenceBook:
    """All silences of one shard, and the ids of all feedback that it has taken, the latest ones, undone or not.

    Args:
        silences_max: bound on silences; a further one is refused unless another has ended.
    """

    def __init__(self, silences_max: int) -> None:
        self._silences_max = silences_max
        self._silences: dict[str, Silence] = {}
        self._known: dict[str, str | None] = {}
        """By id: the model that it was about, if it has been undone; empty for a silence."""

    def is_new(self, event: FeedbackEvent) -> bool:
        """Note a feedback event; tell whether it has not been taken before."""
        if event.feedback_id in self._known:
            return False
        self._known[event.feedback_id] = None
        if len(self._known) > KNOWN_FACTOR * self._silences_max:
            del self._known[next(iter(self._known))]
        return True

    def is_known(self, feedback_id: str) -> bool:
        """Tell whether feedback of that id has been taken."""
        return feedback_id in self._known

    def note_undone(self, feedback_id: str, model_id: str) -> None:
        """Note that feedback about a model has been undone; `remove` does it for silences. Unknown ids are not kept."""
        if feedback_id in self._known:
            self._known[feedback_id] = model_id

    def undone(self, feedback_id: str) -> str | None:
        """Return the model that feedback was about, if it has been undone; empty for a silence. None: not so."""
        return self._known.get(feedback_id)

    def add(self, event: SilenceFeedback, now_ms: int) -> Silence | None:
        """Take a silence; None if there are too many that have not ended by the time of its record (ms)."""
        if len(self._silences) >= self._silences_max:
            over = next((each for each in self._silences.values() if each.end_ms <= now_ms), None)
            if over is None:
                return None
            del self._silences[over.feedback_id]
        begin_ms = 0 if event.begin is None else milliseconds(event.begin)
        silence = Silence(event.feedback_id, event.author, event.reason, event.scope, begin_ms, milliseconds(event.end))
        self._silences[event.feedback_id] = silence
        return silence

    def remove(self, feedback_id: str) -> Silence | None:
        """Undo a silence; None if there is none of that id."""
        silence = self._silences.pop(feedback_id, None)
        if silence is not None:
            self.note_undone(feedback_id, "")
        return silence

    def holding(self, record: AlertEvent, now_ms: int) -> Silence | None:
        """Return the silence that an alert falls under, the one that ends last; None for none."""
        found = [each for each in self._silences.values() if each.holds(record, now_ms)]
        return max(found, key=lambda each: each.end_ms, default=None)

    def state(self) -> StoredSilences:
        """Return what is to be stored."""
        undone = {name: model_id for name, model_id in self._known.items() if model_id is not None}
        return StoredSilences(list(self._silences.values()), list(self._known), undone)

    def restore(self, stored: StoredSilences) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored silences",
            {
                "there is one twice": len({each.feedback_id for each in stored.silences}) < len(stored.silences),
                "an id is there twice": len(set(stored.known)) < len(stored.known),
                "something has been undone that is not known": not stored.undone.keys() <= set(stored.known),
            },
        )
        self._silences = {each.feedback_id: each for each in stored.silences}
        self._known = {name: stored.undone.get(name) for name in stored.known}
