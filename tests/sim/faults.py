"""What can go wrong, where, and when: drawn from the seed, counted, and over at some point.

A fault is armed first and strikes at the next place where it can. So rare places are met as often as frequent ones.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple


class SimCrash(BaseException):
    """The process is gone: nothing may catch it, as nothing survives a kill -9."""


class Site(StrEnum):
    """A place where a worker talks to the outside world; each one is just before something takes effect there."""

    POLL = "membership.poll"
    COMMITTED = "membership.committed"
    LEAVE = "membership.close"
    ATTACH = "source.attach"
    DETACH = "source.detach"
    FETCH = "source.fetch"
    BOUNDS = "history.bounds"
    OPEN = "history.open"
    READ = "reader.read"
    BEGIN = "sink.begin"
    RECORD = "sink.record"
    FLUSH = "sink.flush"
    OFFSETS = "sink.offsets"
    END = "sink.end"
    ENDED = "sink.ended"
    ABORT = "sink.abort"
    REPLACE = "sink.replace"
    PAUSE = "clock.pause"
    PUT = "artefacts.put"


class Fault(StrEnum):
    """What goes wrong. Values are what reports call it."""

    CRASH = "crash"
    """kill -9."""
    FREEZE = "freeze"
    """The process stands still, heartbeats and all (SIGSTOP), and comes back as a zombie or in time."""
    SLOW = "slow"
    """A call takes long; heartbeats go on."""
    CUT_OFF = "cut_off"
    """Heartbeats do not arrive for a while, though the process works on."""
    ABORTED = "aborted"
    """The broker refuses the positions: another generation."""
    RECORD_LOST = "record_lost"
    """A record is not delivered in time: the outcome is unknown."""
    OFFSETS_LOST = "offsets_lost"
    """Positions never arrive, and no answer comes."""
    OFFSETS_UNANSWERED = "offsets_unanswered"
    """Positions arrive, but no answer comes."""
    END_LOST = "end_lost"
    """The end never arrives, and no answer comes."""
    END_UNANSWERED = "end_unanswered"
    """The end arrives, but no answer comes."""
    END_LATE = "end_late"
    """No answer comes; the end arrives later."""
    ABORT_LOST = "abort_lost"
    """The request to abort gets no answer."""
    FENCED = "fenced"
    """Another process takes over the transactional id."""
    SINK_DOWN = "sink_down"
    """No new producer can be built."""
    UNSTABLE = "unstable"
    """Committed positions cannot be told."""
    UNAVAILABLE = "unavailable"
    """What a partition holds cannot be told."""
    NOTHING_READ = "nothing_read"
    """A read comes back empty, though there is something."""
    SOURCE_DOWN = "source_down"
    """The source cannot go on."""
    STORE_DOWN = "store_down"
    """The store of models does not answer."""
    STOP = "stop"
    """SIGTERM; another worker starts later."""
    JOIN = "join"
    """One more worker for a while."""
    TWIN = "twin"
    """A second worker starts under the name of one that still runs."""
    COMPACT = "compact"
    """The broker compacts the state topic."""
    RETAIN = "retain"
    """Retention removes input that no snapshot needs."""
    RETAIN_LESS = "retain_less"
    """Retention removes input that a restore needs: it must be refused."""
    CLOCK = "clock_jump"
    """The wall clock jumps."""
    DAMAGE = "damage"
    """A bit of the newest snapshot flips."""


# Right behind a model lies a transaction: whoever dies there has stored a model in vain. And not every run has models.
ANYWHERE = tuple(site for site in Site if site is not Site.PUT)
PLACES: Mapping[Fault, Sequence[Site]] = {
    Fault.CRASH: ANYWHERE,
    Fault.FREEZE: ANYWHERE,
    Fault.SLOW: ANYWHERE,
    Fault.CUT_OFF: ANYWHERE,
    Fault.ABORTED: [Site.OFFSETS],
    Fault.RECORD_LOST: [Site.RECORD],
    Fault.OFFSETS_LOST: [Site.OFFSETS],
    Fault.OFFSETS_UNANSWERED: [Site.OFFSETS],
    Fault.END_LOST: [Site.END],
    Fault.END_UNANSWERED: [Site.END],
    Fault.END_LATE: [Site.END],
    Fault.ABORT_LOST: [Site.ABORT],
    Fault.FENCED: [Site.BEGIN, Site.RECORD, Site.OFFSETS, Site.END],
    Fault.SINK_DOWN: [Site.REPLACE],
    Fault.UNSTABLE: [Site.COMMITTED],
    Fault.UNAVAILABLE: [Site.BOUNDS],
    Fault.NOTHING_READ: [Site.FETCH, Site.READ],
    Fault.SOURCE_DOWN: [Site.FETCH, Site.READ, Site.BOUNDS],
    Fault.STORE_DOWN: [Site.PUT],
}
"""Where the faults of single calls strike; the others happen to the cluster or to whole processes, at any time."""

_PATIENCE = 60
"""An armed fault that finds no place within so many calls gives way to another."""
_IN_HANDOVER = 0.25
_IN_COMMIT = 0.35
"""So often a fault that can strike anywhere waits for a hand-over of partitions, or for a transaction."""
_COMMIT = (Site.RECORD, Site.FLUSH, Site.OFFSETS, Site.END, Site.ENDED)


class _Armed(NamedTuple):
    kind: Fault
    places: Sequence[Site]
    in_handover: bool


class Faults:
    """Decides at each site whether something goes wrong there.

    Args:
        rng: the source of all chance.
        kinds: what may go wrong in this run.
        calls_between: how many calls lie between two faults on average.
        faults_max: after so many faults there are no more.
    """

    def __init__(self, rng: random.Random, kinds: Sequence[Fault], calls_between: int, faults_max: int) -> None:
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._kinds = [kind for kind in kinds if kind in PLACES]
        self._calls_between = calls_between
        self._left = faults_max if self._kinds else 0
        self._armed: _Armed | None = None
        self._countdown = self._next()

    def at(self, site: Site, *, handing_over: bool) -> Fault | None:
        """Return what goes wrong here and now, if anything does."""
        self._countdown -= 1
        if self._countdown > 0 or self._left <= 0:
            return None
        if self._armed is None or self._countdown < -_PATIENCE:
            self._armed, self._countdown = self._arm(), 0
        kind, places, in_handover = self._armed
        if site not in places or (in_handover and not handing_over):
            return None
        self._armed, self._countdown = None, self._next()
        self._left -= 1
        self.counts[kind] += 1
        return kind

    def end(self) -> None:
        """From here on nothing goes wrong."""
        self._left = 0

    def _next(self) -> int:
        return 1 + int(self._rng.expovariate(1 / self._calls_between))

    def _arm(self) -> _Armed:
        kind = self._rng.choice(self._kinds)
        places = PLACES[kind]
        if places is not ANYWHERE:
            return _Armed(kind, places, in_handover=False)
        where = self._rng.random()
        if where < _IN_HANDOVER:
            return _Armed(kind, ANYWHERE, in_handover=True)
        if where < _IN_HANDOVER + _IN_COMMIT:
            return _Armed(kind, [self._rng.choice(_COMMIT)], in_handover=False)
        return _Armed(kind, [self._rng.choice(ANYWHERE)], in_handover=False)
