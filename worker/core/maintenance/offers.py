"""Versions that were offered to the serving side: which candidate each is, and where its model lies."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.state import refuse_if

OFFERS_MAX = 16
_LATEST = 4
"""Offers that may still be taken: their models must stay in the store."""


class Offer(Struct, frozen=True, forbid_unknown_fields=True):
    """One of them."""

    version: Annotated[str, Meta(max_length=256)]
    candidate: str
    path: Annotated[str, Meta(max_length=512)]


class Offers:
    """The latest ones, and those of the versions that are in service."""

    def __init__(self) -> None:
        self.all: list[Offer] = []

    def add(self, offer: Offer, in_service: set[str | None]) -> None:
        """Remember an offer; the oldest one that is not in service gives way."""
        self.all = [*(each for each in self.all if each.version != offer.version), offer]
        if len(self.all) > OFFERS_MAX:
            oldest = next((each for each in self.all if each.version not in in_service), self.all[0])
            self.all.remove(oldest)

    def candidate(self, version: str | None) -> str | None:
        """Return which candidate a version is, if it was offered."""
        return next((each.candidate for each in self.all if each.version == version), None)

    def paths(self, in_service: set[str | None]) -> set[str]:
        """Return where the models lie that are in service, or may be."""
        return {each.path for each in self.all if each.version in in_service} | {
            each.path for each in self.all[-_LATEST:]
        }

    def restore(self, stored: list[Offer], candidates: set[str]) -> None:
        """Take over stored ones; ValueError for what cannot be."""
        refuse_if(
            "stored offers",
            {
                "there are too many": len(stored) > OFFERS_MAX,
                "a candidate is unknown": any(each.candidate not in candidates for each in stored),
            },
        )
        self.all = list(stored)
