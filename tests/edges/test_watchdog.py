"""The watchdog: a loop that beats lives, any other is ended, whatever it hangs in, and tells where it was."""

import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from worker.edges.watchdog import EXIT_CODE, Watchdog

_WAIT_MAX_S = 60.0
_PREAMBLE = """
import os, re, threading, time
from worker.edges import watchdog

def beat_for(dog, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        dog.beat()
        time.sleep(0.02)
"""


def _run(program: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and what it wrote to stderr."""
    command = [sys.executable, "-c", _PREAMBLE + textwrap.dedent(program)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=_WAIT_MAX_S, check=False)
    return done.returncode, done.stderr


def test_a_loop_that_beats_lives_and_nothing_is_armed_afterwards() -> None:
    """It outlives all limits by its beats alone; after the `with`, beat or silence mean nothing any more."""
    code, told = _run("""
        with watchdog.Watchdog(1.0, margin_s=1.5) as dog:
            beat_for(dog, 4)
        beat_for(dog, 1.2)
        time.sleep(3)
    """)
    assert (code, told) == (0, "")


def test_a_loop_that_hangs_is_ended_and_its_stack_is_told() -> None:
    """One line says what happened; the stacks of all threads follow; the exit code asks for a restart."""
    code, told = _run("""
        def the_place_where_it_hangs():
            threading.Event().wait()

        def another_thread():
            time.sleep(60)

        threading.Thread(target=another_thread).start()
        with watchdog.Watchdog(1.0) as dog:
            beat_for(dog, 1.5)
            the_place_where_it_hangs()
    """)
    assert code == EXIT_CODE
    first, stacks = told.split("\n", 1)
    assert first.startswith("modelvigil watchdog: the loop has been silent for ")
    assert "at most 1.0 s are allowed" in first
    assert "exit code 75; its supervisor should restart it" in first
    assert "the_place_where_it_hangs" in stacks
    assert "another_thread" in stacks


def test_a_loop_that_never_beats_is_ended() -> None:
    """Entering counts as the first beat: a start that hangs is noticed, too."""
    code, told = _run("""
        with watchdog.Watchdog(0.3):
            time.sleep(60)
    """)
    assert code == EXIT_CODE
    assert "at most 0.3 s are allowed" in told


def test_a_native_call_that_holds_the_gil_is_ended_by_faulthandler() -> None:
    """No thread of Python can run then, not even the watchdog's: it takes the margin more, and the code is 1."""
    code, told = _run("""
        def a_pattern_that_takes_years():
            re.match("(a+)+$", "a" * 60 + "b")

        with watchdog.Watchdog(0.5, margin_s=1.5):
            a_pattern_that_takes_years()
    """)
    assert code == 1
    assert told.startswith("Timeout (0:00:02)!")
    assert "a_pattern_that_takes_years" in told
    assert "modelvigil watchdog" not in told


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")
def test_a_full_stderr_keeps_no_process_alive() -> None:
    """When nobody reads stderr, nothing can be told, and a write would wait for ever: the process ends all the same."""
    program = """
        watchdog._TELL_SECONDS_MAX = 1
        os.set_blocking(2, False)
        try:
            while True:
                os.write(2, bytes(1024))
        except BlockingIOError:
            os.set_blocking(2, True)
        with watchdog.Watchdog(0.3):
            time.sleep(60)
    """
    command = [sys.executable, "-c", _PREAMBLE + textwrap.dedent(program)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.wait(_WAIT_MAX_S) == -signal.SIGALRM


def test_the_age_is_that_of_the_last_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a liveness probe asks for."""
    now = 1000.0
    monkeypatch.setattr("worker.edges.watchdog.time", SimpleNamespace(monotonic=lambda: now))
    dog = Watchdog(60.0)
    now += 0.75
    assert dog.age_s() == 0.75
    dog.beat()
    assert dog.age_s() == 0.0
