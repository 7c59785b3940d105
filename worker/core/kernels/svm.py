"""Decision of a one-class SVM with a Gaussian kernel (Schölkopf et al. 2001, Neural Computation 13, equation 3.3).

    decision(x) = sum over the support vectors of  coefficient x exp(-gamma |x - vector|^2)  -  offset

Nearly all of the cost is one exponential for each support vector, so that is computed for many vectors at once, by
additions and multiplications that compilers turn into vector instructions:

    e^y = 2^k x 2^f,  k = round(y / ln 2),  |f| <= 1/2,  2^f = the Taylor series of e^(f ln 2)

k is found by adding 1.5 x 2^52, which leaves it in the low bits of the double's mantissa; shifted to where the exponent
is, these bits are 2^k (Schraudolph 1999, Neural Computation 11, has the idea).
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64

LANES = 8
"""Support vectors are a multiple of this many, those added have the coefficient 0: eight sums, added up at the end."""
_ROUND = 1.5 * 2.0**52
_EXPONENT_BIAS = 1023
_MANTISSA_BITS = 52
_LEAST = -1000.0
"""2^-1000 stands for all that is smaller."""
_PER_LN_2 = 1.0 / math.log(2.0)
_C = tuple(math.log(2.0) ** n / math.factorial(n) for n in range(14))
"""Taylor series of 2^f: with |f| <= 1/2 the first term left out is under 2^-57."""


@numba.njit(cache=True, nogil=True)
def densities(rows: F64, vectors: F64, coefficients: F64, gamma: float, sums: F64) -> None:
    """Write the sum over the support vectors of coefficient x kernel, for each of the rows f64[n, d]. O(n d m).

    `vectors` f64[d, m], one support vector in each column; `coefficients` f64[m]; m is a multiple of LANES.
    """
    squares = np.empty(coefficients.shape[0])
    powers = np.empty(coefficients.shape[0])
    for i in range(rows.shape[0]):
        _squared_distances(rows[i], vectors, squares)
        sums[i] = _weighted_exponentials(squares, -gamma * _PER_LN_2, coefficients, powers, powers.view(np.int64))


@numba.njit(cache=True, nogil=True)
def logarithms(sums: F64, total: float, least: float) -> None:
    """Replace sums f64[n] by ln(sum / total), at least ln(least). O(n). numpy's own depends on a place in a batch."""
    for i in range(sums.shape[0]):
        sums[i] = math.log(max(sums[i] / total, least))


@numba.njit(cache=True, nogil=True)
def _squared_distances(row: F64, vectors: F64, squares: F64) -> None:
    """Write the squared distance of a row to each vector. O(d m)."""
    features = row.shape[0]
    squares[:] = 0.0
    in_twos = features - features % 2
    for j in range(0, in_twos, 2):
        _add_two(row[j], row[j + 1], vectors[j], vectors[j + 1], squares)
    for j in range(in_twos, features):
        x, of_x = row[j], vectors[j]
        for place in range(squares.shape[0]):
            a = x - of_x[place]
            squares[place] += a * a


@numba.njit(cache=True, nogil=True)
def _add_two(x: float, y: float, of_x: F64, of_y: F64, squares: F64) -> None:
    """Add the squared differences of two columns: two at once spare one of two loads and stores of the sums."""
    for place in range(squares.shape[0]):
        a = x - of_x[place]
        b = y - of_y[place]
        squares[place] += a * a + b * b


@numba.njit(cache=True, nogil=True)
def _weighted_exponentials(squares: F64, factor: float, coefficients: F64, powers: F64, bits: I64) -> float:
    """Return the sum of coefficient x 2^(factor x square); `powers` f64[m] is room, `bits` i64[m] the same memory.

    Overwrites `squares`. O(m).
    """
    for place in range(squares.shape[0]):
        y = max(squares[place] * factor, _LEAST)
        rounded = y + _ROUND
        f = y - (rounded - _ROUND)
        powers[place] = rounded
        p = _C[13] * f + _C[12]
        p = p * f + _C[11]
        p = p * f + _C[10]
        p = p * f + _C[9]
        p = p * f + _C[8]
        p = p * f + _C[7]
        p = p * f + _C[6]
        p = p * f + _C[5]
        p = p * f + _C[4]
        p = p * f + _C[3]
        p = p * f + _C[2]
        p = p * f + _C[1]
        p = p * f + _C[0]
        squares[place] = p
    for place in range(squares.shape[0]):
        bits[place] = (bits[place] + _EXPONENT_BIAS) << _MANTISSA_BITS
    a = b = c = d = e = g = h = k = 0.0
    for place in range(0, squares.shape[0], LANES):
        a += coefficients[place] * (squares[place] * powers[place])
        b += coefficients[place + 1] * (squares[place + 1] * powers[place + 1])
        c += coefficients[place + 2] * (squares[place + 2] * powers[place + 2])
        d += coefficients[place + 3] * (squares[place + 3] * powers[place + 3])
        e += coefficients[place + 4] * (squares[place + 4] * powers[place + 4])
        g += coefficients[place + 5] * (squares[place + 5] * powers[place + 5])
        h += coefficients[place + 6] * (squares[place + 6] * powers[place + 6])
        k += coefficients[place + 7] * (squares[place + 7] * powers[place + 7])
    return ((a + b) + (c + d)) + ((e + g) + (h + k))
