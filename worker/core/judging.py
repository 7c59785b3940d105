"""Verdicts on single events: the detectors of one monitor, when they begin anew, and what becomes of incidents.

    rows -> ensemble (score, then learn) -> verdict -> incident desk -> alerts, scores
              '-- begins anew: another version of the model has taken over (with the events to come), or what was
                  unusual has lasted for `regime_events` (with the latest events)

Rule: detectors that begin anew are a new generation. Nothing of the old one is left but the counts of categories.
"""

import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.alert_rate import PACE_EVENTS, AlertRate, StoredAlertRate
from worker.core.alerts.explanation import Explainer, explain
from worker.core.alerts.grouping import groups
from worker.core.alerts.incident import Step
from worker.core.alerts.incident_desk import (
    Describer,
    IncidentDesk,
    OpenIncident,
    Verdicts,
    detector_scores,
    number,
    resolved_at,
)
from worker.core.alerts.incident_rows import Kept
from worker.core.alerts.records import KIND, Origin
from worker.core.columns import ColumnTable
from worker.core.detectors.ensemble import Ensemble
from worker.core.detectors.realised_rate import BLOCK_EVENTS, Realised, RealisedRate, StoredRealised
from worker.core.detectors.recent_rows import RecentRows
from worker.core.detectors.refit import RefitPool
from worker.core.detectors.univariate import Numbers
from worker.core.events import FeatureEvidence, OutputTopic, ScoreEvent
from worker.core.events.alerts import AnomalyGroup
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F64, Bool
from worker.core.options import EngineOptions
from worker.core.seen import Seen
from worker.core.state import COUNT_MAX, Arrays, by_part, prefixed, refuse_if
from worker.core.telling import Owner, Told

