"""Maintenance of one model inside one shard: from labelled events to advice, evidence and ready artefacts.

    prediction ─► waiting row: its features, what each challenger says, the recalibration in force     said.py
    label ─────► first labels (beginning.py), then the shadow: pool, buffer, fits                      shadowing.py
    inputs ────► regimes (regime_follower.py)              incidents ─► requests for training          retraining.py

Rule 1: nothing runs before there are labels; before `begin_labels` of them nothing is judged.
Rule 2: what is said of an event is what was known when it was predicted; labels change models only after each
        `GRID_LABELS` of them, and `room` lets nobody cut across that.
Rule 3: a pool is about one version of the model. Events of another one teach challengers and judge nobody.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.columns import ColumnTable
from worker.core.events import AlertEvent
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.advising import Adviser, Moment
from worker.core.maintenance.beginning import Beginning, StoredBeginning
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.maintenance.labelled_buffer import MARKS
from worker.core.maintenance.metering import Meter
from worker.core.maintenance.offers import Offer, Offers
from worker.core.maintenance.regime_follower import RegimeFollower
from worker.core.maintenance.regimes import StoredRegimes
from worker.core.maintenance.retraining import Retraining, StoredRetraining
from worker.core.maintenance.said import Sayings
from worker.core.maintenance.segment_places import SegmentPlaces, StoredPlaces
from worker.core.maintenance.shadowing import Setting, Shadow, StoredShadow
from worker.core.maintenance.targets import check_subject
from worker.core.maintenance.waiting import NOT_KEPT, PART_ROWS_MAX
from worker.core.options import EngineOptions
from worker.core.performance.batch import Labelled
from worker.core.performance.following import Arrived
from worker.core.performance.ledger import Ledger
from worker.core.performance.segments import Segments
from worker.core.performance.values import Names
from worker.core.seen import Seen
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, prefixed, refuse_if
from worker.core.telling import Owner, Told

_STORED = "stored maintenance"
_ENDLESS = 2**31
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredMaintainer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The plain part of the state. What came later has a default, and is left out while it has that."""

    is_active: bool
    active_from: _Count
    watermark_ms: _Count
    version: str | None
    first_version: str | None
    former_version: str | None
    width: _Count
    """Columns of waiting rows; 0 while there are none."""
    beginning: StoredBeginning
    places: StoredPlaces
    offers: list[Offer]
    retraining: StoredRetraining
    regimes: StoredRegimes | None
    regime_names: list[str]
    shadow: StoredShadow | None
    thinnings: _Count = 0
    """How often the level of thinning has changed."""


