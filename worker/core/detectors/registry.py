"""All detectors by name, and how each is made from the options of the engine."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from worker.core.detectors.half_space_log import LogHalfSpaceTrees
from worker.core.detectors.knn import NearestNeighbours
from worker.core.detectors.moments import MomentsDistance
from worker.core.detectors.one_class_svm import OneClassSvm
from worker.core.detectors.protocol import Detector
from worker.core.detectors.refit import RefitPool
from worker.core.detectors.refitted import Schedule
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.scaled_half_space import ScaledHalfSpaceTrees
from worker.core.detectors.tails import TailSurprise
from worker.core.identity import derived_seed
from worker.core.options import EngineOptions


class Site(NamedTuple):
    """What a detector is made for: rows of so many features (at least one) of one monitor, which has a seed."""

    features: int
    options: EngineOptions
    refits: RefitPool
    seed: int

    @property
    def settle(self) -> int:
        """Rows of the warm-up: so many first ones are learned whatever they look like."""
        return self.options.warmup_events


def _half_space_trees(site: Site) -> Detector:
    options, seed = site.options.half_space, derived_seed("half_space", site.seed)
    if options.score == "river":
        return ScaledHalfSpaceTrees(site.features, options, seed)
    return LogHalfSpaceTrees(site.features, options, site.settle, seed)


def _isolation_forest(site: Site) -> Detector:
    return RefittedForest(site.features, site.options.forest, site.refits, derived_seed("forest", site.seed))


def _moments(site: Site) -> Detector:
    return MomentsDistance(site.features, site.settle)


def _nearest_neighbours(site: Site) -> Detector:
    seed = derived_seed("neighbours", site.seed)
    return NearestNeighbours(site.features, site.options.neighbours, site.settle, seed)


def _one_class_svm(site: Site) -> Detector:
    options, schedule = site.options.svm, Schedule.of(site.options.forest)
    return OneClassSvm(site.features, options, schedule, site.refits, site.settle, derived_seed("svm", site.seed))


def _tails(site: Site) -> Detector:
    return TailSurprise(site.features, site.options.tails, site.settle, derived_seed("tails", site.seed))


BUILDERS: Mapping[str, Callable[[Site], Detector]] = MappingProxyType(
    {
        "half_space_trees": _half_space_trees,
        "isolation_forest": _isolation_forest,
        "one_class_svm": _one_class_svm,
        "moments": _moments,
        "nearest_neighbours": _nearest_neighbours,
        "tails": _tails,
    }
)
"""In the order of `options.DETECTORS`, in which detectors score; alerts, options and stored state have these names."""


def build(names: Collection[str], site: Site) -> list[Detector]:
    """Return the named detectors, in the order of `BUILDERS`. ValueError for a name that is none."""
    unknown = sorted(set(names) - set(BUILDERS))
    if unknown:
        raise ValueError(f"there is no detector `{unknown[0]}`, only {', '.join(BUILDERS)}")
    return [make(site) for name, make in BUILDERS.items() if name in names]
