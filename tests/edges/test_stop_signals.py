"""SIGTERM and SIGINT as a wish to stop: whenever they come, and however many."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_WAITING = """
import signal, threading, time
from worker.edges.stop_signals import stop_on_signals
for moment in range(30):
    with stop_on_signals() as stopping:
        threading.Timer(0.001 * moment, signal.raise_signal, [signal.SIGTERM]).start()
        while not stopping.is_set():
            stopping.wait(0.0)
"""
_SIGNALLED = """
import signal, sys, time
from worker.edges.stop_signals import stop_on_signals
with stop_on_signals() as stopping:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    signal.raise_signal(signal.SIGINT)
    assert stopping.wait(5.0)
sys.exit(3)
"""


def _exit_code(program: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=_ROOT, timeout=20, check=False).returncode


def test_a_signal_may_come_at_any_moment_of_a_wait() -> None:
    """Also while the waiting thread, which is the one that handles signals, has just taken the lock of the event."""
    assert _exit_code(_WAITING) == 0


@pytest.mark.parametrize(("pause_s", "code"), [(0.0, 3), (0.7, 130)])
def test_a_second_signal_ends_the_process_unless_it_is_the_same_wish(pause_s: float, code: int) -> None:
    """A service manager and a supervisor both pass on one stop; a person who asks again is not content to wait."""
    assert _exit_code(_SIGNALLED, str(pause_s)) == code


def test_handlers_are_put_back() -> None:
    """Whoever had them before has them afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    program = "import signal; from worker.edges.stop_signals import stop_on_signals\n"
    program += "with stop_on_signals(): pass\nraise SystemExit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)"
    assert _exit_code(program) == 0
    assert signal.getsignal(signal.SIGTERM) is before
