"""What two lists of incidents have in common, and what not.

Incidents are the same if they have the same id, or the same fingerprint and were open at the same time: labels can come
together with predictions in another order than the first time, and what rests on them then opens a little earlier or
later. When an incident ended is no difference: a replay may end before that.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from msgspec import Struct

from worker.replay.incidents import Incident, in_order


class Pair(Struct, frozen=True):
    """The same incident on both sides."""

    published: Incident
    replayed: Incident

    @property
    def shift_ms(self) -> int:
        """How much later the replayed one opened; negative: earlier."""
        return self.replayed.opened_ms - self.published.opened_ms

    @property
    def shifted(self) -> bool:
        """Whether it is the same by its time only."""
        return self.published.incident_id != self.replayed.incident_id


class Difference(Struct, frozen=True):
    """All incidents that count, oldest first."""

    only_published: list[Incident]
    only_replayed: list[Incident]
    both: list[Pair]

    @property
    def differences(self) -> int:
        """How many incidents are on one side only."""
        return len(self.only_published) + len(self.only_replayed)

    @property
    def published(self) -> list[Incident]:
        """All that was published."""
        return in_order([*self.only_published, *(pair.published for pair in self.both)])


class Caught(Struct, frozen=True):
    """Incidents that must not get lost, and how many of them are there in the replay."""

    what: Literal["true_positive", "critical"]
    published: int
    still: int


class KindCount(Struct, frozen=True):
    """Incidents of one kind."""

    kind: str
    published: int
    replayed: int
    both: int


def compare(
    published: Sequence[Incident], replayed: Sequence[Incident], counts: Callable[[Incident], bool]
) -> Difference:
    """Find pairs among all incidents, then keep those that count; of a pair, the published one decides.

    So an incident that opened near the end of the range on one side, and beyond it on the other, is no difference.
    """
    by_id = {incident.incident_id: incident for incident in replayed}
    pairs = [Pair(incident, by_id.pop(incident.incident_id)) for incident in published if incident.incident_id in by_id]
    paired = {pair.published.incident_id for pair in pairs}
    left = in_order(incident for incident in published if incident.incident_id not in paired)
    near, only_published, only_replayed = _by_time(left, in_order(by_id.values()))
    both = sorted([*pairs, *near], key=lambda pair: (pair.published.opened_ms, pair.published.incident_id))
    return Difference(
        [incident for incident in only_published if counts(incident)],
        [incident for incident in only_replayed if counts(incident)],
        [pair for pair in both if counts(pair.published)],
    )


def _by_time(
    published: Sequence[Incident], replayed: Sequence[Incident]
) -> tuple[list[Pair], list[Incident], list[Incident]]:
    """Pair what has one fingerprint and overlaps, nearest openings first; return the pairs and both rests."""
    candidates = defaultdict(list)
    for incident in replayed:
        candidates[incident.fingerprint].append(incident)
    found = sorted(
        (abs(other.opened_ms - incident.opened_ms), incident.opened_ms, incident.incident_id, other.incident_id)
        for incident in published
        for other in candidates[incident.fingerprint]
        if incident.overlaps(other)
    )
    left, right = ({each.incident_id: each for each in side} for side in (published, replayed))
    pairs = []
    for *_, mine, other in found:
        if mine in left and other in right:
            pairs.append(Pair(left.pop(mine), right.pop(other)))
    return pairs, list(left.values()), list(right.values())


def caught(difference: Difference, marked: Collection[str]) -> Caught:
    """Tell how many of those that people have marked as true positives are there; without marks, of the critical."""
    published = difference.published
    known = {incident.incident_id for incident in published if incident.incident_id in marked}
    wanted = known or {incident.incident_id for incident in published if incident.severity == "critical"}
    still = sum(pair.published.incident_id in wanted for pair in difference.both)
    return Caught("true_positive" if known else "critical", len(wanted), still)


def by_kind(difference: Difference) -> list[KindCount]:
    """Count by kind, in alphabetical order."""
    both = Counter(pair.published.kind for pair in difference.both)
    published = Counter(incident.kind for incident in difference.only_published) + both
    replayed = Counter(incident.kind for incident in difference.only_replayed) + both
    return [KindCount(kind, published[kind], replayed[kind], both[kind]) for kind in sorted(published | replayed)]
