"""The latest event ids, as 128-bit keys, to count events that come again."""

import numpy as np

from worker.core.kernels import join
from worker.core.kernels.arrays import U64
from worker.core.kernels.quality import count_duplicates
from worker.core.state import AnyArray, refuse_if


class LatestIds:
    """Keys of at most `ids_max` events, in the order in which they came; 16 bytes each, and 6 to 12 for the index."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._ring = _ring(np.zeros((0, 2), dtype=np.uint64), 1)

    def reserve(self, rows: int) -> None:
        """Make room for so many more keys, or for the maximum."""
        kept = int(self._ring.meta[join.TAIL] - self._ring.meta[join.HEAD])
        wanted = min(kept + rows, self._ids_max)
        if wanted > len(self._ring.keys):
            capacity = min(max(wanted, 2 * len(self._ring.keys)), self._ids_max)
            self._ring = _ring(self._kept(), capacity)

    def count(self, keys: U64, begin: int, end: int) -> int:
        """Take keys u64[n, 2], rows [begin, end); return how many are there already. There must be room."""
        return int(count_duplicates(self._ring, keys, begin, end, self._ids_max))

    def _kept(self) -> U64:
        head, tail = self._ring.meta[join.HEAD], self._ring.meta[join.TAIL]
        kept: U64 = self._ring.keys[np.arange(head, tail) % len(self._ring.keys)]
        return kept

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """The keys, oldest first."""
        return {"keys": self._kept()}

    def restore(self, keys: AnyArray) -> None:
        """Take over keys u64[n, 2], oldest first; ValueError for what cannot be."""
        refuse_if(
            "stored event ids",
            {
                "they are no keys": keys.dtype != np.uint64 or keys.ndim != 2 or keys.shape[1:] != (2,),  # noqa: PLR2004 - rows of two words
                "there are too many": len(keys) > self._ids_max,
            },
        )
        self._ring = _ring(keys, max(len(keys), 1))


def _ring(keys: U64, capacity: int) -> join.Ring:
    ring = join.Ring(
        np.zeros((capacity, 2), dtype=np.uint64),
        np.zeros(1 << (capacity + capacity // 2).bit_length(), dtype=np.int32),
        np.zeros(4, dtype=np.int64),
        np.zeros(capacity, dtype=np.bool),
    )
    ring.keys[: len(keys)] = keys
    ring.alive[: len(keys)] = True
    ring.meta[join.TAIL] = len(keys)
    join.build_index(ring)
    return ring
