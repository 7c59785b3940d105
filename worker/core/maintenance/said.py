"""What challengers say of an event when it is predicted, kept until its label comes.

    features ─► float32 cells ─► each challenger ─► outputs ─┐
                   └──────────────────────────────────────────┴─► waiting row

Cells are what challengers are fitted on later: the same numbers, so that a threshold of a tree lies between them.
"""

from typing import NamedTuple, Protocol

import numpy as np

from worker.core.arrivals import PredictionEvents
from worker.core.journal import THINNING_MAX
from worker.core.kernels.arrays import F32, F64, I32, I64, Bool
from worker.core.kernels.reservoir import LARGEST
from worker.core.kernels.shadow import rows_until_used, used_by_thinning
from worker.core.maintenance.challenger_fits import ChallengerFits
from worker.core.maintenance.online import OnlineChallenger
from worker.core.maintenance.recalibration import UNKNOWN_GENERATION
from worker.core.maintenance.targets import NUMBER_MAX, Subject
from worker.core.maintenance.waiting import NOT_KEPT, PART_ROWS_MAX, WaitingRows
from worker.core.performance.following import Arrived
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, outside, refuse_if


class Kept(NamedTuple):
    """Rows of labelled events that are still there (n): what was known and said when they were predicted."""

    cells: F32
    outputs: F32
    generations: I64
    epochs: I32

    def part(self, rows: slice) -> "Kept":
        """Return some of the rows."""
        return Kept(self.cells[rows], self.outputs[rows], self.generations[rows], self.epochs[rows])

    def void(self, outputs: int) -> "Kept":
        """Return the rows without what was said: by a pool that is gone. The new one says so many numbers."""
        count = len(self.cells)
        nothing = np.full((count, outputs), np.nan, dtype=np.float32)
        return self._replace(outputs=nothing, generations=np.full(count, UNKNOWN_GENERATION, dtype=np.int64))


_NOTHING_KEPT = Kept(
    np.zeros((0, 0), dtype=np.float32),
    np.zeros((0, 0), dtype=np.float32),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int32),
)
_COUNTERS_MAX = (COUNT_MAX, 2**31 - 1, THINNING_MAX)
_TABLE = 2
_STORED = "stored sayings"
_NO_PART: tuple[I64, I64] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


