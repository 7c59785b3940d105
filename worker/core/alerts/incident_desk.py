"""Verdicts in, alert records out: finds the rows at which an incident opens, grows or is over, in stream order."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from worker.core.alerts.incident import Flagged, Incident, IncidentLife, Step
from worker.core.alerts.incident_rows import IncidentRows, Kept, unusual_parts
from worker.core.alerts.records import Origin, Story, alert_record
from worker.core.arrivals import PredictionEvents
from worker.core.events import AlertEvent, DetectorScore, FeatureEvidence
from worker.core.events.alerts import AnomalyGroup
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.options import IncidentOptions
from worker.core.seen import Seen
from worker.core.state import Arrays, check_like, refuse_if
from worker.core.statistics.bands import Usual

_STORED = "stored incident"

Explain = Callable[[F64, F64, int | None], list[FeatureEvidence]]
"""Explains an event (its d cells, and d values as detectors see them) by the detectors as they were before a row of
the batch, or as they are now (None)."""
Group = Callable[[Kept], list[AnomalyGroup]]
"""Groups the unusual events of an incident."""


class Describer(NamedTuple):
    """Finds the words for an incident; asked only when a step is told."""

    explain: Explain
    group: Group


class Verdicts(NamedTuple):
    """Consecutive events (n) of one monitor with their scores and p-values (k detectors x n) and verdicts (n).

    `first_sequence` is the place of row 0 in the monitor's count of events; `cells` and `rows` are n x d features.
    Flagged are verdicts of at most `alert_rate`. `usual` is the band of what is usual (d) in `rows`.
    """

    first_sequence: int
    events: PredictionEvents
    offsets: I64
    times_ms: I64
    watermarks_ms: I64
    cells: F64
    rows: F64
    detectors: Sequence[str]
    scores: F64
    p_values: F64
    fused: F64
    verdicts: F64
    disagreements: Bool
    alert_rate: float
    usual: Usual


class _Portrait(NamedTuple):
    """The rarest event of the open incident, kept to be explained when a step is told.

    It is explained once, by the detectors as they were when it was told of first: they learn what comes later, and
    would judge it differently. To explain it is what costs most of an alert.
    """

    cells: F64
    row: F64
    scores: list[DetectorScore]
    disagreement: bool
    features: list[FeatureEvidence] | None = None


class OpenIncident(Struct, frozen=True, forbid_unknown_fields=True):
    """The open incident and its portrait, as they are stored."""

    incident: Incident
    cells: list[float]
    row: list[float]
    scores: list[DetectorScore]
    disagreement: bool
    features: list[FeatureEvidence] | None = None


class IncidentDesk:
    """Runs the incident life of one monitor."""

    def __init__(self, options: IncidentOptions, origin: Origin, update_ms: int) -> None:
        self._options = options
        self._origin = origin
        self._life = IncidentLife(options, update_ms)
        self._portrait: _Portrait | None = None
        self._rows: IncidentRows | None = None

    def process(self, seen: Verdicts, describer: Describer) -> Iterator[tuple[int, AlertEvent]]:
        """Yield the offsets and records of the steps in one segment."""
        self._life.follow_back(int(seen.watermarks_ms[0]))
        rows = np.flatnonzero(seen.verdicts <= seen.alert_rate)
        keeps = len(rows) > 0 and self._options.grouping.enabled
        parts = unusual_parts(seen.rows[rows], seen.usual) if keeps else None
        for place, row in enumerate(rows.tolist()):
            yield from self._resolve_until(row, seen, describer)
            step, rarest = self._life.flag(_flagged(seen, row), seen.alert_rate)
            if rarest:
                self._portrait = _portrait(seen, row)
            if parts is not None:
                self._keep(parts[place], seen.cells[row], int(seen.offsets[row]))
            if step is not None:
                yield self._record(step, seen.alert_rate, describer, row)
        yield from self._resolve_until(len(seen.events) - 1, seen, describer)

    def _keep(self, parts: F64, cells: F64, offset: int) -> None:
        """Keep an unusual event of the open incident, or not: a sample."""
        if self._rows is None:
            self._rows = self._new_rows(len(cells), offset)
        self._rows.add(parts, cells, offset)

    def _new_rows(self, features: int, first_offset: int) -> IncidentRows:
        origin = self._origin
        seed = derived_seed("incident rows", origin.model_id, origin.shard, first_offset)
        return IncidentRows(features, self._options.grouping.rows_max, seed)

    def tick(
        self, now_ms: int, step: Step, alert_rate: float, describer: Describer
    ) -> Iterator[tuple[int, AlertEvent]]:
        """Resolve the incident of an idle input when it has been quiet for `quiet_ms` by the journalled clock."""
        incident = self._life.open
        if incident is not None and now_ms >= incident.last.watermark_ms + self._options.quiet_ms:
            yield self._resolve(step, alert_rate, describer, None)

    def close(
        self, step: Step, alert_rate: float, describer: Describer, row: int | None
    ) -> Iterator[tuple[int, AlertEvent]]:
        """Resolve the incident, if one is open: what comes is judged by other detectors."""
        if self._life.open is not None:
            yield self._resolve(step, alert_rate, describer, row)

    @property
    def is_open(self) -> bool:
        """Whether an incident is open."""
        return self._life.open is not None

    def state(self) -> OpenIncident | None:
        """Return what is to be stored of the open incident."""
        incident, portrait = self._life.open, self._portrait
        if incident is None or portrait is None:
            return None
        cells, row, scores, disagreement, features = portrait
        return OpenIncident(incident, cells.tolist(), row.tolist(), scores, disagreement, features)

    def arrays(self) -> Arrays:
        """Return the unusual events of the open incident that are kept, as live arrays; none without an incident."""
        return {} if self._rows is None else self._rows.arrays()

    def restore(self, stored: OpenIncident | None, arrays: Arrays, seen: int, features: int) -> None:
        """Take over an incident that was open after `seen` events, or that none was; ValueError for what cannot be."""
        if stored is None:
            check_like(_STORED, arrays, {})
            return
        cells, row = np.array(stored.cells), np.array(stored.row)
        refuse_if(
            _STORED,
            {
                "its event has other features": not len(cells) == len(row) == features,
                "its event holds an infinite value": np.isinf(cells).any() or np.isinf(row).any(),
                "its explanation holds what is no number": not all(map(_is_finite, stored.features or ())),
            },
        )
        self._life.restore(stored.incident, seen)
        self._portrait = _Portrait(cells, row, stored.scores, stored.disagreement, stored.features)
        if not self._options.grouping.enabled:
            check_like(_STORED, arrays, {})
            return
        self._rows = self._new_rows(features, stored.incident.first.offset)
        self._rows.restore(arrays, stored.incident.flagged)

    def _resolve_until(self, last_row: int, seen: Verdicts, describer: Describer) -> Iterator[tuple[int, AlertEvent]]:
        """Resolve the open incident if it is over at some row up to and including `last_row`."""
        if self._life.open is None:
            return
        sequence, watermark_ms = self._life.open.quiet_from(self._options)
        row = max(sequence - seen.first_sequence, int(np.searchsorted(seen.watermarks_ms, watermark_ms)))
        if row <= last_row:
            yield self._resolve(resolved_at(seen, row), seen.alert_rate, describer, row)

    def _resolve(self, step: Step, alert_rate: float, describer: Describer, row: int | None) -> tuple[int, AlertEvent]:
        record = self._record(step, alert_rate, describer, row)
        self._life.resolve()
        self._portrait = self._rows = None
        return record

    def _record(self, step: Step, alert_rate: float, describer: Describer, row: int | None) -> tuple[int, AlertEvent]:
        incident, portrait = self._life.open, self._portrait
        if incident is None or portrait is None:
            raise AssertionError("a step is told of an incident that is not open")
        features = portrait.features
        if features is None:
            features = describer.explain(portrait.cells, portrait.row, row)
            self._portrait = portrait._replace(features=features)
        has_groups = self._rows is not None and self._rows.seen >= self._options.grouping.rows_min
        groups = describer.group(self._rows.kept()) if self._rows is not None and has_groups else []
        story = Story(portrait.scores, portrait.disagreement, features, groups)
        return step.offset, alert_record(step, incident, self._origin, alert_rate, story)


def _is_finite(feature: FeatureEvidence) -> bool:
    told = [feature.observed, feature.expected, feature.expected_low, feature.expected_high, feature.contribution]
    numbers = [each for each in (*told, *feature.contributions.values()) if isinstance(each, float)]
    return all(map(isfinite, numbers))


def _flagged(seen: Verdicts, row: int) -> Flagged:
    return Flagged(
        sequence=seen.first_sequence + row,
        offset=int(seen.offsets[row]),
        event_id=seen.events.event_id(row),
        time_ms=int(seen.times_ms[row]),
        watermark_ms=int(seen.watermarks_ms[row]),
        p_value=float(seen.verdicts[row]),
        model_version=seen.events.version(row),
    )


def resolved_at(seen: Verdicts | Seen, row: int) -> Step:
    """Return the step of an incident that is over at a row."""
    return Step(
        status="resolved",
        sequence=seen.first_sequence + row,
        offset=int(seen.offsets[row]),
        watermark_ms=int(seen.watermarks_ms[row]),
        model_version=seen.events.version(row),
    )


def _portrait(seen: Verdicts, row: int) -> _Portrait:
    scores = detector_scores(seen, row)
    return _Portrait(seen.cells[row].copy(), seen.rows[row].copy(), scores, bool(seen.disagreements[row]))


def detector_scores(seen: Verdicts, row: int) -> list[DetectorScore]:
    """Return what each detector said of one event."""
    return [
        DetectorScore(name, number(seen.scores[place, row]), number(seen.p_values[place, row]))
        for place, name in enumerate(seen.detectors)
    ]


def number(value: float) -> float | None:
    """Return a float, None for NaN."""
    return None if np.isnan(value) else float(value)
