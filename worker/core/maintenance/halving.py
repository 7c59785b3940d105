"""Successive halving over options of boosted challengers: what is asked for, what came of it, what is worth trying.

Many candidates get few rows, the better half of them gets twice as many, and so on (Jamieson & Talwalkar 2016,
"Non-stochastic best arm identification and hyperparameter optimization", section 3; Li et al. 2018, "Hyperband",
section 2). The search itself is `halving_fit.py`; nothing here loads scikit-learn.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, Self

import msgspec
from msgspec import Meta, Struct

from worker.core.identity import derived_seed
from worker.core.maintenance.challengers import LabelledRows, StoredRows
from worker.core.options.maintenance import BoostedOptions
from worker.core.state import refuse_if

CANDIDATES = 12
"""How many `candidates_around` gives at most."""
CANDIDATES_MAX = 64
ERRORS_MIN = 2.0
"""Standard errors by which other options must be better than those in use: it is the best of some that is compared.
Against the defaults on three streams, two or three seeds: at worst 0.001 is lost with 2, 0.003 with 1."""
RUNGS_MAX = 3
"""The first rung has a quarter of the rows, the last all."""
ROWS_MIN = 400
"""Fewer labelled rows than this can judge nothing."""

_STORED = "outcome of a halving"
_DRAWS_MAX = 1_000


class HalvingRequest(NamedTuple):
    """A search; equal requests give equal outcomes, anywhere."""

    labelled: LabelledRows
    """In the order of time, at least ROWS_MIN: the newest quarter judges."""
    candidates: tuple[BoostedOptions, ...]
    """The first are the options in use."""
    seed: int

    @property
    def kind(self) -> str:
        """Name among requests for fits."""
        return "halving"

    def fit(self) -> "HalvingOutcome":
        """Search, here and now: seconds. Raises ValueError beyond the limits."""
        # scikit-learn takes more than a second to load, and nothing that scores events needs it.
        from worker.core.maintenance.halving_fit import halve  # noqa: PLC0415 (see above)

        return halve(self)

    def to_bytes(self) -> bytes:
        """Return the request as it crosses to another process."""
        return msgspec.msgpack.encode(_Request(StoredRows.of(self.labelled), self.candidates, self.seed))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Undo `to_bytes`."""
        stored = msgspec.msgpack.decode(payload, type=_Request)
        return cls(stored.labelled.labelled(), stored.candidates, stored.seed)

    @staticmethod
    def fitted_from(reply: bytes) -> "HalvingOutcome":
        """Return the outcome that `HalvingOutcome.to_bytes` stored."""
        return HalvingOutcome.from_bytes(reply)


