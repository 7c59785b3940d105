"""What a `Proxy` does to the frames that pass through it. Tests add and remove rules while clients are at work.

Rule 1: a frame that is late makes all frames behind it late, and one that vanishes takes with it all that follow on its
connection in its direction: TCP neither overtakes nor leaves gaps. The client has to give the connection up by itself.
Rule 2: the oldest rule that matches a frame decides on it; no other one counts it.
"""

import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, TypedDict, Unpack

from tests.e2e.faults.frames import Api, Request

_WAIT_MAX_S: Final = 20.0
FOREVER: Final = float("inf")
"""As the delay of a rule: until the rule is removed."""


class Side(Enum):
    """Which way a frame goes."""

    REQUEST = "request"
    REPLY = "reply"


class Fault(Enum):
    """What happens to a frame."""

    DELAY = "delay"
    DROP = "drop"
    CUT = "cut"
    """The connection is reset in its place."""
    HOLD = "hold"
    """It vanishes, but the proxy keeps it, and can deliver it later."""


class Held(NamedTuple):
    """A request that was held."""

    request: Request
    frame: bytes


@dataclass(eq=False, kw_only=True)
class Rule:
    """One fault, the frames that it strikes, and how often it has."""

    fault: Fault
    sides: frozenset[Side]
    apis: frozenset[Api] = frozenset()
    """Of these requests and their replies; empty: of all."""
    seconds: float = 0.0
    times: int | None = None
    """It strikes so often, then no more; None: without end."""
    skip: int = 0
    """So many frames that match pass first."""
    client_id: str = ""
    """Only clients whose `client.id` begins so."""
    hits: int = 0
    held: list[Held] = field(default_factory=list)
    removed: bool = False
    _seen: int = 0
    _struck: threading.Condition = field(default_factory=threading.Condition)

    def strikes(self, side: Side, request: Request, frame: bytes) -> bool:
        """Decide on a frame, and count it. Called by the proxy's thread."""
        if self.removed or side not in self.sides or not self._concerns(request):
            return False
        self._seen += 1
        if self._seen <= self.skip or self.hits == self.times:
            return False
        with self._struck:
            if self.fault is Fault.HOLD:
                self.held.append(Held(request, frame))
            self.hits += 1
            self._struck.notify_all()
        return True

    def wait(self, hits: int = 1, seconds_max: float = _WAIT_MAX_S) -> None:
        """Wait until it has struck so often."""
        with self._struck:
            struck = self._struck.wait_for(lambda: self.hits >= hits, seconds_max)
        assert struck, f"{self.fault.value} of {[api.name for api in self.apis]}: {self.hits} hits in {seconds_max:g} s"

    def remove(self) -> None:
        """End it. What it delays goes on at once; what has vanished stays so."""
        self.removed = True

    def _concerns(self, request: Request) -> bool:
        return (not self.apis or request.api in self.apis) and request.client_id.startswith(self.client_id)


class Limits(TypedDict, total=False):
    """Which frames a rule leaves alone; see `Rule`."""

    times: int
    skip: int
    client_id: str


class Rules:
    """The rules of one proxy. Most methods add one and return it; without APIs it concerns all of them."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()

    def delay_requests(self, *apis: Api, seconds: float, **limits: Unpack[Limits]) -> Rule:
        """Let requests reach the broker later, even if the client has given them up by then."""
        return self._add(Fault.DELAY, {Side.REQUEST}, apis, seconds, limits)

    def delay_replies(self, *apis: Api, seconds: float, **limits: Unpack[Limits]) -> Rule:
        """Let the client wait for replies."""
        return self._add(Fault.DELAY, {Side.REPLY}, apis, seconds, limits)

    def drop_requests(self, *apis: Api, **limits: Unpack[Limits]) -> Rule:
        """Let requests vanish on their way to the broker."""
        return self._add(Fault.DROP, {Side.REQUEST}, apis, 0.0, limits)

    def drop_replies(self, *apis: Api, **limits: Unpack[Limits]) -> Rule:
        """Let the broker do what is asked, and its reply vanish."""
        return self._add(Fault.DROP, {Side.REPLY}, apis, 0.0, limits)

    def cut_at_requests(self, *apis: Api, **limits: Unpack[Limits]) -> Rule:
        """Reset the connection in place of a request: the broker never gets it."""
        return self._add(Fault.CUT, {Side.REQUEST}, apis, 0.0, limits)

    def cut_at_replies(self, *apis: Api, **limits: Unpack[Limits]) -> Rule:
        """Reset the connection in place of a reply: the broker has done what was asked, and the client cannot know."""
        return self._add(Fault.CUT, {Side.REPLY}, apis, 0.0, limits)

    def hold_requests(self, *apis: Api, **limits: Unpack[Limits]) -> Rule:
        """Keep requests from the broker until `Proxy.deliver`, whatever the client does meanwhile."""
        return self._add(Fault.HOLD, {Side.REQUEST}, apis, 0.0, limits)

    def half_open(self, **limits: Unpack[Limits]) -> Rule:
        """Swallow everything, both ways, while connections stay open and new ones are taken."""
        return self._add(Fault.DROP, {Side.REQUEST, Side.REPLY}, (), 0.0, limits)

    def stall(self, **limits: Unpack[Limits]) -> Rule:
        """Let nothing through, and all of it when the rule is removed: a network that is away for a while."""
        return self._add(Fault.DELAY, {Side.REQUEST, Side.REPLY}, (), FOREVER, limits)

    def clear(self) -> None:
        """Remove all rules."""
        for rule in self._rules:
            rule.remove()
        self._rules = ()

    def striking(self, side: Side, request: Request, frame: bytes) -> Rule | None:
        """Return the rule that a frame falls under, if any. Called by the proxy's thread."""
        return next((rule for rule in self._rules if rule.strikes(side, request, frame)), None)

    def _add(self, fault: Fault, sides: set[Side], apis: tuple[Api, ...], seconds: float, limits: Limits) -> Rule:
        rule = Rule(fault=fault, sides=frozenset(sides), apis=frozenset(apis), seconds=seconds, **limits)
        # A new tuple: the proxy's thread may be walking through the old one.
        self._rules = (*self._rules, rule)
        return rule
