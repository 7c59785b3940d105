"""The state of a drift watch: one plain struct and named arrays, and back."""

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from msgspec import Meta, Struct

from worker.core.drift.dependence import StoredDependence
from worker.core.drift.reference import StoredReference
from worker.core.drift.windows import StoredWindows
from worker.core.standing import StoredStanding
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, outside, prefixed, refuse_if

if TYPE_CHECKING:
    from worker.core.drift.watch import DriftWatch

_STORED = "stored drift"
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredDrift(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state. `columns` is 0 before the watch has begun."""

    columns: _Count
    fill: _Count
    block_ms: Annotated[int, Meta(ge=-COUNT_MAX, le=COUNT_MAX)]
    open_blocks: _Count
    open_dependence: _Count
    learning: StoredReference | None
    windows: StoredWindows
    dependence: StoredDependence | None
    inputs: StoredStanding
    predictions: StoredStanding
    multivariate: StoredStanding

    @classmethod
    def of(cls, watch: "DriftWatch") -> Self:
        """Return the plain part of a watch."""
        return cls(
            columns=len(watch.bins.center),
            fill=watch.fill,
            block_ms=watch.block_ms,
            open_blocks=watch.open_blocks,
            open_dependence=watch.open_dependence,
            learning=None if watch.learning is None else watch.learning.plain(),
            windows=watch.windows.plain(),
            dependence=None if watch.dependence is None else watch.dependence.plain(),
            inputs=watch.inputs.state(),
            predictions=watch.predictions.state(),
            multivariate=watch.multivariate.state(),
        )


def arrays_of(watch: "DriftWatch") -> dict[str, AnyArray]:
    """Return the live arrays of a watch."""
    arrays = {"watch.starts": watch.starts}
    arrays |= prefixed("bins", watch.bins.arrays()) | prefixed("windows", watch.windows.arrays())
    arrays |= {"regimes.counts": watch.regimes.counts}
    if watch.learning is not None:
        arrays |= prefixed("learning", watch.learning.arrays())
    if watch.dependence is not None:
        arrays |= prefixed("dependence", watch.dependence.arrays())
    return arrays


def restore(watch: "DriftWatch", plain: StoredDrift, arrays: Arrays, columns: int) -> None:
    """Make a new watch over so many columns what `plain` and `arrays` came from; ValueError for what cannot be."""
    refuse_if(
        _STORED,
        {
            "it has other columns": plain.columns not in (0, columns),
            "a block is too full": plain.fill >= watch.options.block_events,
        },
    )
    watch.allocate(plain.columns)
    if plain.learning is not None:
        refuse_if(_STORED, {"it learns of no columns": plain.columns == 0})
        watch.learn()
    refuse_if(_STORED, {"it has other parts": (plain.dependence is None) != (watch.dependence is None)})
    names = ["watch", "bins", "windows", "regimes"]
    names += ["learning"] if plain.learning is not None else []
    names += ["dependence"] if plain.dependence is not None else []
    parts = by_part(_STORED, arrays, names)
    check_like(_STORED, parts["watch"], {"starts": watch.starts})
    starts = parts["watch"]["starts"]
    refuse_if(_STORED, {"a block begins nowhere": outside(starts, -COUNT_MAX, COUNT_MAX)})
    watch.bins.restore(parts["bins"])
    watch.windows.restore(plain.windows, parts["windows"], watch.bins.score, watch.windows.is_ordered)
    watch.regimes.restore(parts["regimes"])
    if watch.learning is not None and plain.learning is not None:
        watch.learning.restore(plain.learning, parts["learning"])
    if watch.dependence is not None and plain.dependence is not None:
        watch.dependence.restore(plain.dependence, parts["dependence"])
    watch.inputs.restore(plain.inputs)
    watch.predictions.restore(plain.predictions)
    watch.multivariate.restore(plain.multivariate)
    np.copyto(watch.starts, starts)
    watch.fill, watch.block_ms = plain.fill, plain.block_ms
    watch.open_blocks, watch.open_dependence = plain.open_blocks, plain.open_dependence
