"""Ports that a local server keeps, also while it does not listen on them."""

import os
import socket
import subprocess
import sys
from typing import Final

import pytest

from worker.edges.broker import ports as module
from worker.edges.broker.jars import BrokerError
from worker.edges.broker.ports import ReservedPorts

_TAKE_TWO: Final = """
import os, sys
from worker.edges.broker.ports import ReservedPorts
os.getpid = lambda: int(sys.argv[1])
print(*ReservedPorts(2).numbers)
"""


def test_two_processes_that_begin_at_the_same_place_get_different_ports() -> None:
    """A broker that is being restarted listens on nothing for seconds: its port must stay its own."""
    mine = ReservedPorts(2)
    command = [sys.executable, "-c", _TAKE_TWO, str(os.getpid())]
    theirs = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert not set(mine.numbers) & set(map(int, theirs))
    assert mine.numbers != ReservedPorts(2).numbers


def test_ports_that_nobody_holds_any_more_are_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a reservation that went nor a process that was killed keeps them."""
    monkeypatch.setattr(os, "getpid", lambda: 4321)
    first = ReservedPorts(3)
    numbers = first.numbers
    del first
    assert ReservedPorts(3).numbers == numbers


def test_a_port_on_which_a_stranger_listens_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not know our locks is noticed as well."""
    monkeypatch.setattr(os, "getpid", lambda: 4400)
    numbers = ReservedPorts(2).numbers
    with socket.create_server(("127.0.0.1", numbers[1])):
        assert not set(ReservedPorts(2).numbers) & set(numbers)


def test_no_ports_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, instead of looking for ever."""
    monkeypatch.setattr(module, "_PORTS", range(20_990, 20_994))
    held = [ReservedPorts(2), ReservedPorts(2)]
    with pytest.raises(BrokerError, match="no 2 free ports between 20990 and 20994"):
        ReservedPorts(2)
    assert len(held) == 2