_STORED = "stored judge"
_GENERATION = 2**26
"""Fitted versions of one generation; the next one begins at a multiple of it. Both are too many for any stream."""
PART_EVENTS_MAX = 1_024
"""Events judged at once: so many are judged again at most to explain one of them."""

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredJudge(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    generation: Annotated[int, Meta(ge=0, lt=2**27)]
    origin: _Count
    accepted_at: _Count
    scores_checksum: Annotated[int, Meta(ge=0, lt=2**32)]
    incident: OpenIncident | None
    rate: StoredAlertRate
    realised: StoredRealised


class Judged(NamedTuple):
    """Verdicts (n, NaN = not enough data), those that calibration alone gives, and which events are flagged (n).

    `anew` lists the rows from which on other detectors judge, because a new regime was accepted; n: the next event.
    `rows` are the events as detectors see them (n x d).
    """

    verdicts: F64
    raw: F64
    flagged: Bool
    anew: list[int]
    rows: F64


class Judge:
    """Judges the events of one monitor. It freezes the columns when the warm-up of a generation is over."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions, refits: RefitPool) -> None:
        self._owner = owner
        self._columns = columns
        self._options = options
        self._refits = refits
        self._generation = 0
        self._origin = 0
        self._scores_checksum = 0
        self._judged = 0
        self.accepted_at = 0
        """Events after which the detectors last began anew with a new regime."""
        self._ensemble = self._new_ensemble()
        self._recent: RecentRows | None = None
        self._numbers = Numbers(options.univariate)
        self._rate = AlertRate(options)
        self._realised = RealisedRate()
        # To tell costs an explanation: no more often than it is passed on.
        update_ms = options.alerts.noise_of(owner.model_id, KIND).update_ms
        self._desk = IncidentDesk(options.incident, Origin(owner.model_id, owner.shard, owner.topic), update_ms)
        self._describer = Describer(self._explain, self._group)

    def _new_ensemble(self, predecessor: Ensemble | None = None) -> Ensemble:
        owner = self._owner
        seed = derived_seed("monitor", self._options.seed, owner.model_id, owner.shard, self._generation)
        ensemble = Ensemble(self._options, self._refits, seed)
        if predecessor is not None:
            ensemble.take_categories(predecessor)
        return ensemble

    @property
    def phase(self) -> Literal["warming_up", "calibrating", "ready"]:
        """Where the detectors are on their way to verdicts."""
        return self._ensemble.phase

    @property
    def is_open(self) -> bool:
        """Whether an incident is open."""
        return self._desk.is_open

    @property
    def realised(self) -> Realised:
        """The share of events that these detectors have flagged of late, beside the wanted one."""
        return self._realised.of(self._rate.rate)

    @property
    def fitted_version(self) -> int:
        """Changes exactly when the fitted state does; 0 in the first warm-up."""
        return self._generation * _GENERATION + self._ensemble.fitted_version

    def warmup_left(self, sequence: int) -> int:
        """Return how many events are left of the warm-up after so many events of the monitor."""
        return self._origin + self._options.warmup_events - sequence

    def begin_anew(self, step: Step) -> list[Told]:
        """Forget everything after the event of a step: the next ones are another warm-up. An incident ends."""
        told = self._close(step, None)
        sequence = step.sequence + 1
        self._generation += 1
        self._origin = sequence
        # What was learned of categories and columns stays: a known category is no news.
        self._ensemble = self._new_ensemble(self._ensemble)
        self._recent = None
        self._realised = RealisedRate()
        self._numbers = Numbers(self._options.univariate)
        self._columns.frozen = False
        return [*told, self._owner.maintenance("detectors_reset", step.offset, events=sequence)]

    def _close(self, step: Step, before: int | None) -> list[Told]:
        steps = self._desk.close(step, self._rate.rate, self._describer, before)
        return [self._owner.alert(record, offset) for offset, record in steps]

    def process(self, seen: Seen) -> tuple[Judged, list[Told]]:
        """Judge events (n) in stream order. In a warm-up they must not go beyond its end."""
        count = len(seen.events)
        rows = self._rows(seen)
        judged = Judged(np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, dtype=np.bool), [], rows)
        told: list[Told] = []
        begin = 0
        while begin < count:
            sequence = seen.first_sequence + begin
            due = min(self._origin + self._ensemble.barrier() - sequence, self._rate.until_due(sequence))
            end = min(count, begin + due, begin + PART_EVENTS_MAX)
            if self._columns.frozen:
                end = self._judge(seen, rows, begin, end, judged, told)
            else:
                self._ensemble.learn_warmup(rows[begin:end])
                self._numbers.learn_warmup(seen.cells[begin:end, 0], seen.times_ms[begin:end])
            self._cross(seen, end, judged, told)
            begin = end
        self._ensemble.release()
        return judged, told

    def _rows(self, seen: Seen) -> F64:
        """Return events as detectors see them (n x d)."""
        if self._numbers.series is not None:
            # Column 0 is the prediction: of a model without features it is the number.
            return self._numbers.series.rows(seen.cells[:, -1], seen.times_ms)
        return self._ensemble.rows(seen.cells[:, 1:], ~self._columns.is_numeric[1:])

    def _judge(self, seen: Seen, rows: F64, begin: int, end: int, judged: Judged, told: list[Told]) -> int:
        """Judge rows [begin, end), or up to where a new regime is accepted; return where that was."""
        rate = self._rate.rate
        judgement = self._ensemble.judge(rows[begin:end], rate)
        part = slice(begin, begin + len(judgement.verdicts))
        self._judged = len(judgement.verdicts)
        self._scores_checksum = zlib.crc32(judgement.fused.tobytes(), self._scores_checksum)
        verdicts = Verdicts(
            first_sequence=seen.first_sequence + begin,
            events=seen.events[part],
            offsets=seen.offsets[part],
            times_ms=seen.times_ms[part],
            watermarks_ms=seen.watermarks_ms[part],
            cells=rows[part] if self._numbers.series is not None else seen.cells[part, 1:],
            rows=rows[part],
            detectors=self._ensemble.names,
            scores=judgement.scores,
            p_values=judgement.p_values,
            fused=judgement.fused,
            verdicts=judgement.verdicts,
            disagreements=judgement.disagreements(rate),
            alert_rate=rate,
            usual=self._ensemble.usual,
        )
        judged.verdicts[part] = judgement.verdicts
        judged.raw[part] = judgement.raw
        judged.flagged[part] = judgement.verdicts <= rate
        known = int(np.count_nonzero(~np.isnan(judgement.verdicts)))
        self._realised.add(known, int(np.count_nonzero(judged.flagged[part])))
        told += [self._owner.alert(record, offset) for offset, record in self._desk.process(verdicts, self._describer)]
        told += self._scores(verdicts)
        if self._recent is not None:
            self._recent.add(rows[part])
        return begin + len(judgement.verdicts)

    def _cross(self, seen: Seen, end: int, judged: Judged, told: list[Told]) -> None:
        """Do what is due after row `end` - 1: the warm-up ends, a refit, a new regime, another alert rate."""
        sequence, offset = seen.first_sequence + end, int(seen.offsets[end - 1])
        if not self._columns.frozen and sequence == self._origin + self._options.warmup_events:
            self._columns.frozen = True
            rows = self._numbers.end_warmup(self._ensemble.warmup_rows(len(self._columns) - 1), self._columns)
            self._ensemble.end_warmup(rows)
            self._recent = RecentRows(self._options.rebuild_events, rows.shape[1])
            names = list(self._columns.feature_names)
            told.append(self._owner.maintenance("schema_frozen", offset, events=sequence, features=names))
        if self._ensemble.is_new_normal:
            told += self._accept(resolved_at(seen, end - 1), self._judged)
            judged.anew.append(end)
        for note in self._ensemble.cross(sequence - self._origin):
            facts = {"detector": note.detector, "refit": note.refit, "rows": note.rows}
            told.append(self._owner.maintenance("detector_refitted", offset, note.detector, events=sequence, **facts))
        if sequence % PACE_EVENTS == 0:
            self._rate.tell_pace(int(seen.watermarks_ms[end - 1]))
        if sequence % BLOCK_EVENTS == 0:
            self._realised.end_block()

    def accept_regime(self, step: Step) -> list[Told]:
        """Take what has been for a while, up to the event of a step, for normal; nothing is told if it cannot be."""
        return self._accept(step, None)

    def _accept(self, step: Step, before: int | None) -> list[Told]:
        """Let detectors begin anew with the latest events. An incident ends: it is told before row `before`."""
        if self._recent is None or len(rows := self._recent.rows()) < self._options.warmup_events:
            return []
        told = self._close(step, before)
        sequence = step.sequence + 1
        self._generation += 1
        self._origin = sequence - len(rows)
        self.accepted_at = sequence
        self._ensemble = self._new_ensemble(self._ensemble)
        self._ensemble.begin_with(rows, self._rate.rate)
        self._realised = RealisedRate()
        return [*told, self._owner.maintenance("regime_accepted", step.offset, events=sequence, rows=len(rows))]

    def _scores(self, seen: Verdicts) -> Iterator[Told]:
        """Yield the verdicts that are to be published."""
        if self._options.scores == "off":
            return
        flagged = seen.verdicts <= seen.alert_rate
        owner = self._owner
        for row in np.flatnonzero(flagged | (self._options.scores == "all")).tolist():
            offset = int(seen.offsets[row])
            record = ScoreEvent(
                event_id=seen.events.event_id(row),
                model_id=owner.model_id,
                model_version=seen.events.version(row),
                shard=owner.shard,
                offset=offset,
                timestamp_ms=int(seen.times_ms[row]),
                score=number(seen.fused[row]),
                p_value=number(seen.verdicts[row]),
                flagged=bool(flagged[row]),
                disagreement=bool(seen.disagreements[row]),
                scores=detector_scores(seen, row),
            )
            yield Told(OutputTopic.SCORES, offset, owner.model_id, record)

    def tick(self, now_ms: int, step: Step) -> list[Told]:
        """Resolve the incident of an idle input when it has been quiet for long enough by the journalled clock."""
        steps = self._desk.tick(now_ms, step, self._rate.rate, self._describer)
        return [self._owner.alert(record, offset) for offset, record in steps]

    def _explain(self, cells: F64, row: F64, before: int | None) -> list[FeatureEvidence]:
        """Explain an event by the detectors as they were before a row of the last batch, or as they are (None)."""
        ensemble, features_max = self._ensemble, self._options.incident.features_max
        with nullcontext(ensemble.scorers()) if before is None else ensemble.before(before) as scorers:
            explainer = Explainer(self._numbers.columns(self._columns), ensemble.usual, scorers.by_name, scorers.fused)
            return explain(explainer, cells, row, self._generation, features_max)

    def _group(self, kept: Kept) -> list[AnomalyGroup]:
        """Group the unusual events of the open incident by what makes them unusual."""
        columns = self._numbers.columns(self._columns)
        return groups(kept, columns, self._ensemble.usual, self._options.incident.grouping, self._generation)

    # Storing and restoring.

    @property
    def scores_checksum(self) -> int:
        """32 bits of all fused scores so far."""
        return self._scores_checksum

    def plain(self) -> StoredJudge:
        """Return the plain part of the state."""
        return StoredJudge(
            self._generation,
            self._origin,
            self.accepted_at,
            self._scores_checksum,
            self._desk.state(),
            self._rate.state(),
            self._realised.state(),
        )

    def live(self) -> Arrays:
        """Return what changes with every event, as named arrays: live ones where there are any."""
        recent = {} if self._recent is None else prefixed("recent", self._recent.live())
        return {
            **recent,
            **prefixed("incident", self._desk.arrays()),
            **prefixed("numbers", self._numbers.live()),
            **prefixed("ensemble", self._ensemble.live()),
        }

    def fitted(self) -> Arrays:
        """Return what changes with `fitted_version` alone."""
        return self._ensemble.fitted()

    def restore(self, seen: int, plain: StoredJudge, live: Arrays, fitted: Arrays) -> None:
        """Take over copies of all parts, after `seen` events and with the columns restored."""
        warming_up = seen < plain.origin + self._options.warmup_events
        refuse_if(
            _STORED,
            {
                "it began later than now": plain.origin > seen,
                "it has an incident without detectors": warming_up and plain.incident is not None,
            },
        )
        self._generation, self._origin = plain.generation, plain.origin
        self.accepted_at, self._scores_checksum = plain.accepted_at, plain.scores_checksum
        self._ensemble = self._new_ensemble()
        self._columns.frozen = not warming_up
        parts = by_part(_STORED, live, ("ensemble", "numbers", "incident", *([] if warming_up else ["recent"])))
        self._numbers.restore(seen - plain.origin, self._columns, parts["numbers"])
        width, is_categorical = len(self._numbers.columns(self._columns)), ~self._columns.is_numeric[1:]
        self._ensemble.restore(seen - plain.origin, is_categorical, width, parts["ensemble"], fitted)
        if not warming_up:
            self._recent = RecentRows(self._options.rebuild_events, width)
            self._recent.restore(parts["recent"])
        self._rate.restore(plain.rate)
        self._realised.restore(plain.realised)
        self._desk.restore(plain.incident, parts["incident"], seen, width)
