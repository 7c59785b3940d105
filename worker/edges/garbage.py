"""How often the interpreter looks for objects that only refer to one another (cyclic garbage).

Each record of Kafka is a tracked object for a moment. So Python's own thresholds have the collector go through young
objects every 700 records, and every 80,000 or so through everything that was ever imported: 90 ms in which no thread
of the engine moves, a seventh of all time in a backlog (`benchmarks/RESULTS.md`). Hardly anything that this worker
drops is in a cycle.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_MAX: Final = 100_000
"""Objects that come in excess of those that go before the young ones are looked at: more than twice the records of a
fetch. So cyclic garbage stays for longer, but not for ever."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let what is imported be, and look at the rest seldom; at the end all is as it was before."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
