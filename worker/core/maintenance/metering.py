"""Tells somebody outside when the core works for maintenance, so that its share of the CPU can be kept within a budget.

What is measured never comes back to the core, except as a level of thinning that the journal holds.
"""

from typing import Protocol


class Meter(Protocol):
    """Is told when a piece of work begins and when it has ended; pieces never lie within each other."""

    def begin(self) -> None:
        """Work begins."""
        ...

    def end(self) -> None:
        """The work that began last has ended."""
        ...


class NoMeter:
    """Measures nothing."""

    def begin(self) -> None:
        """Work begins."""

    def end(self) -> None:
        """The work that began last has ended."""
