"""When challengers are fitted again, on which rows, and what is under way.

Requested after so many labels and so much event time, or soon after concept drift was told; taken over after some more
labels and time. Everything is looked at after each `GRID_LABELS` labels only, so all are positions of the stream and a
replay finds them again (law 2). A fit that is not done when it is to be taken over is waited for.

Every now and then the turn is that of a search instead: successive halving over the options of one challenger.
"""

from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from worker.core.detectors.refit import FitTicket
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import I64
from worker.core.kernels.reservoir import LARGEST
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.challengers import (
    BoostedRequest,
    ChallengerModel,
    ChallengerPool,
    LabelledRows,
    LinearRequest,
)
from worker.core.maintenance.halving import ROWS_MIN, HalvingOutcome, HalvingRequest, candidates_around
from worker.core.maintenance.labelled_buffer import NUMBER, OFFSET, LabelledBuffer
from worker.core.maintenance.linear_arrays import LinearArrays
from worker.core.options.maintenance import BoostedOptions, MaintenanceOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, by_part, check_like, outside, refuse_if

GRID_LABELS = 200
"""Labels after which it is looked at what is due."""
SEARCH_CLASSES_MAX = 2
SEARCH_TAKEOVER_MS = 60_000
"""A search takes seconds."""
_STORED = "stored fits of challengers"
_CODE_MAX = 2**31
_TABLE = 2

FittedName: TypeAlias = Literal["recent", "all", "linear"]
FITTED: tuple[FittedName, ...] = ("recent", "all", "linear")
TUNED: tuple[Literal["recent", "all"], ...] = ("recent", "all")
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Search: TypeAlias = FitTicket[HalvingOutcome]


