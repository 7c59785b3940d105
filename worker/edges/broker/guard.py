"""Keeps the Java process from outliving the Python process that asked for it, even one that was killed with SIGKILL.

The asker starts this file with a pipe as standard input, and the command to run as arguments. One byte on the pipe is
an order; the end of the pipe means that the asker is gone. Then the child is killed and the directory named first is
removed. A process that the asker has forked may hold the pipe open, so the asker's process id is watched as well.

It runs by path with `python -I -S`: it imports nothing but the standard library, and starts in a few milliseconds.
"""

import os
import shutil
import subprocess
import sys
import threading
import time

STOP = b"s"
KILL = b"k"
_ASKER_CHECK_S = 1.0


def main(arguments: list[str]) -> int:
    """Run the command in `arguments[1:]`; remove the directory `arguments[0]` ("" for none) if the asker goes away."""
    leftovers, *command = arguments
    asker_pid = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603 - our caller's own command
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    abandoned = threading.Event()
    for watch in (_obey, _watch):
        threading.Thread(target=watch, args=(child, asker_pid, abandoned), daemon=True).start()
    exit_code = child.wait()
    if abandoned.is_set() and leftovers:
        shutil.rmtree(leftovers, ignore_errors=True)
    return exit_code


def _obey(child: subprocess.Popen[bytes], _asker_pid: int, abandoned: threading.Event) -> None:
    """Carry out the orders on standard input until its end."""
    while order := os.read(0, 1):
        if order == STOP:
            child.terminate()
        elif order == KILL:
            child.kill()
    abandoned.set()
    child.kill()


def _watch(child: subprocess.Popen[bytes], asker_pid: int, abandoned: threading.Event) -> None:
    """Kill the child when the asker is no longer our parent."""
    while os.getppid() == asker_pid:
        time.sleep(_ASKER_CHECK_S)
    abandoned.set()
    child.kill()


if __name__ == "__main__":
    # Not sys.exit: the daemon threads still hold standard input.
    os._exit(main(sys.argv[1:]) & 0xFF)
