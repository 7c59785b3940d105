"""SIGTERM and SIGINT as a wish to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

_SECOND_SIGNAL_EXIT = 130
SAME_WISH_S = 0.5
"""A supervisor and the system may both pass on one wish, right after each other."""


@contextmanager
def stop_signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT go to this handler; put the former ones back at the end."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or SIGINT sets; one that comes later ends the process at once."""
    stopping = threading.Event()
    wishes: SimpleQueue[int | None] = SimpleQueue()
    first_s: float | None = None

    def note(number: int, _: FrameType | None) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = time.monotonic()
            wishes.put(number)  # the only lock that a signal handler may ask for
        elif time.monotonic() - first_s > SAME_WISH_S:
            os._exit(_SECOND_SIGNAL_EXIT)

    def pass_on() -> None:
        if wishes.get() is not None:
            stopping.set()

    # In a thread of its own: a handler interrupts the main thread, which may hold the event's lock in a `wait`.
    thread = threading.Thread(target=pass_on, name="stop-signals", daemon=True)
    thread.start()
    try:
        with stop_signals_to(note):
            yield stopping
    finally:
        wishes.put(None)
        thread.join()
