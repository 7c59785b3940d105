"""Exact sums: those of rational numbers, in any order, and nothing is left of what is taken away again."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import I64
from worker.core.kernels.exact_sum import LOWEST_BIT, carry, carry_all, exact_add, exact_value

LANES = 12
LARGEST = 2.0 ** (32 * (LANES - 4))
"""By contract every value is smaller."""
SMALLEST = Fraction(1, 2**-LOWEST_BIT)

VALUES = st.one_of(
    st.floats(-math.nextafter(LARGEST, 0.0), math.nextafter(LARGEST, 0.0)),
    st.floats(-1e3, 1e3),
    st.floats(-(2.0**-90), 2.0**-90),
    st.builds(
        math.ldexp, st.floats(-1.0, 1.0).filter(lambda x: abs(x) < 1.0), st.integers(LOWEST_BIT - 60, 32 * (LANES - 4))
    ),
)


def cut_off(x: float) -> Fraction:
    """What counts of a value: the multiple of 2^-96 below it, towards zero."""
    units = abs(Fraction(x)) // SMALLEST * SMALLEST
    return units if x > 0.0 else -units


def total(lanes: I64) -> Fraction:
    """A sum as a rational number."""
    return sum((int(lane) * SMALLEST * 2 ** (32 * place) for place, lane in enumerate(lanes)), Fraction(0))


def summed(values: list[float], carry_each: int = 1) -> I64:
    """A sum in normal form; a carry after every so many values."""
    lanes = np.zeros(LANES, dtype=np.int64)
    for number, value in enumerate(values, start=1):
        exact_add(lanes, value, 1)
        if number % carry_each == 0:
            carry(lanes)
    carry(lanes)
    return lanes


@given(st.lists(VALUES, max_size=30))
@settings(max_examples=300, deadline=None)
def test_a_sum_is_that_of_rational_numbers(values: list[float]) -> None:
    """Nothing is rounded between 2^-96 and the largest value; below 2^-96 values are cut off towards zero."""
    expected = sum(map(cut_off, values), Fraction(0))
    lanes = summed(values)
    assert total(lanes) == expected
    assert exact_value(lanes.tolist()) == float(expected)


@given(values=st.lists(VALUES, max_size=20), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_what_is_taken_away_leaves_no_trace(values: list[float], seed: int) -> None:
    """After all values are added and taken away, in any order, every lane is 0: 1e70 does not swallow 1e-20."""
    steps = [(value, 1) for value in values] + [(value, -1) for value in values]
    random.Random(seed).shuffle(steps)
    lanes = np.zeros(LANES, dtype=np.int64)
    for value, sign in steps:
        exact_add(lanes, value, sign)
        carry(lanes)
    assert not lanes.any()


@given(values=st.lists(VALUES, max_size=20), seed=st.integers(0, 2**32), carry_each=st.integers(1, 21))
@settings(max_examples=200, deadline=None)
def test_the_order_changes_no_bit(values: list[float], seed: int, carry_each: int) -> None:
    """A sum has one normal form, whatever the order of its values and whenever it is carried."""
    shuffled = list(values)
    random.Random(seed).shuffle(shuffled)
    np.testing.assert_array_equal(summed(values), summed(shuffled, carry_each))


@given(st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_carry_gives_the_one_normal_form(lanes: list[int]) -> None:
    """All lanes but the last are digits of 32 bits, the value stays, and a second carry changes nothing."""
    lanes[-1] >>= 2
    sums = np.array([lanes, lanes], dtype=np.int64)
    carry_all(sums)
    assert total(sums[0]) == total(np.array(lanes, dtype=object))
    assert ((sums[:, :-1] >= 0) & (sums[:, :-1] < 2**32)).all()
    again = sums.copy()
    carry_all(again)
    np.testing.assert_array_equal(again, sums)


@pytest.mark.parametrize("lanes_count", [6, 12])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_value_stays_within_its_lanes(lanes_count: int, sign: int) -> None:
    """The largest value by contract touches no memory behind its lanes."""
    memory = np.full(lanes_count + 4, 7, dtype=np.int64)
    lanes = memory[:lanes_count]
    lanes[:] = 0
    value = math.nextafter(2.0 ** (32 * (lanes_count - 4)), 0.0)
    exact_add(lanes, value, sign)
    exact_add(lanes, -0.0, sign)
    assert exact_value(lanes.tolist()) == sign * value
    assert (memory[lanes_count:] == 7).all()


def test_a_value_is_the_nearest_double() -> None:
    """Two halves of the last bit round to even, and one unit of 2^-96 more rounds up."""
    one = summed([1.0, 2.0**-53])
    assert exact_value(one.tolist()) == 1.0
    exact_add(one, 2.0**LOWEST_BIT, 1)
    assert exact_value(one.tolist()) == math.nextafter(1.0, 2.0)
    assert exact_value([0] * LANES) == 0.0
    assert exact_value(summed([-0.1]).tolist()) == -0.1
