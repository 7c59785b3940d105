"""Texts as places in one buffer: most of them are only compared or hashed, and never become Python strings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I32, I64, U8, U64
from worker.core.kernels.event_keys import hash_spans, key_of_seed
from worker.core.kernels.json_text import PADDING
from worker.core.kernels.text_lengths import count_characters
from worker.core.scanning import NO_TEXT, group_texts


class Texts(NamedTuple):
    """Texts (n): begin and length (bytes) of each in a UTF-8 buffer; a length of NO_TEXT: there is none.

    The buffer ends with NUL bytes, for kernels that read several bytes at once.
    """

    raw: U8
    spans: I32

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "Texts":
        """Return these texts."""
        known = [text or "" for text in texts]
        whole = "".join(known)
        raw, parts = whole.encode(), known if whole.isascii() else [text.encode() for text in known]
        spans = np.zeros((len(texts), 2), dtype=np.int32)
        spans[:, 1] = np.fromiter(map(len, parts), dtype=np.int32, count=len(parts))
        np.cumsum(spans[:-1, 1], out=spans[1:, 0])
        if None in texts:
            spans[[text is None for text in texts], 1] = NO_TEXT
        return cls(np.frombuffer(bytearray(raw + bytes(PADDING)), dtype=np.uint8), spans)

    def text(self, row: int) -> str | None:
        """Return one of them."""
        begin, length = self.spans[row].tolist()
        return None if length == NO_TEXT else self.raw[begin : begin + length].tobytes().decode()

    def part(self, rows: slice | I64) -> "Texts":
        """Return some of them."""
        return Texts(self.raw, self.spans[rows])

    def replaced(self, rows: I64, others: "Texts") -> "Texts":
        """Return the same texts but for some rows (k), which have other ones (k)."""
        spans = self.spans.copy()
        spans[rows] = others.spans + np.array([len(self.raw), 0], dtype=np.int32)
        return Texts(np.concatenate([self.raw, others.raw]), spans)

    def keys(self, seed: int) -> U64:
        """Return their 128-bit keys u64[n, 2]. Equal texts and seeds have equal keys, on every machine."""
        keys = np.empty((len(self.spans), 2), dtype=np.uint64)
        hash_spans(self.raw, self.spans, key_of_seed(seed), keys)
        return keys

    def characters(self) -> F64:
        """Return their lengths in characters."""
        lengths = np.empty(len(self.spans))
        count_characters(self.raw, self.spans, lengths)
        return lengths

    def grouped(self) -> tuple[I64, list[str | None]]:
        """Return codes (n), equal for equal texts, and the texts by code in the order of their first appearance.

        What is none is the same as an empty text: names and ids are never empty.
        """
        codes, first_rows = group_texts(self.raw, self.spans)
        return codes, [self.text(row) for row in first_rows.tolist()]
