"""A pipe between the supervisor and its members: however the supervisor ends, its members notice, and stop.

The supervisor holds the only end that can be written to, and writes nothing. When it is gone, even by SIGKILL, the
other end is at its end: that is an order to stop. This needs nothing that only Linux has.
"""

import atexit
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self


class Lifeline:
    """The supervisor's side. `fd` is the end that members inherit; all share it."""

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._held)
        os.close(self.fd)


def hold_on(fd: int, stop_s: float, folder: Path) -> None:
    """Watch the other end in a thread: at its end this process gets a SIGTERM, and after `stop_s` a SIGKILL.

    The last one to go removes the folder of the supervisor, which cannot do that any more.
    """
    is_cut = threading.Event()
    atexit.register(_tidy, is_cut, folder)
    threading.Thread(target=_watch, args=(fd, stop_s, is_cut), name="lifeline", daemon=True).start()


def _watch(fd: int, stop_s: float, is_cut: threading.Event) -> None:
    while os.read(fd, 1):
        pass
    is_cut.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(stop_s)
    os.kill(os.getpid(), signal.SIGKILL)


def _tidy(is_cut: threading.Event, folder: Path) -> None:
    if is_cut.is_set():
        with suppress(OSError):  # others are still there
            folder.rmdir()
