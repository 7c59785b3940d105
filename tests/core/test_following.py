"""What who follows performance monitoring gets to know: the same, however labels are cut into batches."""

import numpy as np

from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.events import LabelEvent, PredictionEvent
from worker.core.maintenance.targets import known_classes
from worker.core.options import EngineOptions, ModelPerformanceOptions, PerformanceOptions
from worker.core.performance.batch import Labelled
from worker.core.performance.following import Arrived, NoFollower
from worker.core.performance.ledger import Ledger
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.telling import PerformanceOwner
from worker.core.performance.values import Names

NOW_MS = 1_767_225_600_000


class _Watcher(NoFollower):
    """Notes which classes there are at each label."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, list[str]]] = []

    def labelled(self, batch: Labelled, ledger: Ledger, columns: Names, *, inline: bool) -> None:
        """Note the last one: what is due is done there."""
        del columns, inline
        if ledger.classes is not None:
            self.seen += [(label, list(ledger.classes.table.names)) for label in batch.labels.tolist()]


def monitor_of(labels: list[int], size: int, watcher: _Watcher, *classes: str) -> PerformanceMonitor:
    """Return a monitor that has taken in labels, so many at a time, and has told them to a follower.

    All predictions are 0, and those of labels over 9 are one less than the label. `classes`: what is declared.
    """
    of_model = ModelPerformanceOptions("m", task="multiclass", classes=classes)
    monitor = PerformanceMonitor(
        PerformanceOwner("m", 0, "predictions"), EngineOptions(performance=PerformanceOptions(models=(of_model,)))
    )
    monitor.follower = watcher
    count = len(labels)
    offsets, times = np.arange(count), np.full(count, NOW_MS)
    ids = [f"e{number}" for number in range(count)]
    events = [
        PredictionEvent(
            event_id=name, model_id="m", timestamp=NOW_MS, features={}, prediction=0 if label < 10 else label - 1
        )
        for name, label in zip(ids, labels, strict=True)
    ]
    monitor.predicted(Arrived(PredictionEvents.of(events), offsets, times, times))
    for begin in range(0, count, size):
        part = slice(begin, begin + size)
        told = [
            LabelEvent(event_id=name, model_id="m", timestamp=NOW_MS, label=label)
            for name, label in zip(ids[part], labels[part], strict=True)
        ]
        monitor.label(LabelEvents.of(told), offsets[part], times[part])
    return monitor


def test_a_class_that_is_a_number_is_not_known_before_its_first_label() -> None:
    """A new pool takes the classes that there are: they must not come from labels that are yet to be taken in."""
    labels = [number % 3 for number in range(60)] + [7] + [number % 3 for number in range(10)]
    one_by_one, at_once = _Watcher(), _Watcher()
    monitor_of(labels, 1, one_by_one)
    monitor_of(labels, len(labels), at_once)
    assert one_by_one.seen == at_once.seen
    assert [len(names) for _, names in at_once.seen] == [3] * 30 + [4] * 11


def test_what_stands_for_all_other_classes_is_none_of_a_pool() -> None:
    """Neither a challenger nor a server could answer with it. It is told apart when such labels were predicted."""
    labels = [number % 3 for number in range(60)] + [20] * 5
    ledger = monitor_of(labels, 10, _Watcher(), "0", "1", "2").ledger
    assert ledger is not None
    assert ledger.classes is not None
    assert ledger.classes.has_another
    assert known_classes(ledger) == (("0", "1", "2"), (1, 2, 3))
