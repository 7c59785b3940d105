"""What is told of regimes, and the options of their watch."""

from msgspec import Struct

from worker.core.events import RegimeChange


class RegimeShare(Struct, frozen=True):
    """One regime in one pane."""

    regime: int
    rows: int
    share: float
    usual: float | None
    """Its share of the panes before, older ones faded; null in its first one."""
    present: bool


class RegimePane(Struct, frozen=True, kw_only=True):
    """The regimes of one pane of rows."""

    pane: int
    first_offset: int
    last_offset: int
    rows: int
    far: int
    """Rows that lie in no regime."""
    missing: int
    """Rows without any value."""
    shares: list[RegimeShare]
    changes: list[RegimeChange]
