"""Ports for a local server, kept from every other process of this project until the one that took them ends.

A port that was free when it was looked at is not free for long: another test process looks at the same time, and a
server that is being restarted leaves its port open to all for seconds. A lock file of each port tells who has it. The
operating system drops the lock with its process, however that ends. Others are noticed by trying to bind.
"""

import fcntl
import os
import socket
import tempfile
import weakref
from pathlib import Path
from typing import Final

from worker.edges.broker.jars import BrokerError

# Below 32768, where Linux begins to hand out ports: a client that dials a closed port there can meet itself.
_PORTS: Final = range(20_000, 30_000)


class ReservedPorts:
    """Neighbouring ports that are free now, and that no other `ReservedPorts` gets while this one exists.

    Args:
        count: how many.

    Attributes:
        numbers: the ports, rising.

    Raises:
        BrokerError: so many free ports are nowhere.
    """

    def __init__(self, count: int) -> None:
        directory = Path(tempfile.gettempdir()) / f"modelvigil-ports-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        # Processes begin to look at different places: they seldom meet.
        begin = os.getpid() * 2 % len(_PORTS)
        for step in range(0, len(_PORTS), 2):
            first = _PORTS[(begin + step) % len(_PORTS)]
            self.numbers = tuple(range(first, first + count))
            locks = [lock for port in self.numbers if (lock := _lock(directory / str(port))) is not None]
            if len(locks) == count and all(map(_is_free, self.numbers)):
                weakref.finalize(self, _close, locks)
                return
            _close(locks)
        raise BrokerError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def _lock(path: Path) -> int | None:
    """Return the open file that holds the lock; None if another one has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
