"""Features without a column: which names came, how often in the block, and which of them are usual."""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from worker.core.events import PredictionEvent
from worker.core.kernels.quality_statistics import rise_probability
from worker.core.options import QualityOptions
from worker.core.state import COUNT_MAX, refuse_if

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Added(NamedTuple):
    """A feature that was not there before, in `events` events of the block."""

    name: str
    events: int
    p_value: float


class StoredNames(Struct, frozen=True, forbid_unknown_fields=True):
    """The names as they are stored; `block` and `stood` by name."""

    usual: list[str]
    block: dict[str, _Count]
    stood: dict[str, _Count]
    untold: _Count


class UnknownNames:
    """Counts names that have no column. Bounded: `names_max` usual ones, and as many in a block."""

    def __init__(self, columns: Iterable[str], options: QualityOptions) -> None:
        self._options = options
        self._usual: list[str] = []
        self._expected = set(columns)
        self._block: dict[str, int] = {}
        self._stood: dict[str, int] = {}
        self.untold = 0
        """Values of names for which there was no room."""

    def add(self, event: PredictionEvent) -> None:
        """Count the names of one event."""
        # Sorted: the order of a set differs between processes, and the room ends somewhere.
        for name in sorted(event.features.keys() - self._expected):
            if event.features[name] is None:
                continue
            if name in self._block or len(self._block) < self._options.names_max:
                self._block[name] = self._block.get(name, 0) + 1
            else:
                self.untold += 1

    def learn_block(self) -> None:
        """End a block of the reference: its names are usual, as far as there is room."""
        for name in self._block:
            self._adopt(name)
        self._block = {}

    def end_block(self, rows: int, learned: int, tests: int) -> list[Added]:
        """End a block of so many rows, after so many learned ones; return the names that are new, and told."""
        options, found = self._options, []
        if not self._block and not self._stood:
            return []
        # With more unusual names from the start than there is room for, that another one comes says nothing.
        for name, count in {} if self._is_full else self._block.items():
            if count >= options.rise_min * rows:
                p = rise_probability(count, rows, 0, learned, 1.0) * (tests + len(self._block))
                if p <= options.false_alarm_probability:
                    found.append(Added(name, count, p))
        self._stood = {each.name: self._stood.get(each.name, 0) + 1 for each in found}
        self._block = {}
        for name in [name for name, looks in self._stood.items() if looks >= options.adopt_blocks]:
            self._adopt(name)
            del self._stood[name]
        return found

    @property
    def _is_full(self) -> bool:
        return len(self._usual) >= self._options.names_max

    def _adopt(self, name: str) -> None:
        if not self._is_full:
            self._usual.append(name)
            self._expected.add(name)

    def state(self) -> StoredNames:
        """Return what is to be stored."""
        return StoredNames(list(self._usual), dict(self._block), dict(self._stood), self.untold)

    def restore(self, stored: StoredNames) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored names of unknown features",
            {
                "there are too many": max(len(stored.usual), len(stored.block), len(stored.stood))
                > self._options.names_max,
                "one is usual twice, or has a column": len(set(stored.usual) - self._expected) < len(stored.usual),
            },
        )
        self._usual, self._block, self._stood = list(stored.usual), dict(stored.block), dict(stored.stood)
        self._expected |= set(stored.usual)
        self.untold = stored.untold
