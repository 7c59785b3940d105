"""A consistent cut through a shard, stored a few monitors at a time while events go on.

The cut is at one position of the shard. A monitor that changed since the last cut is *due*; it is captured when its
turn comes, or right before the next thing happens to it, whichever is first. So what is captured is the state at the
cut, though no event waits for all of it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from worker.core.monitor import Monitor
from worker.core.snapshot import pack

LIVE = "live"
FITTED = "fitted"
PARTS = (LIVE, FITTED)


class Captured(NamedTuple):
    """One part of a monitor's state as bytes. `version` tells whether a stored fitted part is still the same."""

    model_id: str
    part: str
    version: int
    payload: bytes


class Cut:
    """The monitors due, and the parts captured and not yet taken.

    Args:
        due: ids of the models that changed since the last cut, or are not stored yet.
        stored: the models that are stored already, with the version of their fitted part (0: there is none).
    """

    def __init__(self, due: Iterable[str], stored: Mapping[str, int]) -> None:
        self._due = dict.fromkeys(due)
        self._stored = stored
        self._captured: deque[Captured] = deque()

    @property
    def done(self) -> bool:
        """Whether everything has been captured and taken."""
        return not (self._due or self._captured)

    def before(self, model_id: str, monitor: Monitor) -> None:
        """Something is about to happen to a monitor: capture it now, if it is due."""
        if model_id in self._due:
            del self._due[model_id]
            self._captured.extend(self._parts(model_id, monitor))

    def take(self, monitors: Mapping[str, Monitor], bytes_max: int) -> list[Captured]:
        """Return captured parts of about `bytes_max` bytes, at least one if there is any left."""
        taken: list[Captured] = []
        size = 0
        while size < bytes_max and not self.done:
            if not self._captured:
                model_id = next(iter(self._due))
                self.before(model_id, monitors[model_id])
            taken.append(self._captured.popleft())
            size += len(taken[-1].payload)
        return taken

    def _parts(self, model_id: str, monitor: Monitor) -> Iterable[Captured]:
        yield Captured(model_id, LIVE, 0, pack(monitor.live_state()))
        version = monitor.fitted_version
        if version and version != self._stored.get(model_id):
            yield Captured(model_id, FITTED, version, pack(monitor.fitted_state()))
