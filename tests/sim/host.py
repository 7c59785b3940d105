"""The process that the simulated ports live in: it can die, freeze, be slow, and be cut off from the group."""

import random
from typing import Protocol

from tests.sim.broker import SimBroker
from tests.sim.faults import Fault, Site


class Host(Protocol):
    """What a simulated port needs from its process."""

    @property
    def broker(self) -> SimBroker:
        """The cluster."""
        ...

    @property
    def rng(self) -> random.Random:
        """The source of all chance."""
        ...

    @property
    def beats(self) -> bool:
        """Whether the client's own thread runs and reaches the cluster."""
        ...

    def enter(self, site: Site) -> Fault | None:
        """Pass a site: time goes by, others run, this process may die here. Returns what else goes wrong."""
        ...

    def sleep(self, wait_ms: int) -> None:
        """Let time go by, and others run."""
        ...


class QuietHost:
    """A process to which nothing happens; its sleeping alone moves the cluster's time. For tests of the model."""

    beats = True

    def __init__(self, broker: SimBroker, rng: random.Random) -> None:
        self.broker = broker
        self.rng = rng
        self.clients: list[SimClient] = []
        """The clients whose own threads run while this host sleeps."""

    def enter(self, _site: Site) -> None:
        """Pass a site."""
        self.sleep(1)

    def sleep(self, wait_ms: int) -> None:
        """Let time go by."""
        self.broker.tick(self.broker.now_ms + wait_ms, self._beat)

    def _beat(self, now_ms: int) -> None:
        for client in self.clients:
            client.beat(now_ms)


class Bystander(QuietHost):
    """Somebody who looks at the cluster in the midst of a run, and must not move its time."""

    def sleep(self, wait_ms: int) -> None:
        """Go on at once."""


class SimClient(Protocol):
    """A client library with a thread of its own."""

    def beat(self, now_ms: int) -> None:
        """Do what that thread does."""
        ...
