"""Lengths of texts in characters."""

import numba

from worker.core.kernels.arrays import F64, I32, U8
from worker.core.kernels.json_text import characters


@numba.njit(cache=True, nogil=True)
def count_characters(text: U8, spans: I32, lengths: F64) -> None:
    """Write how many characters texts (begin and length in bytes, n x 2) have into `lengths` (n). O(bytes)."""
    for row in range(spans.shape[0]):
        lengths[row] = characters(text, int(spans[row, 0]), max(int(spans[row, 1]), 0))
