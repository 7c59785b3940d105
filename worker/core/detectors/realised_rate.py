"""The share of events that are flagged in fact, beside the wanted one: over the latest 131,072 to 262,144 of them."""

from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from worker.core.state import COUNT_MAX, refuse_if

BLOCK_EVENTS = 131_072
"""After so many events of the monitor a block ends; that one and the one before it count."""

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredRealised(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Judged events, and flagged ones of them, of this block and of the one before."""

    judged: _Count = 0
    flagged: _Count = 0
    judged_before: _Count = 0
    flagged_before: _Count = 0


class Realised(NamedTuple):
    """What share was wanted, and how many events were flagged of those that were judged."""

    wanted: float
    flagged: int
    judged: int


class RealisedRate:
    """Counts verdicts since the detectors began anew."""

    def __init__(self) -> None:
        self._counts = StoredRealised()

    def add(self, judged: int, flagged: int) -> None:
        """Take in events with a verdict, and how many of these are flagged."""
        now = self._counts
        self._counts = StoredRealised(now.judged + judged, now.flagged + flagged, now.judged_before, now.flagged_before)

    def end_block(self) -> None:
        """Forget the block before this one; another one begins."""
        self._counts = StoredRealised(0, 0, self._counts.judged, self._counts.flagged)

    def of(self, wanted: float) -> Realised:
        """Return it beside the wanted share."""
        now = self._counts
        return Realised(wanted, now.flagged + now.flagged_before, now.judged + now.judged_before)

    def state(self) -> StoredRealised:
        """Return what is to be stored."""
        return self._counts

    def restore(self, stored: StoredRealised) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored rate of flagged events",
            {
                "more are flagged than were judged": stored.flagged > stored.judged
                or stored.flagged_before > stored.judged_before
            },
        )
        self._counts = stored
