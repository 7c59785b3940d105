"""Windows of 1, 2, 4, ... blocks of labels: which there are, and which are looked at after a block."""

from collections.abc import Sequence


def due_sizes(done: int, sizes: Sequence[int]) -> list[int]:
    """Return the windows that are full after so many blocks, and half new."""
    return [size for size in sizes if size <= done and done % max(1, size // 2) == 0]


def window_sizes(labels_min: int, block_labels: int, blocks_max: int) -> list[int]:
    """Return the lengths of the windows in blocks, powers of 2, from that which holds enough labels."""
    return [1 << power for power in range(blocks_max.bit_length()) if (block_labels << power) >= labels_min]
