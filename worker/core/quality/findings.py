"""What a quality watch tells of each thing that is wrong: numbers, words, and the kind of alert it belongs to."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import structs

from worker.core.columns import Column, Kind
from worker.core.events import AlertKind, Changed, PredictionEvent
from worker.core.kernels import quality as q
from worker.core.options import QualityOptions
from worker.core.quality.tables import RECENT_BLOCKS, Tables
from worker.core.quality.unknown_names import Added
from worker.core.standing import Finding, Severity

KINDS: tuple[AlertKind, ...] = (
    "quality.missing",
    "quality.type",
    "quality.category",
    "quality.range",
    "quality.constant",
    "quality.duplicate",
    "quality.timestamp",
    "quality.schema",
)

_OF_COLUMNS: Mapping[int, AlertKind] = {
    q.MISSING: "quality.missing",
    q.INVALID: "quality.type",
    q.NEW: "quality.category",
    q.LOW: "quality.range",
    q.HIGH: "quality.range",
    q.RUN: "quality.constant",
    q.GAP: "quality.missing",
}
_OF_EVENTS: Mapping[int, AlertKind] = {
    q.DUPLICATE: "quality.duplicate",
    q.SET_BACK: "quality.timestamp",
    q.HIGH: "quality.timestamp",
    q.RUN: "quality.timestamp",
}
_MEASURES: Mapping[int, str] = {
    q.MISSING: "missing_share",
    q.INVALID: "invalid_share",
    q.NEW: "unseen_share",
    q.LOW: "median_outside",
    q.HIGH: "median_outside",
    q.RUN: "equal_values",
    q.GAP: "missing_share",
}
_EVENT_MEASURES: Mapping[int, str] = {
    q.DUPLICATE: "duplicate_share",
    q.SET_BACK: "clock_set_back_share",
    q.HIGH: "late_share",
    q.RUN: "equal_timestamps",
}
_TYPES = {Kind.NUMERIC: "number", Kind.BOOLEAN: "boolean", Kind.CATEGORICAL: "string", Kind.TEXT: "string"}
_SHARES: Mapping[AlertKind, str] = {
    "quality.missing": "{} is missing",
    "quality.type": "{} has the wrong type",
    "quality.category": "{} has unseen categories",
    "quality.duplicate": "events come again",
}
_CRITICAL_SHARE = 0.5
_POWER_TOLERANCE = 0.15
_USUAL_MIN = 0.02
_CATEGORIES_TOLD = 5


def measured_by(kind: AlertKind, columns: int) -> list[tuple[int, int]]:
    """Return measure and column of the shares that a kind tells of; the events are behind so many columns."""
    of_columns = [(measure, column) for measure in _shares(_OF_COLUMNS, kind) for column in range(columns)]
    return of_columns + [(measure, columns) for measure in _shares(_OF_EVENTS, kind)]


def _shares(kinds: Mapping[int, AlertKind], kind: AlertKind) -> list[int]:
    return [measure for measure, each in kinds.items() if each == kind and measure < q.MEASURES]


class Ended(NamedTuple):
    """A block that has ended: its number, rows, and the slot of its counts; example of the types that came instead."""

    number: int
    rows: int
    slot: int
    examples: Mapping[int, str]


def wrong_type(column: Column, event: PredictionEvent, *, is_prediction: bool) -> str:
    """Return what came in place of what, in words."""
    value = event.prediction if is_prediction else event.features.get(column.name)
    came = "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
    return f"{came} instead of {_TYPES[column.kind]}"


class Teller:
    """Makes findings of the verdict of a look."""

    def __init__(self, columns: Sequence[Column], tables: Tables, options: QualityOptions) -> None:
        self._columns = columns
        self._tables = tables
        self._options = options

    def findings(self, ended: Ended) -> dict[AlertKind, list[Finding]]:
        """Return what is wrong by kind. What a block knows must still be there, and nothing of it be learned."""
        found: dict[AlertKind, list[Finding]] = {}
        for measure, column in np.argwhere(~np.isnan(self._tables.verdict.p)).tolist():
            of_events = column == len(self._columns)
            kind = (_OF_EVENTS if of_events else _OF_COLUMNS)[measure]
            if measure == q.RUN:
                finding = self._run(ended, column)
            elif measure == q.GAP and not np.isnan(self._tables.verdict.p[q.MISSING, column]):
                continue  # That it is missing is said already.
            elif measure in {q.LOW, q.HIGH} and not of_events:
                finding = self._range(ended, measure, column)
                if measure == q.HIGH and not np.isnan(self._tables.verdict.p[q.LOW, column]):
                    same = next(each for each in found[kind] if each.changed.name == finding.changed.name)
                    found[kind].remove(same)
                    finding = _both_sides(same, finding)
            else:
                finding = self._share(ended, measure, column)
            found.setdefault(kind, []).append(finding)
        return found

    def added(self, each: Added, ended: Ended) -> Finding:
        """Return the finding of a feature that has no column."""
        offset, since_ms = self._since(ended, 1)
        share = each.events / ended.rows
        changed = Changed(
            name=each.name,
            measure="present_share",
            observed=share,
            expected=0.0,
            high=self._options.rise_min,
            effect=share,
            p_value=each.p_value,
            since_offset=offset,
            since_ms=since_ms,
            detail="added",
        )
        return Finding(changed, "warning")

    def _since(self, ended: Ended, blocks: int) -> tuple[int, int]:
        """Offset and time of the first event of so many blocks that have ended now."""
        back = min(blocks, RECENT_BLOCKS, ended.number + 1) - 1
        offset, since_ms = self._tables.starts[(ended.slot - back) % RECENT_BLOCKS].tolist()
        return offset, since_ms

    def _severity(self, ended: Ended, measure: int, column: int) -> Severity:
        affected = self._tables.recent.k[ended.slot, measure, column]
        return "critical" if affected >= _CRITICAL_SHARE * ended.rows else "warning"

    def _usual(self, measure: int, column: int) -> float | None:
        learned = self._tables.learned
        cases, events = int(learned.k[measure, column]), int(learned.n[measure, column])
        return cases / events if events else None

    def _share(self, ended: Ended, measure: int, column: int) -> Finding:
        tables = self._tables
        counted = q.MISSING if measure == q.GAP else measure
        cases, events = (
            int(tables.recent.k[ended.slot, counted, column]),
            int(tables.recent.n[ended.slot, counted, column]),
        )
        usual, share = self._usual(counted, column), cases / events
        of_events = column == len(self._columns)
        offset, since_ms = self._since(ended, int(tables.verdict.window[measure, column]))
        changed = Changed(
            name=self._name(column),
            measure=(_EVENT_MEASURES if of_events else _MEASURES)[measure],
            observed=share,
            expected=usual,
            low=None if measure == q.GAP else 0.0,
            high=None if measure == q.GAP or usual is None else min(usual + self._options.rise_min, 1.0),
            effect=share - (usual or 0.0),
            p_value=self._p(measure, column),
            since_offset=offset,
            since_ms=since_ms,
            detail=self._share_detail(ended, measure, column),
        )
        return Finding(changed, self._severity(ended, counted, column))

    def _share_detail(self, ended: Ended, measure: int, column: int) -> str | None:
        if column == len(self._columns):
            latest = self._tables.block.maximum[column] / 1000.0
            return {q.HIGH: f"up to {latest:.0f} s behind", q.SET_BACK: "the clock was set back"}.get(measure)
        if measure == q.INVALID:
            return ended.examples.get(column)
        if measure in {q.MISSING, q.GAP}:
            return "vanished" if self._tables.recent.k[ended.slot, q.MISSING, column] == ended.rows else None
        return self._new_categories(column) if measure == q.NEW else None

    def _new_categories(self, column: int) -> str:
        first, last = int(self._tables.bounds.known[column]), int(self._tables.block.code[column])
        if last <= first:
            return "beyond categories_max"
        told = list(self._columns[column].codes)[first : min(last, first + self._shown)]
        more = last - first - len(told)
        return ", ".join(told) + (f" and {more} more" if more else "")

    @property
    def _shown(self) -> int:
        return min(_CATEGORIES_TOLD, self._options.names_max)

    def _range(self, ended: Ended, measure: int, column: int) -> Finding:
        tables = self._tables
        cases, events = (
            int(tables.recent.k[ended.slot, measure, column]),
            int(tables.recent.n[ended.slot, measure, column]),
        )
        usual = float(tables.learned.usual[column]) if tables.learned.medians[column] else None
        low, high = float(tables.bounds.low[column]), float(tables.bounds.high[column])
        offset, since_ms = self._since(ended, int(tables.verdict.window[measure, column]))
        bound = f"below {low:g}" if measure == q.LOW else f"above {high:g}"
        extreme = float((tables.block.minimum if measure == q.LOW else tables.block.maximum)[column])
        sample = np.sort(tables.block.sample[column, : tables.block.sampled[column]])
        width = float(tables.learned.high[column] - tables.learned.low[column])
        outside = sample[sample < low] if measure == q.LOW else sample[sample > high]
        median = float(outside[len(outside) // 2]) if len(outside) else extreme
        words = [f"{100.0 * cases / events:.3g} % {bound}, as far as {extreme:g}", *_times_usual(median, usual, width)]
        changed = Changed(
            name=self._name(column),
            measure=_MEASURES[measure],
            observed=median,
            expected=usual,
            low=low if math.isfinite(low) else None,
            high=high if math.isfinite(high) else None,
            effect=cases / events - (self._usual(measure, column) or 0.0),
            p_value=self._p(measure, column),
            since_offset=offset,
            since_ms=since_ms,
            detail="; ".join(words),
        )
        return Finding(changed, self._severity(ended, measure, column))

    def _run(self, ended: Ended, column: int) -> Finding:
        tables, options = self._tables, self._options
        run, longest = int(tables.running.run[column]), int(tables.learned.longest_run[column])
        offset, since_ms = self._since(ended, -(-run // options.block_events))
        changed = Changed(
            name=self._name(column),
            measure=(_EVENT_MEASURES if column == len(self._columns) else _MEASURES)[q.RUN],
            observed=float(run),
            expected=float(longest),
            high=float(longest),
            effect=run / options.block_events,
            p_value=self._p(q.RUN, column),
            since_offset=offset,
            since_ms=since_ms,
            detail=self._value(column),
        )
        return Finding(changed, "critical" if run >= _CRITICAL_SHARE * ended.rows else "warning")

    def _value(self, column: int) -> str:
        """What the value is that stays."""
        value = float(self._tables.running.last[column])
        if column == len(self._columns):
            return f"always {value:.0f}"
        kind, codes = self._columns[column].kind, self._columns[column].codes
        if kind is Kind.CATEGORICAL:
            code = int(value)
            return f"always {list(codes)[code - 1] if 1 <= code <= len(codes) else 'a category beyond categories_max'}"
        return f"always {'true' if value else 'false'}" if kind is Kind.BOOLEAN else f"always {value:g}"

    def _name(self, column: int) -> str:
        return self._columns[column].name if column < len(self._columns) else ""

    def _p(self, measure: int, column: int) -> float | None:
        """The corrected p-value, where a test has decided: a declared bound, and a clock, need none."""
        p = float(self._tables.verdict.p[measure, column])
        return p if p > 0.0 or measure in {q.RUN, q.MISSING, q.INVALID, q.GAP} else None


def _both_sides(below: Finding, above: Finding) -> Finding:
    """Return one finding of a feature that is out of its range on both sides."""
    changed = structs.replace(
        above.changed,
        effect=below.changed.effect + above.changed.effect,
        p_value=min(below.changed.p_value or 0.0, above.changed.p_value or 0.0) or None,
        detail=f"{below.changed.detail}; {above.changed.detail}",
    )
    is_critical = "critical" in {below.severity, above.severity} or changed.effect >= _CRITICAL_SHARE
    return Finding(changed, "critical" if is_critical else "warning")


def _times_usual(median: float, usual: float | None, width: float) -> list[str]:
    """Say whether values are a power of ten times what they were, or of the other sign."""
    if not median or not usual or abs(usual) < _USUAL_MIN * width:
        # A median about zero has no sign, nor a multiple.
        return []
    words = []
    if (median < 0.0) != (usual < 0.0):
        words.append("of the other sign")
    power = math.log10(abs(median)) - math.log10(abs(usual))
    if round(power) != 0 and abs(power - round(power)) <= _POWER_TOLERANCE:
        words.append(f"about {10.0 ** round(power):g} times the usual")
    return words


def sentence(kind: AlertKind, changed: Changed) -> str:
    """Say in a sentence what is wrong with one subject."""
    name, detail = f"`{changed.name}`", "" if changed.detail is None else f" ({changed.detail})"
    if kind == "quality.schema":
        return f"feature {name} {changed.detail}"
    if kind == "quality.range":
        return f"{name} is out of range: {changed.detail}"
    if kind == "quality.constant":
        return f"{name} has stayed the same for {changed.observed:.0f} events{detail}"
    what = changed.measure.replace("_", " ") if kind == "quality.timestamp" else _SHARES[kind].format(name)
    if changed.measure == _EVENT_MEASURES[q.RUN]:
        return f"{what}: {changed.observed:.0f}, at most {changed.expected:.0f} so far{detail}"
    observed, expected = 100.0 * (changed.observed or 0.0), 100.0 * (changed.expected or 0.0)
    return f"{what}: {observed:.3g} %, usually {expected:.3g} %{detail}"
