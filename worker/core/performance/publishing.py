"""What of a model's books is published: panes that changed, sliding and decayed windows, and the lifetime."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from worker.core.events import SegmentName
from worker.core.kernels import join as j
from worker.core.kernels.arrays import I64
from worker.core.kernels.tally import CLIPPED
from worker.core.options import PerformanceOptions
from worker.core.performance.confidence import Confidences
from worker.core.performance.formulas import Formulas
from worker.core.performance.layout import Layout, Tally, confusion, exact_values, labelled
from worker.core.performance.records import Z95, Extent, Source, performance_record
from worker.core.performance.segments import Segments
from worker.core.performance.series import Series
from worker.core.performance.series_keys import Key
from worker.core.performance.task import Classes, Quality, Task
from worker.core.performance.telling import PerformanceOwner
from worker.core.telling import Told


class Flush(NamedTuple):
    """One round of publishing."""

    newest_pane: int | None
    """What is newer has only begun; None: all is told."""
    revision: int
    offset: int
    confidences: Confidences
    counters: I64
    quality: I64


class Publisher:
    """Makes records of the series of one model."""

    def __init__(
        self,
        owner: PerformanceOwner,
        options: PerformanceOptions,
        segments: Segments,
        task: Task,
        classes: Classes | None,
        formulas: Formulas,
    ) -> None:
        self._owner = owner
        self._options = options
        self._segments = segments
        self._task = task
        self._classes = classes
        self._formulas = formulas

    def segment(self, key: Key | None) -> SegmentName | None:
        """Return the name of a series; None for the whole model."""
        if key is None:
            return None
        return SegmentName(self._segments.all[key[0]].name, self._segments.name(*key))

    def _source(self) -> Source:
        owner = self._owner
        return Source(owner.model_id, owner.model_version, owner.shard, self._task, self._classes, self._formulas)

    def _metric(self, extent: Extent, tally: Tally, layout: Layout) -> Told:
        return self._owner.metric(performance_record(self._source(), extent, tally, layout))

    def arrival(self, key: Key | None, series: Series, tally: Tally, offset: int) -> Told:
        """Return the record of the pane of labels as they came."""
        start_ms, revision = series.arrival * self._options.pane_ms, series.arrival_revision
        end_ms = start_ms + self._options.pane_ms
        extent = Extent(self.segment(key), "label_arrival", "pane", start_ms, end_ms, revision, offset, None)
        return self._metric(extent, tally, series.layout)

    def flush(self, key: Key | None, series: Series, flush: Flush) -> Iterator[Told]:
        """Yield the records of the panes of a series that changed, and of its windows if any did."""
        newest = flush.newest_pane
        panes = [pane for pane in sorted(series.known) if newest is None or pane <= newest]
        changed = [pane for pane in panes if series.known[pane].changed]
        for pane in changed:
            yield self._pane(key, series, pane, flush)
            series.known[pane].revision += 1
            series.known[pane].changed = False
        if newest is None and series.arrival_changed:
            yield self.arrival(key, series, series.by_arrival.merged([series.arrival]), flush.offset)
            series.arrival_told()
        if changed:
            # A window ends with a pane that is published, too, not with one that has only begun.
            yield from self._sliding(key, series, panes[-1], flush)
            yield self._decayed(key, series, flush)
            yield self._lifetime(key, series, flush)

    def _pane(self, key: Key | None, series: Series, pane: int, flush: Flush) -> Told:
        known, tally, start_ms = series.known[pane], series.panes.merged([pane]), pane * self._options.pane_ms
        extent = Extent(
            self.segment(key),
            "prediction_time",
            "pane",
            start_ms,
            start_ms + self._options.pane_ms,
            known.revision,
            flush.offset,
            known.predictions,
        )
        record = performance_record(self._source(), extent, tally, series.layout)
        if key is None and self._classes is not None:
            right = float(np.trace(confusion(tally, series.layout)))
            estimate = flush.confidences.estimate(pane, Z95, right, labelled(tally))
            record = msgspec.structs.replace(record, estimate=estimate)
        return self._owner.metric(record)

    def _sliding(self, key: Key | None, series: Series, newest: int, flush: Flush) -> Iterator[Told]:
        pane_ms = self._options.pane_ms
        for length_ms in self._options.windows_ms:
            panes = range(newest + 1 - max(length_ms // pane_ms, 1), newest + 1)
            extent = Extent(
                self.segment(key),
                "prediction_time",
                "sliding",
                panes.start * pane_ms,
                panes.stop * pane_ms,
                flush.revision,
                flush.offset,
                sum(series.known[pane].predictions for pane in panes if pane in series.known),
            )
            yield self._metric(extent, series.panes.merged(panes), series.layout)

    def _decayed(self, key: Key | None, series: Series, flush: Flush) -> Told:
        extent = Extent(self.segment(key), "label_arrival", "decayed", None, None, flush.revision, flush.offset, None)
        return self._metric(extent, series.blocks.weighted(series.weights), series.layout)

    def _lifetime(self, key: Key | None, series: Series, flush: Flush) -> Told:
        (counts, sums), predictions = series.lifetime
        tally = Tally(counts.astype(np.float64), exact_values(sums))
        segment, told = self.segment(key), (flush.revision, flush.offset, predictions)
        extent = Extent(segment, "prediction_time", "lifetime", None, None, *told)
        record = performance_record(self._source(), extent, tally, series.layout)
        if key is None:
            record = msgspec.structs.replace(record, label_facts=self._label_facts(flush, tally, series.layout))
        return self._owner.metric(record)

    def _label_facts(self, flush: Flush, tally: Tally, layout: Layout) -> dict[str, int]:
        facts = {name: int(flush.counters[place]) for name, place in _FACTS.items()}
        quality = {each.name.lower(): int(flush.quality[each]) for each in Quality}
        if self._task.is_regression:
            quality[Quality.CLIPPED.name.lower()] = int(tally.counts[layout.at[CLIPPED]])
        return facts | quality


_FACTS = {
    "unlabelled_in_time": j.UNLABELLED_LATE,
    "unlabelled_no_room": j.UNLABELLED_SIZE,
    "label_without_prediction": j.LABEL_LATE,
    "label_no_room": j.LABEL_SIZE,
    "duplicate_predictions": j.DUPLICATE_PREDICTIONS,
    "duplicate_labels": j.DUPLICATE_LABELS,
    "outdated_labels": j.OUTDATED_LABELS,
    "corrections": j.CORRECTIONS,
}
"""What became of labels and predictions, by the name under which it is told."""
