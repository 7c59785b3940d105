"""Has a new version of the model taken over? What was learned of the old one says little about it."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.arrivals import PredictionEvents

HORIZON_EVENTS = 50
APPEARED_SHARE = 0.2
"""A version that has this share of the latest events is about to take over, or stays beside the other one."""
TAKEOVER_SHARE = 0.9
"""A version has taken over when about this share of the latest events is its; two that share the traffic never do."""


class StoredVersions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    current: str | None
    candidate: str | None
    share: Annotated[float, Meta(ge=0.0, le=1.0)]
    has_appeared: bool = False


class VersionWatch:
    """Follows the version of one model's events. Events without a version say nothing."""

    def __init__(self) -> None:
        self.current: str | None = None
        self._candidate: str | None = None
        self._share = 0.0
        self._has_appeared = False
        self.appeared_at: list[int] = []
        """Places in the events last taken in at which a version appeared or took over."""

    def until_takeover(self, events: PredictionEvents) -> int | None:
        """Take in events up to the one with which another version has taken over.

        Return how many events that were, or None if all of them were taken in without that.
        """
        self.appeared_at = []
        if self._candidate is None and events.versions_are(self.current):
            return None
        for place, version in enumerate(events.versions(), start=1):
            if version is None:
                continue
            if self._takes_over(version):
                self.appeared_at.append(place - 1)
                self._has_appeared = False
                return place
            if self._share >= APPEARED_SHARE and not self._has_appeared:
                self._has_appeared = True
                self.appeared_at.append(place - 1)
        return None

    def _takes_over(self, version: str) -> bool:
        if self.current is None:
            self.current = version
        is_other = version not in (self.current, self._candidate)
        if is_other and (self._candidate is None or self._share < 1.0 / HORIZON_EVENTS):
            self._candidate, self._share, self._has_appeared = version, 0.0, False
        if self._candidate is None:
            return False
        self._share += (float(version == self._candidate) - self._share) / HORIZON_EVENTS
        if self._share >= TAKEOVER_SHARE:
            self.current, self._candidate, self._share = self._candidate, None, 0.0
            return True
        if self._share < 0.1 / HORIZON_EVENTS:
            self._candidate, self._share, self._has_appeared = None, 0.0, False
        return False

    def state(self) -> StoredVersions:
        """Return what is to be stored."""
        return StoredVersions(self.current, self._candidate, self._share, self._has_appeared)

    def restore(self, stored: StoredVersions) -> None:
        """Take over what `state` gave."""
        self.current, self._candidate, self._share = stored.current, stored.candidate, stored.share
        self._has_appeared = stored.has_appeared
