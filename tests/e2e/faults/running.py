"""What is started on entry and ended on exit, however that goes."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Running(ABC):
    """A context manager over `begin` and `end`."""

    @abstractmethod
    def begin(self) -> None:
        """Start, and wait until it is ready."""

    @abstractmethod
    def end(self) -> None:
        """End everything, also what has been started by half."""

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
