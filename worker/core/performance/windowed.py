"""Standing alerts whose subjects are looked at over windows of several lengths, as limits are.

    (kept) --interval excludes the limit--> held --value is back, in a window at least half as long--> (kept)
                                                 '--too few events in a window that is as long------'

The windows are those of `limits`: each is looked at when half of it is new, so a great bias is found soon and a small
one when enough labels have come. What is held is affected until it is kept again, and what came before that is not held
against it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.events import Changed
from worker.core.performance.window_sizes import due_sizes
from worker.core.standing import Finding, Moment, Standing, StoredStanding
from worker.core.state import COUNT_MAX, refuse_if
from worker.core.telling import Told

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_STORED = "stored bias"


class Outcome(NamedTuple):
    """What a window says of a subject."""

    broken: bool
    """The interval excludes the limit."""
    kept: bool
    """The value is within the limit."""
    finding: Finding
    events: int
    """Labelled events of the window."""


class Outcomes(NamedTuple):
    """What a window says: of the subjects that are beyond the limit or held, by key; and of how many it could."""

    by_key: Mapping[str, Outcome]
    looked_at: int


class Held(Struct, frozen=True, forbid_unknown_fields=True):
    """A subject that is affected, as it is stored."""

    window: _Count
    """Blocks of the window in which it was found."""
    severity: Literal["info", "warning", "critical"]
    changed: Changed
    events: _Count


class StoredWindowed(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of one alert and its subjects."""

    held: dict[str, Held]
    cleared: dict[str, _Count]
    standing: StoredStanding


class Windowed:
    """The affected subjects of one kind of alert, and the alert."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.held: dict[str, Held] = {}
        self._cleared: dict[str, int] = {}
        """Blocks so far when a subject was last found to be all right again."""

    def look(self, done: int, sizes: list[int], outcomes: Callable[[int], Outcomes], moment: Moment) -> list[Told]:
        """Look at the windows that end with block number `done` (from 1) and of which half is new."""
        due = due_sizes(done, sizes)
        if not due:
            return []
        broken: set[str] = set()
        looked_at = 0
        for size in due:
            found = outcomes(size)
            looked_at = max(looked_at, found.looked_at)
            for key, outcome in found.by_key.items():
                if key not in broken and size <= done - self._cleared.get(key, 0):
                    self._note(key, outcome, size, done, broken)
            for key in [key for key, held in self.held.items() if key not in found.by_key and size >= held.window]:
                # There is not enough of it left to tell.
                self._clear(key, done)
        findings = [Finding(each.changed, each.severity) for each in self.held.values()]
        events = max((each.events for each in self.held.values()), default=0)
        return self.standing.look(findings, moment._replace(looked_at=looked_at, events=events))

    def _note(self, key: str, outcome: Outcome, size: int, done: int, broken: set[str]) -> None:
        held, finding = self.held.get(key), outcome.finding
        if outcome.broken:
            broken.add(key)
            window = size if held is None else held.window
            self.held[key] = Held(window, finding.severity, finding.changed, outcome.events)
        elif held is not None and outcome.kept and size >= held.window // 2:
            self._clear(key, done)

    def _clear(self, key: str, done: int) -> None:
        del self.held[key]
        self._cleared[key] = done

    def forget(self, key: str) -> None:
        """Forget a subject that is no more."""
        self.held.pop(key, None)
        self._cleared.pop(key, None)

    def state(self) -> StoredWindowed:
        """Return what is to be stored."""
        return StoredWindowed(dict(self.held), dict(self._cleared), self.standing.state())

    def restore(self, stored: StoredWindowed, keys: set[str], done: int) -> None:
        """Take over what `state` gave; ValueError for subjects other than `keys`, or blocks beyond `done`."""
        refuse_if(
            _STORED,
            {
                "a subject is none": not stored.held.keys() | stored.cleared.keys() <= keys,
                "a window is too long": any(not 0 < each.window <= done for each in stored.held.values()),
                "a subject was all right too late": any(each > done for each in stored.cleared.values()),
            },
        )
        self.standing.restore(stored.standing)
        self.held, self._cleared = dict(stored.held), dict(stored.cleared)
