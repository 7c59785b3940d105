"""Biased predictions as alerts: probabilities or numbers that miss the labels on the whole, and gaps between segments.

    whole model, each segment's value    bias.calibration: mean signed error, slope of calibration
    each segment, its values together    bias.selection_rate, bias.true_positive_rate, bias.error

Rule 1: it is looked at when a block of labels is complete, with all that came up to that row and nothing else.
Rule 2: an alert needs an interval that excludes the limit, at the confidence of all performance alerts.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from worker.core.events import Changed, SegmentName
from worker.core.kernels.arrays import I32
from worker.core.options import BiasOptions, EngineOptions
from worker.core.performance.calibration_bias import calibration_outcomes, calibration_text, measures_of
from worker.core.performance.gaps import Gap, GapKind, Rules, error_gaps, gap_kinds, share_gaps
from worker.core.performance.groups import Groups, Sides
from worker.core.performance.layout import regression_figures
from worker.core.performance.reference import Look
from worker.core.performance.regression import label_deviation
from worker.core.performance.segments import OTHER, Segments
from worker.core.performance.series import Series
from worker.core.performance.series_keys import Key
from worker.core.performance.tallies import Rows
from worker.core.performance.task import Classes, Task
from worker.core.performance.window_sizes import due_sizes, window_sizes
from worker.core.performance.windowed import (
    Outcome,
    Outcomes,
    StoredWindowed,
    Windowed,
)
from worker.core.standing import Finding, Moment, Severity, Standing, StandingOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, refuse_if
from worker.core.telling import Owner, Place, Told

_STORED = "stored bias"
ALL_VALUES = "(all)"
"""Value of the segment of an alert that compares all of its values."""
_CRITICAL = 2.0
"""Critical is what is so many times the limit."""
UNKNOWN = Place(0, 0)
"""Where a window begins of which that was not noted: somewhere since the beginning."""

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class BiasSetup(NamedTuple):
    """What bias is looked at with."""

    options: BiasOptions
    standing: StandingOptions
    confidence: float
    block_labels: int
    blocks_max: int

    @classmethod
    def of(cls, options: EngineOptions) -> "BiasSetup":
        """Take what is needed of all options."""
        own = options.performance
        return cls(options.bias, StandingOptions.of(options), own.alert_confidence, own.block_labels, own.blocks_max)

    @property
    def sizes(self) -> list[int]:
        """Lengths of the windows, in blocks."""
        return window_sizes(self.options.support_min, self.block_labels, self.blocks_max)


class Begins:
    """The prediction that was labelled first in each block.

    Labels have offsets of another topic, and which of the two comes first is chance; the prediction is the same.
    """

    def __init__(self, blocks_max: int) -> None:
        self._blocks_max = blocks_max
        self._places: dict[int, Place] = {}

    def note(self, block: int, place: Place) -> None:
        """A prediction is labelled in a block; the first one counts."""
        if block not in self._places:
            self._places[block] = place
            self._places.pop(block - self._blocks_max, None)

    def place(self, block: int) -> Place | None:
        """Return the first one of a block; None if that is not known."""
        return self._places.get(block)

    def state(self) -> dict[int, Place]:
        """Return what is to be stored."""
        return dict(self._places)

    def restore(self, places: Mapping[int, Place], block: int) -> None:
        """Take it over; ValueError for blocks that there cannot be."""
        known = range(block - self._blocks_max, block + 1)
        refuse_if(_STORED, {"a block begins out of range": any(each not in known for each in places)})
        self._places = dict(places)


class StoredCalibration(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of the calibration of one series."""

    begins: dict[_Count, Place]
    windowed: StoredWindowed


class CalibrationWatch:
    """Whether the predictions of one series miss its labels on the whole."""

    def __init__(self, owner: Owner, setup: BiasSetup, task: Task, segment: SegmentName | None) -> None:
        self._setup = setup
        self._task = task
        self._sizes = setup.sizes
        self.begins = Begins(setup.blocks_max)
        self._windowed = Windowed(Standing("bias.calibration", owner, setup.standing, calibration_text, segment))

    def look(self, series: Series, look: Look, moment: Moment) -> list[Told]:
        """Look at the windows that end with the block of the series that is just complete."""
        measures = measures_of(self._task)
        if not self._setup.options.enabled or not measures:
            return []

        def outcomes(size: int) -> Outcomes:
            first = series.block + 1 - size
            since = self.begins.place(first) or UNKNOWN
            held = self._windowed.held
            return calibration_outcomes(self._task, series, size, look, self._setup.options, since, held)

        return self._windowed.look(series.block + 1, self._sizes, outcomes, moment)

    def close(self, moment: Moment) -> list[Told]:
        """End the alert: the series will be watched no more."""
        return self._windowed.standing.close(moment)

    def state(self) -> StoredCalibration:
        """Return what is to be stored."""
        return StoredCalibration(self.begins.state(), self._windowed.state())

    def restore(self, stored: StoredCalibration, block: int) -> None:
        """Take over what `state` gave for a series with this open block; ValueError for what cannot be."""
        self.begins.restore(stored.begins, block)
        self._windowed.restore(stored.windowed, set(measures_of(self._task)), block)


