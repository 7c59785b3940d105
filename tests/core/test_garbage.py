"""Cyclic garbage is looked for seldom, but it is."""

import gc
import weakref

from worker.edges.garbage import YOUNG_MAX, rare_collections

FETCH = 40_000


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def collections() -> int:
    """Return how often the collector has run."""
    return sum(each["collections"] for each in gc.get_stats())


def test_records_that_come_and_go_start_no_collection() -> None:
    """As many as a fetch has, over and over: by Python's own thresholds that would be hundreds."""
    gc.collect()
    with rare_collections():
        before = collections()
        for _ in range(20):
            assert len([[each] for each in range(FETCH)]) == FETCH
        assert collections() == before


def test_cyclic_garbage_is_freed_in_the_end() -> None:
    """No later than when so many objects are more than there were."""
    with rare_collections():
        node = Node()
        gone = weakref.ref(node)
        del node
        assert gone() is not None
        kept = [[each] for each in range(YOUNG_MAX + FETCH)]
        assert gone() is None
        assert kept


def test_afterwards_all_is_as_before() -> None:
    """A process that runs something else later, as a test does, has its own collector again."""
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    with rare_collections():
        assert gc.get_threshold() != thresholds
        assert gc.get_freeze_count() > frozen
    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, 0)
