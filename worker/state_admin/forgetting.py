"""Forgets the state of shards on purpose: deletes what is stored, and commits the positions without a pointer."""

from collections.abc import Sequence
from typing import NamedTuple

from worker.ports import Position, StateRecord
from worker.state_admin.session import Session


class Forgetting(NamedTuple):
    """What is about to be forgotten of one shard."""

    partition: int
    position: Position | None
    keys: list[bytes]

    @property
    def line(self) -> str:
        """It in words."""
        if self.position is None:
            where = "no position is committed, and none will be"
        else:
            where = f"position {self.position.offset} stays"
        return f"shard {self.partition}: {len(self.keys)} stored records are deleted, {where}"


def plan_reset(session: Session, partitions: Sequence[int]) -> list[Forgetting]:
    """Look at what there is. Raises StateAdminError while the group has members."""
    session.refuse_members()
    positions = session.positions(partitions)
    return [
        Forgetting(
            partition, positions[partition], session.stored_keys(partition) if partition < session.stateful else []
        )
        for partition in partitions
    ]


def reset_state(session: Session, plan: Sequence[Forgetting]) -> None:
    """Forget, all in one transaction. Raises StateAdminError when somebody has joined the group."""
    # What is committed for `labels` stays: lag tools read it, a worker does not.
    positions = {each.partition: Position(each.position.offset) for each in plan if each.position is not None}
    tombstones = [StateRecord(each.partition, key, None) for each in plan for key in each.keys]
    with session.sink() as sink:
        session.commit(sink, positions, tombstones)