class Sayings:
    """Follows predictions. Tells them apart by the version of the model: an epoch is the time of one."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self.waiting: WaitingRows | None = None
        # Events so far; epoch; level of thinning.
        self._counters: I64 = np.zeros(3, dtype=np.int64)
        self.version: str | None = None
        self.first_version: str | None = None
        """The first version that an event has told."""
        self._part = _NO_PART

    @property
    def seen(self) -> int:
        """Events so far."""
        return int(self._counters[0])

    @property
    def epoch(self) -> int:
        """The number of the version in service."""
        return int(self._counters[1])

    @property
    def level(self) -> int:
        """One in 2^level events is used."""
        return int(self._counters[2])

    def thin(self, level: int) -> None:
        """Use one in 2^level events from now on."""
        self._counters[2] = level

    def used(self, first: int, count: int) -> Bool:
        """Return which of so many events are used, the first of which has the sequence number `first`."""
        used = np.empty(count, dtype=np.bool)
        used_by_thinning(first, self.level, used)
        return used

    def begin_epoch(self, version: str | None) -> None:
        """Another version is in service."""
        self.version = version
        self._counters[1] += 1

    def rows_until(self, wanted: int) -> int:
        """Return how many events there are up to the one that is number `wanted` of those that are used, at most."""
        return int(rows_until_used(self.seen, self.level, wanted, PART_ROWS_MAX))

    def pass_by(self, part: Arrived) -> None:
        """Count events (n) and remember nothing else of them."""
        self._counters[0] += len(part.events)
        self._note_version(part.events)

    def _note_version(self, events: PredictionEvents) -> None:
        if self.first_version is None and not events.versions_are(None):
            self.first_version = next((each for each in events.versions() if each is not None), None)

    def predicted(self, part: Arrived, speaker: "Speaker | None") -> I64:
        """Remember events (n); return the number of the row of each, -1 for those that are not used."""
        count = len(part.events)
        numbers = np.full(count, NOT_KEPT, dtype=np.int64)
        first = self.seen
        self._counters[0] += count
        epochs = self._epochs(part)
        self._part = _NO_PART
        if part.cells is None:
            return numbers
        used = self.used(first, count)
        chosen = slice(None) if used.all() else np.flatnonzero(used)
        cells = _cells(part.cells[chosen])
        waiting = self._room_for(cells.shape[1])
        outputs = np.full((len(cells), waiting.outputs.shape[1]), np.nan, dtype=np.float32)
        if speaker is not None:
            speaker.challengers.say(cells, speaker.subject, outputs)
        generation = UNKNOWN_GENERATION if speaker is None else speaker.generation
        numbers[chosen] = waiting.add(cells, outputs, epochs[chosen], generation)
        self._part = part.offsets, numbers
        return numbers

    def _epochs(self, part: Arrived) -> I32:
        """Return the epoch of each event, -1 for those of another version than the one in service."""
        self._note_version(part.events)
        epochs = np.full(len(part.events), self.epoch, dtype=np.int32)
        # Until another one takes over, the first one is in service.
        current = self.first_version if self.version is None else self.version
        if not part.events.versions_are(current):
            epochs[[each not in (current, None) for each in part.events.versions()]] = -1
        return epochs

    def _room_for(self, features: int) -> WaitingRows:
        if self.waiting is None:
            self.waiting = WaitingRows(features, 0, self._rows_max)
        elif features > self.waiting.cells.shape[1]:
            self.waiting.reshape(features, self.waiting.outputs.shape[1])
        return self.waiting

    @property
    def features_known(self) -> bool:
        """Whether an event was remembered."""
        return self.waiting is not None

    @property
    def features(self) -> int:
        """Columns of rows; 0 while there are none."""
        return 0 if self.waiting is None else int(self.waiting.cells.shape[1])

    @property
    def outputs(self) -> int:
        """Numbers that challengers say of an event."""
        return 0 if self.waiting is None else int(self.waiting.outputs.shape[1])

    def reshape(self, outputs: int) -> None:
        """From now on challengers say so many numbers of an event; what was said before is void."""
        if self.waiting is not None:
            self.waiting.reshape(self.features, outputs)
            self.waiting.void()

    def of(self, numbers: I64, causes: I64, *, inline: bool) -> tuple[I64, Kept]:
        """Return which of some labelled events (n) are still there, and what was said of them.

        Of labels that come with predictions (`inline`) only a prediction's own is used. That of one that is sent again,
        to bring it, is not: a part could have more labels than used events, and nobody could cut where they matter.
        """
        waiting = self.waiting
        if waiting is None:
            return np.zeros(0, dtype=np.int64), _NOTHING_KEPT
        newest_at = np.full(len(numbers), waiting.newest, dtype=np.int64)
        if inline:
            offsets, own = self._part
            at_cause = own[np.searchsorted(offsets, causes)] if len(offsets) else np.full(len(numbers), NOT_KEPT)
            numbers = np.where(numbers == at_cause, numbers, NOT_KEPT)
            newest_at = at_cause + 1
        places = waiting.places(numbers, newest_at)
        chosen = np.flatnonzero(places >= 0)
        at = places[chosen]
        kept = Kept(waiting.cells[at], waiting.outputs[at], waiting.generations[at], waiting.epochs[at])
        waiting.grow()
        return chosen, kept

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        own: dict[str, AnyArray] = {"counters": self._counters}
        return own if self.waiting is None else own | dict(self.waiting.arrays())

    def restore(self, arrays: Arrays, versions: tuple[str | None, str | None], features: int, outputs: int) -> None:
        """Take over copies, with the version in service and the first one; ValueError for what cannot be."""
        counters = arrays.get("counters", np.zeros(0, dtype=np.int64))
        check_like(_STORED, {"counters": counters}, {"counters": self._counters})
        refuse_if(_STORED, {"a counter is out of range": outside(counters, 0, np.array(_COUNTERS_MAX))})
        self._counters[:] = counters
        self.version, self.first_version = versions
        rest = {name: array for name, array in arrays.items() if name != "counters"}
        if rest:
            cells = rest.get("cells", np.zeros(0))
            refuse_if(_STORED, {"rows have other columns": cells.ndim != _TABLE or cells.shape[1] != features})
            self.waiting = WaitingRows(features, outputs, self._rows_max)
            self.waiting.restore(rest)


class Speaker(Protocol):
    """Who has challengers that say something of an event."""

    @property
    def subject(self) -> Subject:
        """What it is about."""
        ...

    @property
    def challengers(self) -> "Challengers":
        """Those who say something."""
        ...

    @property
    def generation(self) -> int:
        """Of the recalibration that is in force."""
        ...


class Challengers:
    """The challengers in the order of the pool: those that are fitted, and the one that learns online."""

    def __init__(self, names: tuple[str, ...], fits: ChallengerFits, online: OnlineChallenger | None) -> None:
        self.names, self.fits, self.online = names, fits, online

    def say(self, cells: F32, subject: Subject, outputs: F32) -> None:
        """Fill outputs f32[n, C x K] with what each challenger says of rows (n x d); NaN: nothing yet."""
        width = subject.outputs
        for place, name in enumerate(self.names):
            said = self._said(name, cells)
            if said is not None:
                # Of two classes, the probability of the second one is all there is to say.
                part = said[:, 1:] if subject.task == "binary" else said
                outputs[:, place * width : (place + 1) * width] = np.clip(part, -NUMBER_MAX, NUMBER_MAX)

    def _said(self, name: str, cells: F32) -> F64 | None:
        if name == "online":
            return None if self.online is None else self.online.predict(cells[:, : self.online.features])
        model = self.fits.models.get(name)
        return None if model is None else model.predict(cells[:, : model.n_features])


def _cells(cells: F64) -> F32:
    """Return cells as challengers see them: float32, nothing infinite."""
    return np.clip(cells, -LARGEST, LARGEST).astype(np.float32)
