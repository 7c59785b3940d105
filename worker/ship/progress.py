"""How far the records of a partition are: taken, possibly sent, settled.

Rule 1: a position is committed only when every record before it is settled.
Rule 2: with a position goes a ceiling, and nothing at or beyond it is sent before a higher one is committed. So whoever
comes next, after a kill, knows which records may have been sent already, and looks these up: data streams refuse a
repeat only until they roll over.

    committed          settled                      sent              taken        ceiling
       |------------------|--- some settled ---------|-----------------|--------------|
       |<------------------- looked up after a kill --------------------------------->|

Rule 3: what a former owner may have sent stays in question until it is settled: whoever stops before that hands it on.
"""

from collections import deque
from typing import Final, NamedTuple

AHEAD: Final = 20_000
"""Offsets from what is taken to the ceiling."""
SPREAD_MAX: Final = 100_000
"""Offsets that may be sent beyond a record that is not settled: so much is looked up after a kill, at most."""
_MARK = "sent<"
_DIGITS_MAX = 19


Place = tuple[str, int]
"""Topic and partition."""


class Begin(NamedTuple):
    """Where a partition is when it is assigned."""

    offset: int
    committed: bool
    """Whether the group has a position of it."""
    metadata: str
    end: int
    """Where the partition ends."""


class Mark(NamedTuple):
    """What to commit for a partition."""

    offset: int
    metadata: str


class Portion:
    """Consecutive records of one partition in one batch."""

    __slots__ = ("done", "end")

    def __init__(self, end: int) -> None:
        self.end = end
        self.done = False


class Progress:
    """One partition, from its assignment until it is given up.

    Args:
        begin: where it is.
        empty: nothing of its stream is in the cluster.
    """

    def __init__(self, begin: Begin, *, empty: bool) -> None:
        self.position = begin.offset
        """All before it is settled."""
        self._sent = begin.offset
        """Nothing at or beyond it is sent."""
        self._ceiling = begin.offset
        self.doubtful_before = _doubtful_before(begin, empty=empty)
        """Records before it may be in the cluster already."""
        # What was not there yet, nobody can have sent.
        self._inherited = min(self.doubtful_before, begin.end)
        self._portions: deque[Portion] = deque()
        self._committed: Mark | None = None

    @property
    def settled(self) -> bool:
        """Whether all that was sent is settled."""
        return not self._portions

    def may_send(self, end: int) -> bool:
        """Tell whether records up to before an offset may be sent (rule 2)."""
        return end <= self._ceiling

    def is_far(self, end: int) -> bool:
        """Tell whether an offset is too far beyond a record that is not settled."""
        return not self.settled and end - self.position > SPREAD_MAX

    def send(self, end: int) -> Portion:
        """Note that records up to before an offset are about to be sent."""
        assert self._sent < end <= self._ceiling, f"{self._sent} < {end} <= {self._ceiling}"
        self._sent = end
        portion = Portion(end)
        self._portions.append(portion)
        return portion

    def settle(self, portion: Portion) -> None:
        """Note that the records of a portion are settled."""
        portion.done = True
        while self._portions and self._portions[0].done:
            self.position = self._portions.popleft().end

    def mark(self, *, last: bool = False, taken: int = 0) -> Mark | None:
        """Return what to commit; None if that is committed.

        Args:
            last: nothing more will be sent.
            taken: up to before this offset, so that the ceiling is beyond it.
        """
        ceiling = self._sent if last else max(self._sent, taken) + AHEAD
        mark = Mark(self.position, f"{_MARK}{max(ceiling, self._inherited)}")
        if self._committed == mark:
            return None
        if self._committed is not None and self._committed.offset == mark.offset and not last and not taken:
            return None
        return mark

    def committed(self, mark: Mark) -> None:
        """Note that Kafka has it."""
        self._committed = mark
        self._ceiling = _ceiling_of(mark.metadata) or mark.offset


def _doubtful_before(begin: Begin, *, empty: bool) -> int:
    ceiling = _ceiling_of(begin.metadata) if begin.committed else None
    if ceiling is not None:
        return ceiling
    # Somebody else has set the position, or the group was forgotten: all that is there may have been sent.
    return begin.offset if empty else begin.end


def _ceiling_of(metadata: str) -> int | None:
    digits = metadata.removeprefix(_MARK)
    is_ours = metadata.startswith(_MARK) and digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    return int(digits) if is_ours else None
