"""Asks the server about parcels, and tells what came of each one a while later; after some parcels winter begins.

python -m examples.server.traffic --parcels 20000 --winter-after 8000
"""

import argparse
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import urllib3

from examples.server.parcels import parcels

_AT_ONCE = 50
_TIMEOUT_S = 10.0
_TOLD_EVERY = 1_000


class Outcome(NamedTuple):
    """What the server said of a parcel, and what was true."""

    features: Mapping[str, float | str | bool | None]
    truth: str
    prediction: str
    probabilities: Mapping[str, float]
    model_version: str
    candidate: str


class Traffic:
    """Who asks: seeded, with labels so many parcels late."""

    def __init__(self, url: str, labels_late: int, seed: int = 7) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT_S, retries=False)
        self._labels_late = labels_late
        self._seed = seed
        self._asked = 0
        self._waiting: deque[dict[str, str]] = deque()

    def ask(self, count: int, *, winter: bool) -> list[Outcome]:
        """Ask about so many parcels at once, and tell what is known by now of former ones."""
        asked, truth = parcels(count, seed=self._seed + self._asked, winter=winter)
        ids = [f"parcel-{self._seed}-{self._asked + number}" for number in range(count)]
        self._asked += count
        question = [{"event_id": each, "features": features} for each, features in zip(ids, asked, strict=True)]
        said = self._post("/predict", {"parcels": question})
        self._waiting += [{"event_id": each, "label": label} for each, label in zip(ids, truth, strict=True)]
        self._tell(self._labels_late)
        by = (said["model_version"], said["candidate"])
        return [
            Outcome(features, label, each["prediction"], each["probabilities"], *by)
            for features, label, each in zip(asked, truth, said["answers"], strict=True)
        ]

    def finish(self) -> None:
        """Tell all that is left to tell."""
        self._tell(0)

    def health(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        told: dict[str, Any] = self._pool.request("GET", f"{self._url}/health").json()
        return told

    def _tell(self, but: int) -> None:
        while len(self._waiting) > but:
            known = [self._waiting.popleft() for _ in range(min(len(self._waiting) - but, _TOLD_EVERY))]
            self._post("/labels", {"labels": known})

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        response = self._pool.request("POST", self._url + path, json=body)
        if response.status not in {200, 202}:
            raise SystemExit(f"{path} answered {response.status}: {response.data.decode(errors='replace')[:200]}")
        return json.loads(response.data)


def shares_right(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return how often each version and candidate was right."""
    right: dict[str, Counter[bool]] = {}
    for outcome in outcomes:
        by = f"{outcome.model_version}/{outcome.candidate}"
        right.setdefault(by, Counter())[outcome.prediction == outcome.truth] += 1
    return {by: round(counts[True] / counts.total(), 3) for by, counts in right.items()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--parcels", type=int, default=20_000)
    parser.add_argument("--winter-after", type=int, default=8_000)
    parser.add_argument("--labels-late", type=int, default=500)
    parser.add_argument("--per-second", type=float, default=500.0)
    given = parser.parse_args()
    traffic, outcomes = Traffic(given.url, given.labels_late), deque[Outcome](maxlen=_TOLD_EVERY)
    for asked in range(0, given.parcels, _AT_ONCE):
        outcomes += traffic.ask(_AT_ONCE, winter=asked >= given.winter_after)
        if (asked + _AT_ONCE) % _TOLD_EVERY == 0:
            print(asked + _AT_ONCE, shares_right(outcomes), flush=True)  # noqa: T201 - this is what it is for
        time.sleep(_AT_ONCE / given.per_second)
    traffic.finish()


if __name__ == "__main__":
    main()