class Trained(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was fitted on: offsets of predictions, rows; and the number of the fit."""

    first: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]
    last: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]
    rows: _Count
    fit: _Count
    codes: list[_Count]
    """Largest code of each column among the rows, 0 for none: the categories that the model knows."""


class StoredFits(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    fits: _Count = 0
    searches: _Count = 0
    failed: _Count = 0
    requested_at: _Count = 0
    requested_ms: _Count = 0
    searched_at: _Count = 0
    searched_ms: _Count = 0
    searched_fits: _Count = 0
    """Fits by the latest search: at many labels a minute it must not take every turn."""
    is_drifted: bool = False
    under_way: Literal["fits", "search"] | None = None
    options: dict[Literal["recent", "all"], BoostedOptions] = {}
    trained: dict[FittedName, Trained] = {}
    wanted: dict[FittedName, Trained] = {}
    """Of the fits under way."""


class Tuned(NamedTuple):
    """What a search has found for a challenger, if that is better than what it had."""

    name: Literal["recent", "all"]
    options: BoostedOptions
    former: BoostedOptions
    outcome: HalvingOutcome


class ChallengerFits:
    """The models of the challengers that are fitted, and the one request under way."""

    def __init__(
        self, names: tuple[str, ...], n_classes: int, options: MaintenanceOptions, pool: ChallengerPool, seed: int
    ) -> None:
        self._names = tuple(name for name in FITTED if name in names)
        self._n_classes, self._options, self._pool, self._seed = n_classes, options, pool, seed
        self._stored = StoredFits(options={"recent": options.recent, "all": options.all})
        self._rows: dict[str, LabelledRows] = {}
        self._tickets: dict[FittedName, FitTicket[ChallengerModel]] = {}
        self._search: _Search | None = None
        self.models: dict[str, ChallengerModel] = {}

    @property
    def trained(self) -> dict[FittedName, Trained]:
        """What each model was fitted on."""
        return self._stored.trained

    @property
    def fits(self) -> int:
        """Fits requested so far."""
        return self._stored.fits

    def seed(self, name: str, fit: int) -> int:
        """Return the seed of a fit, by its number; 0 where there is no chance in it."""
        return 0 if name == "linear" else derived_seed("challenger", self._seed, name, fit)

    def drifted(self) -> None:
        """Concept drift was told: the next fit is due soon."""
        self._stored = msgspec.structs.replace(self._stored, is_drifted=True)

    def cross(self, labels: int, now_ms: int, buffer: LabelledBuffer) -> tuple[list[FittedName], Tuned | None]:
        """Do what is due after so many labels, at this event time: request, or take over (waiting for it).

        Return which models are new, and what a search has found.
        """
        if self._stored.under_way == "fits" and self._is_over(labels, now_ms, self._options.takeover_ms):
            return self._take_over(), None
        if self._stored.under_way == "search" and self._is_over(labels, now_ms, SEARCH_TAKEOVER_MS):
            return [], self._take_found()
        if self._stored.under_way is None:
            self._request_due(labels, now_ms, buffer)
        return [], None

    def _is_over(self, labels: int, now_ms: int, wait_ms: int) -> bool:
        stored = self._stored
        # A watermark that was set back must not hold a fit up for ever.
        waited_ms = now_ms - min(stored.requested_ms, now_ms)
        is_back = now_ms < stored.requested_ms
        return labels >= stored.requested_at + self._options.takeover_labels and (is_back or waited_ms >= wait_ms)

    def _request_due(self, labels: int, now_ms: int, buffer: LabelledBuffer) -> None:
        stored, options = self._stored, self._options
        if not self._names or buffer.seen < options.fit_rows_min:
            return
        wait = options.drift_refit_labels if stored.is_drifted else options.refit_labels
        is_back = now_ms < stored.requested_ms
        rested = is_back or now_ms - stored.requested_ms >= options.refit_interval_ms
        if stored.fits == 0 or (labels >= stored.requested_at + wait and rested):
            if self._is_search_due(labels, now_ms, buffer):
                self._begin_search(labels, now_ms, buffer)
            else:
                self._begin_fits(labels, now_ms, buffer)

    def _is_search_due(self, labels: int, now_ms: int, buffer: LabelledBuffer) -> bool:
        wait, stored = self._options.search_labels, self._stored
        enough = buffer.seen >= max(ROWS_MIN, self._options.fit_rows_min) and stored.fits > stored.searched_fits
        # A tree for each class and step: with five classes a search takes 18 s instead of 3 s.
        enough = enough and self._n_classes <= SEARCH_CLASSES_MAX
        is_back = now_ms < stored.searched_ms
        rested = is_back or now_ms - stored.searched_ms >= self._options.search_interval_ms or stored.searches == 0
        return wait > 0 and enough and rested and bool(self._tunable) and labels >= stored.searched_at + wait

    @property
    def _tunable(self) -> tuple[Literal["recent", "all"], ...]:
        """Whose rows can be enough for a search."""
        rows_max = {"recent": self._options.recent_rows, "all": self._options.sampled_rows}
        return tuple(name for name in TUNED if name in self._names and rows_max[name] >= ROWS_MIN)

    # Fits.

    def _begin_fits(self, labels: int, now_ms: int, buffer: LabelledBuffer) -> None:
        rows, marks = {}, {}
        if {"recent", "linear"} & set(self._names):
            rows["recent"], marks["recent"] = (
                buffer.recent(self._options.recent_rows, self._n_classes),
                buffer.recent_marks(),
            )
        if "all" in self._names:
            rows["all"], marks["all"] = buffer.sampled(self._n_classes), buffer.sampled_marks()
        number = self._stored.fits + 1
        self._stored = msgspec.structs.replace(
            self._stored,
            fits=number,
            requested_at=labels,
            requested_ms=now_ms,
            is_drifted=False,
            under_way="fits",
            wanted={name: _trained(rows[source], marks[source], number) for name, source in self._sources.items()},
        )
        self._submit(rows)

    def _submit(self, rows: dict[str, LabelledRows]) -> None:
        self._rows = rows
        for name in self._names:
            own = rows[self._sources[name]]
            if name == "linear":
                self._tickets[name] = self._pool.fit_challenger(LinearRequest(own, self._options.linear))
            else:
                seed = self.seed(name, self._stored.fits)
                self._tickets[name] = self._pool.fit_challenger(BoostedRequest(own, self._stored.options[name], seed))

    def _take_over(self) -> list[FittedName]:
        taken: list[FittedName] = []
        failed = self._stored.failed
        for name, ticket in self._tickets.items():
            try:
                self.models[name] = ticket.result()
                taken.append(name)
            except ValueError:
                # Rows that nothing can be fitted on, such as too many classes for its trees: it keeps what it has.
                failed += 1
        wanted = self._stored.wanted
        self._rows, self._tickets = {}, {}
        self._stored = msgspec.structs.replace(
            self._stored,
            failed=failed,
            under_way=None,
            trained=self._stored.trained | {name: wanted[name] for name in taken},
            wanted={},
        )
        return taken

    # Searches.

    def _begin_search(self, labels: int, now_ms: int, buffer: LabelledBuffer) -> None:
        searches = self._stored.searches + 1
        self._stored = msgspec.structs.replace(
            self._stored,
            searches=searches,
            searched_at=labels,
            searched_ms=now_ms,
            searched_fits=self._stored.fits,
            requested_at=labels,
            requested_ms=now_ms,
            under_way="search",
        )
        name = self._searched
        if name == "recent":
            rows = buffer.recent(self._options.recent_rows, self._n_classes)
        else:
            rows = buffer.sampled(self._n_classes)
            order = np.argsort(buffer.sampled_marks()[:, NUMBER], kind="stable")
            rows = LabelledRows(rows.rows[order], rows.targets[order], self._n_classes)
        self._submit_search(rows)

    @property
    def _searched(self) -> Literal["recent", "all"]:
        """Whose turn the latest search is."""
        return self._tunable[self._stored.searches % len(self._tunable)]

    def _submit_search(self, rows: LabelledRows) -> None:
        self._rows = {"search": rows}
        seed = derived_seed("search", self._seed, self._stored.searches)
        candidates = candidates_around(self._stored.options[self._searched], seed)
        self._search = self._pool.fit_challenger(HalvingRequest(rows, candidates, seed))

    def _take_found(self) -> Tuned | None:
        stored, name = self._stored, self._searched
        former, seed = stored.options[name], derived_seed("search", self._seed, stored.searches)
        found: Tuned | None = None
        failed = stored.failed
        try:
            outcome = None if self._search is None else self._search.result()
            if outcome is not None and outcome.chosen != 0:
                found = Tuned(name, candidates_around(former, seed)[outcome.chosen], former, outcome)
        except ValueError:
            failed += 1
        self._rows, self._search = {}, None
        options = stored.options if found is None else stored.options | {name: found.options}
        self._stored = msgspec.structs.replace(stored, under_way=None, options=options, failed=failed)
        return found

    # Storing and restoring.

    def plain(self) -> StoredFits:
        """Return the plain part of the state."""
        return self._stored

    def arrays(self) -> dict[str, AnyArray]:
        """Return the models as bytes, and the rows of the request under way."""
        arrays: dict[str, AnyArray] = {
            f"model.{name}": np.frombuffer(model.to_bytes(), dtype=np.uint8) for name, model in self.models.items()
        }
        for name, rows in self._rows.items():
            arrays |= {f"rows.{name}": rows.rows, f"targets.{name}": rows.targets}
        return arrays

    def restore(self, plain: StoredFits, arrays: Arrays, features: int) -> None:
        """Take over copies; what was under way is requested again. ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ("model", "rows", "targets"))
        expected = {None: set[str](), "search": {"search"}, "fits": set(self._sources.values())}
        refuse_if(
            _STORED,
            {
                "a model has no range of rows, or the reverse": set(parts["model"]) != set(plain.trained),
                "there is a model of an unknown kind": not set(parts["model"]) <= set(self._names),
                "the rows are not those of the request": set(parts["rows"]) != expected[plain.under_way]
                or set(parts["targets"]) != set(parts["rows"]),
                "the wanted models are others": set(plain.wanted)
                != (set(self._names) if plain.under_way == "fits" else set()),
                "there are options for another challenger": set(plain.options) != set(TUNED),
                "nothing can be searched for": plain.under_way == "search" and not self._tunable,
            },
        )
        self._stored = plain
        self.models = {name: self._model(name, array.tobytes(), features) for name, array in parts["model"].items()}
        rows = {name: self._labelled(parts["rows"][name], parts["targets"][name], features) for name in parts["rows"]}
        widths = [(trained, self.models[name].n_features) for name, trained in plain.trained.items()]
        widths += [(wanted, rows[self._sources[name]].rows.shape[1]) for name, wanted in plain.wanted.items()]
        are_others = any(len(trained.codes) != width for trained, width in widths)
        refuse_if(_STORED, {"the categories of a model are those of other features": are_others})
        if plain.under_way == "fits":
            self._submit(rows)
        elif plain.under_way == "search":
            self._submit_search(rows["search"])

    @property
    def _sources(self) -> dict[FittedName, str]:
        """Which rows each model is fitted on."""
        return {name: "all" if name == "all" else "recent" for name in self._names}

    def _model(self, name: str, stored: bytes, features: int) -> ChallengerModel:
        model = LinearArrays.from_bytes(stored) if name == "linear" else BoostedArrays.from_bytes(stored)
        refuse_if(
            _STORED,
            {
                "a model has too many features": model.n_features > features,
                "a model has other classes": model.target.n_classes != self._n_classes,
            },
        )
        return model

    def _labelled(self, rows: AnyArray, targets: AnyArray, features: int) -> LabelledRows:
        most, classes = max(self._options.recent_rows, self._options.sampled_rows), self._n_classes
        refuse_if(_STORED, {"rows are no table": rows.ndim != _TABLE})
        like = {"rows": blank(np.float32, *rows.shape), "targets": blank(np.float64, len(rows))}
        check_like(_STORED, {"rows": rows, "targets": targets}, like)
        refuse_if(
            _STORED,
            {
                "there are too many rows": not 0 < len(rows) <= most,
                "rows have too many features": not 0 < rows.shape[1] <= features,
                "a feature is out of range": bool((np.abs(rows) > LARGEST).any()),
                "a target is not finite": not np.isfinite(targets).all(),
                "a target is no class": classes > 0
                and (outside(targets, 0, classes - 1) or bool((targets != np.floor(targets)).any())),
            },
        )
        return LabelledRows(rows.copy(), targets.copy(), self._n_classes)


def _trained(labelled: LabelledRows, marks: I64, fit: int) -> Trained:
    offsets = marks[:, OFFSET]
    codes = np.clip(np.fmax.reduce(labelled.rows, axis=0, initial=0.0), 0.0, _CODE_MAX).astype(np.int64)
    return Trained(int(offsets.min()), int(offsets.max()), len(offsets), fit, codes.tolist())