class Maintainer:
    """Implements `performance.following.Follower`."""

    def __init__(
        self,
        owner: Owner,
        labels_topic: str,
        options: EngineOptions,
        columns: ColumnTable,
        segments: Segments,
        pool: ChallengerPool,
        meter: Meter,
    ) -> None:
        self._options = own = options.maintenance.of_model(owner.model_id)
        self._meter, self._features_max = meter, options.features_max
        seed = derived_seed("maintenance", options.seed, owner.model_id, owner.shard)
        threshold = options.performance.of_model(owner.model_id).threshold
        self._adviser = Adviser(owner)
        self._offers = Offers()
        self._places = SegmentPlaces(segments, len(segments.all), options.performance.segments_max)
        self._setting = Setting(own, threshold, seed, pool, columns, self._places, self._adviser, self._offers)
        self._sayings = Sayings(own.waiting_rows_max)
        self._beginning = Beginning(own)
        self._shadow: Shadow | None = None
        self._retraining = Retraining(own.retrain, labels_topic)
        self._regimes = RegimeFollower(own.regimes, seed)
        self._is_active = False
        self._active_from, self._watermark_ms = 0, 0
        self._thinnings = 0
        self._told: list[Told] = []

    def take_told(self) -> list[Told]:
        """Return what is to be told, and forget it."""
        told, self._told = self._told, []
        return told

    # What performance monitoring passes on.

    @property
    def rows_max(self) -> int:
        """The most predictions that `predicted` takes at once."""
        return PART_ROWS_MAX if self._is_active else _ENDLESS

    @property
    def room(self) -> int:
        """Predictions, each of which brings its label, up to the first after which anything may change."""
        if not self._is_active:
            return _ENDLESS
        return self._beginning.room if self._shadow is None else self._sayings.rows_until(self._shadow.room)

    def begin(self) -> None:
        """There are labels: from the next prediction on features are remembered."""
        self._is_active, self._active_from = self._options.enabled, self._sayings.seen

    def forget_segment(self, place: int, value_id: int) -> None:
        """A value of a declared segment gives way to another."""
        freed = self._places.forget(place, value_id)
        if freed is not None and self._shadow is not None:
            self._shadow.forget_place(freed)

    def predicted(self, part: Arrived) -> I64:
        """Remember predictions (n <= rows_max) and what challengers say of them; return the numbers of their rows."""
        if not self._is_active:
            self._sayings.pass_by(part)
            return np.full(len(part.events), NOT_KEPT, dtype=np.int64)
        self._meter.begin()
        self._watermark_ms = int(part.watermarks_ms[-1])
        numbers = self._sayings.predicted(part, self._shadow)
        self._meter.end()
        return numbers

    def labelled(self, batch: Labelled, ledger: Ledger, columns: Names, *, inline: bool) -> None:
        """Take in labelled events (n), in the order in which labels came."""
        if not self._is_active:
            return
        self._meter.begin()
        begin = self._look(batch, ledger, columns) if self._shadow is None else 0
        if self._shadow is not None:
            self._take(self._shadow, batch.part(slice(begin, batch.size)), ledger, columns, inline=inline)
        self._meter.end()

    def _take(self, shadow: Shadow, batch: Labelled, ledger: Ledger, columns: Names, *, inline: bool) -> None:
        """Hand labelled events to the shadow, cut where anything may change: behind the label that fills its room."""
        rows, kept = self._sayings.of(batch.numbers, batch.causes, inline=inline)
        batch = batch.part(rows)
        fresh, begin = batch.corrected == 0, 0
        while begin < batch.size:
            counted = np.cumsum(fresh[begin:])
            end = begin + int(np.searchsorted(counted, shadow.room)) + 1
            part = slice(begin, min(end, batch.size))
            epoch, now_ms = self._sayings.epoch, self._watermark_ms
            self._told += shadow.take(batch.part(part), kept.part(part), epoch, now_ms, ledger, columns)
            if shadow.is_at_grid:
                self._learn_version()
            if shadow.has_begun_anew:
                self._sayings.reshape(shadow.outputs)
                kept = kept.void(shadow.outputs)
            begin = part.stop

    def _look(self, batch: Labelled, ledger: Ledger, columns: Names) -> int:
        """Look at the first labels, with the last of which the shadow begins; return how many were looked at.

        All labels count, also of events whose features were not remembered yet: labels that come late do not make the
        beginning later still.
        """
        fresh, begin = np.flatnonzero(batch.corrected == 0), 0
        while begin < len(fresh) and self._sayings.features_known:
            part = fresh[begin : begin + self._beginning.room]
            subject = self._beginning.take(batch.part(part), ledger, columns)
            if subject is not None:
                self._shadow = Shadow(self._setting, subject, self._sayings.features)
                self._sayings.reshape(self._shadow.outputs)
                self._learn_version()
                return int(part[-1]) + 1
            begin += len(part)
        return batch.size

    def _learn_version(self) -> None:
        """Take the first version that was told for the one in service."""
        if self._sayings.version is None:
            self._sayings.version = self._adviser.version = self._sayings.first_version

    # From the monitor.

    def take_version(self, version: str | None) -> None:
        """Another version has taken over, from the next event on."""
        if self._shadow is not None:
            self._shadow.begin_version(version)
        self._adviser.begin_version(version)
        self._sayings.begin_epoch(version)

    def opened(self, alert: AlertEvent) -> None:
        """An incident has opened. It is thought about at the next tick, whose place in the journal is known."""
        if self._options.enabled:
            self._retraining.opened(alert)

    @property
    def wants_tick(self) -> bool:
        """Whether there is something to be asked for."""
        if not self._is_active:
            return False
        is_drifted = self._shadow is not None and self._retraining.is_drifted
        return is_drifted or self._retraining.is_due(self._watermark_ms, self._marks)

    @property
    def _marks(self) -> I64:
        """Marks of the latest labelled rows (n x MARKS)."""
        return np.zeros((0, MARKS), dtype=np.int64) if self._shadow is None else self._shadow.marks

    def tick(self, offset: int) -> None:
        """Ask for a training if there is reason to, and refit soon if the concept drifts."""
        shadow = self._shadow
        if not self._is_active:
            return
        self._learn_version()
        if shadow is not None and self._retraining.take_drifted():
            shadow.drifted()
        report = self._retraining.due(self._watermark_ms, 0 if shadow is None else shadow.labels, self._marks)
        if report is not None:
            self._told.append(self._adviser.retrain(report, self._moment(offset)))

    def _moment(self, offset: int) -> Moment:
        return Moment(offset, self._watermark_ms, None if self._shadow is None else self._shadow.labels)

    def thin(self, level: int, offset: int) -> None:
        """Use one in 2^level events from now on."""
        if level != self._sayings.level:
            self._sayings.thin(level)
            self._thinnings += 1
            if self._is_active:
                self._learn_version()
                self._told.append(self._adviser.thinned(level, self._thinnings, self._moment(offset)))

    def artefacts_in_use(self) -> set[str]:
        """Return where the models lie that are in service or may be taken: they must stay."""
        return self._offers.paths(self._adviser.in_service)

    def inputs(self, rows: F64, names: Sequence[str], seen: Seen) -> None:
        """Take in events (n x d) as detectors see them: their regimes are followed once there are labels."""
        begin = max(self._active_from - seen.first_sequence, 0)
        if not self._is_active or not self._options.regimes.enabled or begin >= len(rows):
            return
        self._meter.begin()
        chosen = begin + np.flatnonzero(self._sayings.used(seen.first_sequence + begin, len(rows) - begin))
        for change, offset, time_ms in self._regimes.take(rows, names, seen, chosen):
            # How many labels there are by then depends on how batches are cut: it is not told.
            told = self._adviser.regime(change, Moment(offset, time_ms, None))
            self._told.append(told.of_version(seen.version_at(offset)))
        self._meter.end()

    # Storing and restoring.

    def plain(self) -> StoredMaintainer:
        """Return the plain part of the state."""
        return StoredMaintainer(
            is_active=self._is_active,
            active_from=self._active_from,
            watermark_ms=self._watermark_ms,
            version=self._sayings.version,
            first_version=self._sayings.first_version,
            former_version=self._adviser.former_version,
            width=self._sayings.features,
            beginning=self._beginning.plain(),
            places=self._places.plain(),
            offers=list(self._offers.all),
            retraining=self._retraining.state(),
            regimes=self._regimes.plain(),
            regime_names=list(self._regimes.names),
            shadow=None if self._shadow is None else self._shadow.plain(),
            thinnings=self._thinnings,
        )

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        return {
            **prefixed("sayings", self._sayings.arrays()),
            **prefixed("beginning", self._beginning.arrays()),
            **prefixed("regimes", self._regimes.arrays()),
            **prefixed("shadow", {} if self._shadow is None else self._shadow.arrays()),
        }

    def restore(self, plain: StoredMaintainer, arrays: Arrays, ledger: Ledger | None) -> None:
        """Take over copies of what `plain` and `arrays` gave, with the books restored; ValueError if they cannot be."""
        parts = by_part(_STORED, arrays, ("sayings", "beginning", "regimes", "shadow"))
        refuse_if(
            _STORED,
            {
                "it works, and should not": plain.is_active and not self._options.enabled,
                "it has a pool, and does not work": plain.shadow is not None and not plain.is_active,
                "rows have too many columns": plain.width > self._features_max,
                "rows have less columns than before": plain.shadow is not None
                and not plain.shadow.features <= plain.shadow.width <= plain.width,
            },
        )
        self._is_active, self._active_from = plain.is_active, plain.active_from
        self._watermark_ms, self._thinnings = plain.watermark_ms, plain.thinnings
        self._adviser.version, self._adviser.former_version = plain.version, plain.former_version
        self._beginning.restore(plain.beginning, parts["beginning"])
        self._places.restore(plain.places)
        self._offers.restore(plain.offers, set(self._options.challengers))
        self._retraining.restore(plain.retraining)
        self._regimes.restore(plain.regimes, plain.regime_names, parts["regimes"])
        outputs = 0
        if plain.shadow is not None:
            check_subject(plain.shadow.subject, ledger)
            self._shadow = Shadow(self._setting, plain.shadow.subject, plain.shadow.features)
            self._shadow.restore(plain.shadow, parts["shadow"])
            outputs = self._shadow.outputs
        versions = plain.version, plain.first_version
        self._sayings.restore(parts["sayings"], versions, plain.width, outputs)
