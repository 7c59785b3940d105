"""Texts in one buffer, and which of them are equal."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import Texts

TEXTS = st.lists(
    st.one_of(st.none(), st.sampled_from(["a", "b", "aé", "e", "model-1"]), st.text(max_size=9)), max_size=40
)


@given(texts=TEXTS)
@settings(max_examples=300, deadline=None)
def test_groups_are_those_of_a_dictionary(texts: list[str | None]) -> None:
    """Equal texts have the code of their first appearance; what is none is an empty text, whatever lies around it."""
    known: dict[str, int] = {}
    expected = [known.setdefault(text or "", len(known)) for text in texts]
    codes, names = Texts.of(texts).grouped()
    assert codes.tolist() == expected
    assert [name or "" for name in names] == list(known)


@given(texts=TEXTS, others=TEXTS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_texts_can_be_replaced(texts: list[str | None], others: list[str | None], data: st.DataObject) -> None:
    """Some rows get texts of another buffer; the others keep theirs."""
    others = others[: len(texts)]
    rows = data.draw(st.permutations(range(len(texts))))[: len(others)]
    replaced = Texts.of(texts).replaced(np.array(rows, dtype=np.int64), Texts.of(others))
    expected = [dict(zip(rows, others, strict=True)).get(row, text) for row, text in enumerate(texts)]
    assert [replaced.text(row) for row in range(len(texts))] == expected


def test_a_hundred_thousand_texts_are_told_apart() -> None:
    """The table has room for texts that are all different."""
    names = [f"e{number}" for number in range(100_000)]
    codes, found = Texts.of([*names, *names]).grouped()
    assert found == names
    np.testing.assert_array_equal(codes, np.tile(np.arange(100_000), 2))
