"""What people say of the incidents of one model: put into effect, told, and learned from."""

from collections.abc import Iterator

from worker.core.alerts import audits
from worker.core.alerts.desk import AlertDesk
from worker.core.events import AlertKind, IncidentFeedback, UndoFeedback
from worker.core.judging import Judge
from worker.core.maintenance.tuning import sentence, tuned
from worker.core.options import EngineOptions
from worker.core.telling import Owner, Told


class FeedbackHandler:
    """Takes feedback at an offset of its topic, when a model's events have reached some event time."""

    def __init__(self, owner: Owner, desk: AlertDesk, judge: Judge, options: EngineOptions) -> None:
        self._owner, self._desk, self._judge, self._options = owner, desk, judge, options

    def take(self, event: IncidentFeedback, offset: int, now_ms: int, seen: int) -> list[Told]:
        """Take what a person says of an incident, after so many events of the model."""
        effects = self._desk.effects
        why = effects.refusal(event)
        if why is not None:
            return [audits.refused(event, why, self._owner.shard, offset)]
        effect = effects.apply(event)
        kind = effect.like.kind
        told = audits.applied(effect, effects.demand(kind), self._whose(offset, now_ms))
        return [told, *self._desk.reconsider(offset), *self._tuning(kind, offset, now_ms, seen)]

    def undo(self, event: UndoFeedback, offset: int, now_ms: int) -> list[Told]:
        """Take an effect of feedback back that is in force here."""
        effects = self._desk.effects
        effect = effects.undo(event.undoes)
        told = audits.undone(event, effect, effects.demand(effect.like.kind), self._whose(offset, now_ms))
        return [told, *self._desk.reconsider(offset)]

    def _whose(self, offset: int, now_ms: int) -> audits.Whose:
        return audits.Whose(self._owner.model_id, self._owner.shard, offset, now_ms)

    def _tuning(self, kind: AlertKind, offset: int, now_ms: int, seen: int) -> Iterator[Told]:
        """Advise another least strength of a kind, if that is due after another verdict and proven."""
        model_id = self._owner.model_id
        report = tuned(self._desk.effects, kind, model_id, self._options, self._judge.realised)
        if report is not None:
            text = sentence(report, model_id)
            yield self._owner.maintenance(
                "tuning_advised", offset, events=seen, timestamp_ms=now_ms, summary=text, tuning=report
            )
