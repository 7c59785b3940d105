"""What is remembered of predictions until their labels come."""

import numpy as np

from worker.core.arrivals import PredictionEvents
from worker.core.events import PredictionEvent
from worker.core.maintenance.said import Sayings
from worker.core.performance.following import Arrived

NOW_MS = 1_767_225_600_000


def arrived(versions: list[str | None]) -> Arrived:
    """Return predictions of these versions."""
    events = [
        PredictionEvent(
            event_id=f"e{number}", model_id="m", timestamp=NOW_MS, features={}, prediction=0, model_version=version
        )
        for number, version in enumerate(versions)
    ]
    count = len(events)
    times = np.full(count, NOW_MS)
    return Arrived(PredictionEvents.of(events), np.arange(count), times, times, np.zeros((count, 1)))


def epochs(sayings: Sayings, versions: list[str | None]) -> list[int]:
    """Take in events; return the epoch of each."""
    numbers = sayings.predicted(arrived(versions), None)
    assert sayings.waiting is not None
    return [int(each) for each in sayings.waiting.epochs[numbers]]


def test_a_canary_is_no_part_of_the_version_in_service() -> None:
    """Also before the pool begins: the first version is in service, until another takes over."""
    sayings = Sayings(100)
    assert epochs(sayings, [None, "1", "2", None, "1"]) == [0, 0, -1, 0, 0]
    sayings.begin_epoch("2")
    assert epochs(sayings, ["1", "2", None]) == [-1, 1, 1]
