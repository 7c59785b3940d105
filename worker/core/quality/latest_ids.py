"""The latest event ids, as keys of 64 bits, to count events that come again.

They are the first halves of the keys of 128 bits that stand for ids elsewhere (`kernels.event_keys`). Among 10,000
other ids a new one seems to be there with a probability of 5e-16: at 100,000 events a second once in 600 centuries.
What is counted here is a share, for which that will do; predictions are joined with labels by the whole key.
"""

import numpy as np

from worker.core.kernels.arrays import U64
from worker.core.kernels.key_ring import HEAD, TAIL, Ring, build_index, new_ring
from worker.core.kernels.quality import count_duplicates
from worker.core.state import AnyArray, refuse_if


class LatestIds:
    """Keys of at most `ids_max` events, in the order in which they came; 8 bytes each, 6 for the index, 1 more."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._ring = _ring(np.zeros((0, 1), dtype=np.uint64), 1)

    def reserve(self, rows: int) -> None:
        """Make room for so many more keys, or for the maximum."""
        kept = int(self._ring.meta[TAIL] - self._ring.meta[HEAD])
        wanted = min(kept + rows, self._ids_max)
        if wanted > len(self._ring.keys):
            capacity = min(max(wanted, len(self._ring.keys) + len(self._ring.keys) // 4), self._ids_max)
            self._ring = _ring(self._kept(), capacity)

    def count(self, keys: U64, begin: int, end: int) -> int:
        """Take keys u64[n, 2], rows [begin, end); return how many are there already. There must be room."""
        return int(count_duplicates(self._ring, keys, begin, end, self._ids_max))

    def _kept(self) -> U64:
        head, tail = self._ring.meta[HEAD], self._ring.meta[TAIL]
        kept: U64 = self._ring.keys[np.arange(head, tail) % len(self._ring.keys)]
        return kept

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """The keys, oldest first."""
        return {"keys": self._kept()}

    def restore(self, keys: AnyArray) -> None:
        """Take over keys u64[n, 1], oldest first; ValueError for what cannot be."""
        refuse_if(
            "stored event ids",
            {
                "they are no keys": keys.dtype != np.uint64 or keys.shape != (keys.size, 1),
                "there are too many": len(keys) > self._ids_max,
            },
        )
        self._ring = _ring(keys, max(len(keys), 1))


def _ring(keys: U64, capacity: int) -> Ring:
    ring = new_ring(capacity, 1)
    ring.keys[: len(keys)] = keys
    ring.alive[: len(keys)] = True
    ring.meta[TAIL] = len(keys)
    build_index(ring)
    return ring
