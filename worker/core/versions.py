"""Has a new version of the model taken over? What was learned of the old one says little about it."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from worker.core.events import PredictionEvent

HORIZON_EVENTS = 50
TAKEOVER_SHARE = 0.9
"""A version has taken over when about this share of the latest events is its; two that share the traffic never do."""


class StoredVersions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    current: str | None
    candidate: str | None
    share: Annotated[float, Meta(ge=0.0, le=1.0)]


class VersionWatch:
    """Follows the version of one model's events. Events without a version say nothing."""

    def __init__(self) -> None:
        self.current: str | None = None
        self._candidate: str | None = None
        self._share = 0.0

    def until_takeover(self, events: Sequence[PredictionEvent]) -> int | None:
        """Take in events up to the one with which another version has taken over.

        Return how many events that were, or None if all of them were taken in without that.
        """
        versions = [event.model_version for event in events]
        if self._candidate is None and set(versions) <= {self.current, None}:
            return None
        for place, version in enumerate(versions, start=1):
            if version is not None and self._takes_over(version):
                return place
        return None

    def _takes_over(self, version: str) -> bool:
        if self.current is None:
            self.current = version
        is_other = version not in (self.current, self._candidate)
        if is_other and (self._candidate is None or self._share < 1.0 / HORIZON_EVENTS):
            self._candidate, self._share = version, 0.0
        if self._candidate is None:
            return False
        self._share += (float(version == self._candidate) - self._share) / HORIZON_EVENTS
        if self._share >= TAKEOVER_SHARE:
            self.current, self._candidate, self._share = self._candidate, None, 0.0
            return True
        if self._share < 0.1 / HORIZON_EVENTS:
            self._candidate, self._share = None, 0.0
        return False

    def state(self) -> StoredVersions:
        """Return what is to be stored."""
        return StoredVersions(self.current, self._candidate, self._share)

    def restore(self, stored: StoredVersions) -> None:
        """Take over what `state` gave."""
        self.current, self._candidate, self._share = stored.current, stored.candidate, stored.share
