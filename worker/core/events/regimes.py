"""What is told of regimes: clusters of a model's inputs."""

from typing import Literal

from msgspec import Struct

RegimeChangeKind = Literal["new", "vanished", "returned"]


class RegimeFeature(Struct, frozen=True):
    """One feature of a regime against all other rows."""

    name: str
    value: float | None
    """Mean of the regime. Of a categorical feature it is the surprisal, as detectors see it."""
    elsewhere: float | None
    """Mean of the other regimes that are there; null where there is none."""
    difference: float
    """Between both, in widths of the feature's usual range (2 % to 98 %); cut at 6."""


class RegimeChange(Struct, frozen=True, kw_only=True):
    """A regime that is new, has vanished, or has come back. Its number never stands for another one."""

    kind: RegimeChangeKind
    regime: int
    since_offset: int
    """First event of the first pane in which it was so."""
    panes: int
    share_before: float
    share_after: float
    """Of the panes since then."""
    centre: dict[str, float | None]
    """In the features' own units."""
    features: list[RegimeFeature]
    """What sets it apart, largest difference first."""
    example_offsets: list[int]
    """Events of it: the latest ones, or some of those that made it."""