class Trial(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How far one candidate got."""

    rungs: Annotated[int, Meta(ge=0, le=RUNGS_MAX)]
    """On how many rungs it was judged; 0: it has too many trees or nodes, which more than two classes multiply."""
    loss: Annotated[float, Meta(ge=0.0)] | None
    """Mean loss on the judged rows at its last rung: Brier score (sum over classes) or squared error; None: no rung."""


class HalvingOutcome(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a search found."""

    chosen: Annotated[int, Meta(ge=0, lt=CANDIDATES_MAX)]
    """Index of the candidate to go on with; 0: the options in use stay."""
    trials: Annotated[tuple[Trial, ...], Meta(min_length=1, max_length=CANDIDATES_MAX)]
    """Of each candidate, in the order of the request."""
    judged: Annotated[int, Meta(ge=1)]
    """How many rows judged."""
    gain: float
    """Mean loss of the options in use less that of the best other candidate of the last rung, over the judged rows."""
    gain_error: Annotated[float, Meta(ge=0.0)]
    """Standard error of `gain`, from means of consecutive blocks."""

    def to_bytes(self) -> bytes:
        """Return a msgpack record."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return what `to_bytes` stored. Raises ValueError, with the reason, for anything else."""
        try:
            outcome = msgspec.msgpack.decode(payload, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{_STORED}: {error}") from None
        trials, chosen = outcome.trials, outcome.chosen
        numbers = (outcome.gain, outcome.gain_error, *(trial.loss or 0.0 for trial in trials))
        refuse_if(
            _STORED,
            {
                "a number is not finite": not all(map(math.isfinite, numbers)),
                "the chosen candidate is none": chosen >= len(trials),
                "a candidate has a loss and no rung, or a rung and no loss": any(
                    (trial.rungs > 0) != (trial.loss is not None) for trial in trials
                ),
            },
        )
        rungs = max(trial.rungs for trial in trials)
        refuse_if(
            _STORED,
            {
                "no candidate was judged": rungs == 0,
                "the options in use were not judged to the end": trials[0].rungs != rungs,
                "the chosen candidate was not judged to the end": trials[chosen].rungs != rungs,
                "another candidate was chosen without being better": chosen > 0
                and outcome.gain <= ERRORS_MIN * outcome.gain_error,
            },
        )
        return outcome


class _Request(Struct, array_like=True, frozen=True):
    labelled: StoredRows
    candidates: tuple[BoostedOptions, ...]
    seed: int


# --------------------------------------------------------------------------------------------------------- candidates


def candidates_around(options: BoostedOptions, seed: int) -> tuple[BoostedOptions, ...]:
    """Return up to CANDIDATES different options: those in use first, then some that differ in one or in three axes.

    A random search (Bergstra & Bengio 2012) near what is there: equal arguments give equal candidates. What is moved
    stays within bounds that a fit can afford, however often a search starts from the result of the last one.
    """
    found = [options]
    for draw in range(_DRAWS_MAX):
        if len(found) == CANDIDATES:
            break
        moved, axes = options, list(_AXES)
        for step in range(1 + 2 * (draw % 2)):
            axis = axes.pop(derived_seed("axis", seed, draw, step) % len(axes))
            moves = _AXES[axis]
            moved = moves[derived_seed("move", seed, draw, step) % len(moves)](moved)
        if moved not in found:
            found.append(moved)
    return tuple(found)


def _leaves(factor: float) -> Callable[[BoostedOptions], BoostedOptions]:
    return lambda old: _with(old, leaves_max=_within(old.leaves_max * factor, 4, 64))


def _leaf_rows(factor: float) -> Callable[[BoostedOptions], BoostedOptions]:
    return lambda old: _with(old, leaf_rows_min=_within(old.leaf_rows_min * factor, 5, 200))


def _l2(factor: float) -> Callable[[BoostedOptions], BoostedOptions]:
    # From no penalty at all there is a way up, and none down.
    return lambda old: _with(old, l2=min(max(old.l2, 0.1) * factor, 100.0) if factor > 1.0 or old.l2 else 0.0)


def _steps(iterations: float, rate: float) -> Callable[[BoostedOptions], BoostedOptions]:
    return lambda old: _with(
        old,
        iterations=_within(old.iterations * iterations, 25, 200),
        learning_rate=min(max(old.learning_rate * rate, 0.02), 0.4),
    )


_AXES: dict[str, tuple[Callable[[BoostedOptions], BoostedOptions], ...]] = {
    "leaves_max": (_leaves(0.25), _leaves(0.5), _leaves(2.0)),
    "leaf_rows_min": (_leaf_rows(1 / 3), _leaf_rows(3.0)),
    "l2": (_l2(0.1), _l2(10.0), _l2(30.0)),
    "steps": (_steps(0.5, 1.0), _steps(0.5, 2.0), _steps(1.0, 0.5), _steps(1.0, 2.0), _steps(2.0, 0.5)),
}


def _with(old: BoostedOptions, **changes: float) -> BoostedOptions:
    return msgspec.structs.replace(old, **changes)


def _within(value: float, low: int, high: int) -> int:
    return min(max(round(value), low), high)