class StoredGaps(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of the gaps of a model: for each segment, its kinds in order."""

    block: _Count
    windowed: list[list[StoredWindowed]]


class GapWatch:
    """Whether the values of a segment are treated alike."""

    def __init__(self, owner: Owner, setup: BiasSetup, task: Task, classes: Classes | None, segments: Segments) -> None:
        self._setup = setup
        self._task = task
        self._classes = classes
        self._segments = segments
        self._rules = Rules(setup.options.support_min, setup.options.gap_max, setup.confidence)
        self._kinds = gap_kinds(task.name)
        self._sizes = window_sizes(2 * setup.options.support_min, setup.block_labels, setup.blocks_max)
        self.is_on = setup.options.enabled and bool(segments.all)
        """Whether there is anything to compare."""
        self.groups = Groups(task, len(segments.all), setup.blocks_max)
        self._windowed = [
            [
                Windowed(Standing(kind, owner, setup.standing, _describe(kind), SegmentName(segment.name, ALL_VALUES)))
                for kind in self._kinds
            ]
            for segment in segments.all
        ]

    def is_live(self, key: Key) -> bool:
        """Tell whether a value of a segment has not given way."""
        return key[1] == OTHER or self._segments.is_live(*key)

    def add(self, rows: Rows, blocks: I32, ids: I32) -> None:
        """Count contributions (n), if there is anything to compare: their blocks of the whole model, their values."""
        if len(blocks):
            self.groups.add(rows, blocks, ids, self.is_live)

    def look(self, series: Series, begins: Begins, moment: Moment) -> list[Told]:
        """Look at the windows that end with the block of the whole model that is just complete."""
        if not self.is_on:
            return []
        told = [each for place in range(len(self._windowed)) for each in self._look(place, series, begins, moment)]
        self.groups.next_block()
        return told

    def _look(self, place: int, series: Series, begins: Begins, moment: Moment) -> Iterator[Told]:
        done = series.block + 1
        sides = {size: self.groups.window(place, size) for size in due_sizes(done, self._sizes)}

        def outcomes(kind: GapKind, held: Container[str], size: int) -> Outcomes:
            since = begins.place(done - size) or UNKNOWN
            gaps, compared = self._gaps(kind, sides[size], series, size, held)
            return Outcomes({str(gap.value_id): self._outcome(place, gap, since) for gap in gaps}, compared)

        for kind, windowed in zip(self._kinds, self._windowed[place], strict=True):
            look = partial(outcomes, kind, windowed.held)
            yield from windowed.look(done, self._sizes, look, moment)

    def _gaps(
        self, kind: GapKind, sides: Sides, series: Series, size: int, wanted: Container[str]
    ) -> tuple[list[Gap], int]:
        if self._classes is not None:
            return share_gaps(kind, sides, self._classes.positive, self._rules, wanted)
        tally = series.tally(size)
        deviation = label_deviation(regression_figures(tally, series.layout, self._task))
        return error_gaps(sides, self._task.unit, deviation, self._rules, wanted)

    def _outcome(self, place: int, gap: Gap, since: Place) -> Outcome:
        limit = self._rules.gap_max
        broken = gap.low is not None and gap.high is not None and (gap.low > limit or gap.high < -limit)
        changed = Changed(
            name=self._segments.name(place, gap.value_id),
            measure=gap.measure,
            observed=gap.value,
            expected=gap.others,
            low=gap.low,
            high=gap.high,
            effect=abs(gap.gap),
            since_offset=since.offset,
            since_ms=since.time_ms,
        )
        severity: Severity = "critical" if abs(gap.gap) >= _CRITICAL * limit else "warning"
        return Outcome(broken, abs(gap.gap) <= limit, Finding(changed, severity), gap.events)

    def drop(self, key: Key) -> None:
        """Forget a value that gave way to another."""
        self.groups.drop(key)
        for windowed in self._windowed[key[0]]:
            windowed.forget(str(key[1]))

    # Storing and restoring.

    def plain(self) -> StoredGaps:
        """Return the plain part of the state."""
        return StoredGaps(self.groups.block, [[each.state() for each in kinds] for kinds in self._windowed])

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        return self.groups.arrays()

    def restore(self, stored: StoredGaps | None, arrays: Arrays, block: int) -> None:
        """Take over what `plain` and `arrays` gave, where the whole model has this open block.

        A state from before there were gaps has none (None): nothing was counted.
        """
        if stored is None:
            refuse_if(_STORED, {"it has groups and does not": bool(arrays)})
            self.groups.block = block if self.is_on else 0
            return
        refuse_if(
            _STORED,
            {
                "it is of other blocks": stored.block != (block if self.is_on else 0),
                "its alerts are others": [len(kinds) for kinds in stored.windowed]
                != [len(kinds) for kinds in self._windowed],
            },
        )
        self.groups.restore(arrays, stored.block, self.is_live)
        for place, (kinds, stored_kinds) in enumerate(zip(self._windowed, stored.windowed, strict=True)):
            keys = {str(value_id) for segment, value_id in self.groups.slots if segment == place}
            for windowed, each in zip(kinds, stored_kinds, strict=True):
                windowed.restore(each, keys, stored.block)


def _describe(kind: GapKind) -> Callable[[Changed], str]:
    """Return what makes a sentence of a gap."""
    return lambda worst: gap_text(kind, worst)


def gap_text(kind: GapKind, worst: Changed) -> str:
    """Return a gap as a sentence."""
    name = {"bias.selection_rate": "selection rate", "bias.true_positive_rate": "true-positive rate"}.get(kind)
    name = name or {"mae": "mean absolute error", "bias": "mean signed error"}.get(worst.measure, "error rate")
    text = f"the {name} of {worst.name} is {worst.observed:.3g}, of the others {worst.expected:.3g}"
    if worst.low is None or worst.high is None:
        return text
    of = {"mae": " of the mean one", "bias": " deviations of the label"}.get(worst.measure, "")
    return f"{text} (a gap of {worst.low:.3g} to {worst.high:.3g}{of})"
