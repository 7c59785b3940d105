"""The membership port, and the client library behind it, whose own thread joins and sends heartbeats.

Rule 1: the thread learns of a new generation, or of being out, by itself; the listener learns of it in `poll` only.
Rule 2: while the listener has not served an event, the thread joins no further generation.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from tests.sim.faults import Fault, Site
from tests.sim.host import Host
from worker.ports import GroupListener, Position, PositionUnstableError


class NotAMemberError(Exception):
    """This client is in no group right now."""


class SimMembership:
    """Implements `ports.Membership`; to the coordinator it is a `GroupClient`.

    Args:
        host: the process.
        poll_interval_ms_max: who is not polled for so long leaves the group.
    """

    def __init__(self, host: Host, poll_interval_ms_max: int = 3_000) -> None:
        self.owned: set[int] = set()
        self._poll_interval_ms_max = poll_interval_ms_max
        self._host = host
        self._group = host.broker.group
        self._member_id = ""
        self._generation = -1
        self._events: deque[tuple[str, list[int]]] = deque()
        self.serving = False
        """Whether a callback is under way."""
        self._closing = False
        self._unanswered = 0
        self._polled_ms = self._beat_at_ms = host.broker.now_ms

    # What the worker calls.

    def poll(self, listener: GroupListener) -> None:
        """Tell the listener what the group has decided. Inside a callback it does nothing."""
        self._host.enter(Site.POLL)
        if self.serving:
            return
        self._polled_ms = self._host.broker.now_ms
        self.serving = True
        while self._events:
            self._serve(listener, *self._events.popleft())
        self.serving = False
        self._polled_ms = self._host.broker.now_ms

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        """Return committed positions."""
        if self._host.enter(Site.COMMITTED) is Fault.UNSTABLE:
            self._unanswered = self._host.rng.choice((1, 2, 12))
        if self._unanswered:
            self._unanswered -= 1
            raise PositionUnstableError("the coordinator does not answer")
        return self._group.positions(partitions)

    def close(self, listener: GroupListener) -> None:
        """Give up everything and leave."""
        self._host.enter(Site.LEAVE)
        self._closing = True
        self._events.clear()
        if self.owned:
            self.serving = True
            self._serve(listener, "revoked" if self._is_member() else "lost", sorted(self.owned))
        if self._member_id:
            self._group.leave(self._member_id)
            self._member_id = ""

    def group_metadata(self) -> tuple[str, int]:
        """Return member id and generation as the client knows them, for the positions in a transaction."""
        if not self._member_id:
            raise NotAMemberError("out of the group")
        return self._member_id, self._generation

    def _serve(self, listener: GroupListener, what: str, partitions: list[int]) -> None:
        match what:
            case "assigned":
                self.owned.update(partitions)
                listener.assigned(partitions)
            case "revoked":
                listener.revoked(partitions)
                self.owned.difference_update(partitions)
                if self._is_member() and not self._closing:
                    self._group.rebalance()
            case _:
                # What a callback under way has just given up cannot be lost any more.
                lost = sorted(self.owned.intersection(partitions))
                self.owned.difference_update(lost)
                listener.lost(lost)

    @property
    def settled(self) -> bool:
        """Whether it is a member, knows the current generation, and has told the listener everything."""
        return self._is_member() and self._generation == self._group.generation and not self._events

    # What the client's own thread does.

    def beat(self, now_ms: int) -> None:
        """Send a heartbeat when it is due: learn of being out, join, take part in a rebalance."""
        if self._closing or not self._host.beats or now_ms < self._beat_at_ms:
            return
        self._beat_at_ms = now_ms + self._group.timing.heartbeat_ms
        if self._member_id and not self._is_member():
            self._lose()
        elif self._member_id and now_ms - self._polled_ms >= self._poll_interval_ms_max:
            self._group.leave(self._member_id)
            self._lose()
        if self._events or self.serving or now_ms - self._polled_ms >= self._poll_interval_ms_max:
            return
        if not self._member_id:
            self._member_id = self._group.join(self, now_ms)
        self._group.ready(self._member_id)

    def answers(self, _now_ms: int) -> bool:
        """Tell whether the coordinator hears from this client."""
        return self._host.beats and not self._closing

    def synced(self, generation: int, assigned: frozenset[int]) -> None:
        """Learn an assignment: what goes is given up first, then what comes is taken over, and be it nothing."""
        self._generation = generation
        gone = sorted(self.owned - assigned)
        if gone:
            self._events.append(("revoked", gone))
        self._events.append(("assigned", sorted(assigned - self.owned)))

    def _is_member(self) -> bool:
        return bool(self._member_id) and self._group.has(self._member_id)

    def _lose(self) -> None:
        """What was to be given up is lost first, then the rest: so tells the real client."""
        self._member_id, self._generation = "", -1
        leaving = {part for what, partitions in self._events if what == "revoked" for part in partitions}
        self._events.clear()
        self._events.extend(("lost", sorted(part)) for part in (leaving, self.owned - leaving) if part)
