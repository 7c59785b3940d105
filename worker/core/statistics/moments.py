"""Count, mean, spread and range of a set of values, as a value that merges."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Self


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of `count` values; `m2` is the sum of squared deviations from the mean.

    Empty is count 0, mean 0, m2 0, minimum +inf, maximum -inf: what the arrays of `kernels.accumulate` start from.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = inf
    maximum: float = -inf

    def merge(self, other: Self) -> Self:
        """Return the moments of both sets together (Chan, Golub, LeVeque 1979, equation 2.1).

        Exact in count and range; mean and m2 to rounding, so the order of merges shows in the last bits.
        """
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / count
        return type(self)(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + delta * delta * self.count * share,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    @property
    def variance(self) -> float | None:
        """Sample variance (n - 1); None below two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else None

    @property
    def standard_deviation(self) -> float | None:
        """Square root of the sample variance; None below two values."""
        return None if self.variance is None else sqrt(self.variance)
