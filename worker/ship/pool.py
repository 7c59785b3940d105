"""Threads that settle batches, one for each request in flight."""

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from worker.ship.batches import Batch
from worker.ship.settling import Settler


class Pool:
    """Takes batches and gives them back.

    Args:
        settlers: one for each thread.
    """

    def __init__(self, settlers: Sequence[Settler]) -> None:
        self._waiting: SimpleQueue[Batch | None] = SimpleQueue()
        self._finished: SimpleQueue[Batch | BaseException] = SimpleQueue()
        self._out: list[Batch] = []
        self.batches_max = len(settlers) + 1
        """That may be out: one for each thread, and the next one."""
        self._threads = [
            threading.Thread(target=self._run, args=(settler,), name=settler.name, daemon=True) for settler in settlers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def full(self) -> bool:
        """Whether no batch is taken before another one is finished."""
        return len(self._out) >= self.batches_max

    @property
    def idle(self) -> bool:
        """Whether no batch is out."""
        return not self._out

    def submit(self, batch: Batch) -> None:
        """Have a batch settled."""
        assert not self.full, "too many batches"
        self._out.append(batch)
        self._waiting.put(batch)

    def finished(self, wait_s: float = 0.0) -> list[Batch]:
        """Return batches that are settled or given up, waiting at most so long for the first one.

        Raises what a thread has failed with.
        """
        found: list[Batch] = []
        while True:
            try:
                each = self._finished.get(timeout=wait_s) if wait_s and not found else self._finished.get_nowait()
            except Empty:
                return found
            if isinstance(each, BaseException):
                raise each
            self._out.remove(each)
            found.append(each)

    def abandon(self) -> None:
        """Give up what is out: somebody else has its partitions now."""
        for batch in self._out:
            batch.abandoned = True

    def close(self) -> None:
        """End the threads that are idle; what is out goes on until it is given up."""
        for _ in self._threads:
            self._waiting.put(None)

    def _run(self, settler: Settler) -> None:
        while (batch := self._waiting.get()) is not None:
            try:
                batch.settled = settler.settle(batch)
            except BaseException as error:  # noqa: BLE001 - the main thread raises it again
                self._finished.put(error)
                return
            self._finished.put(batch)
