"""Steps of the tests that run on any rig: wait, join, look, read."""

from collections.abc import Callable, Sequence

from tests.sim.rigs import PARTITIONS, Member, Rig
from worker.core.events import Output, OutputTopic, RawBatch
from worker.ports import Position, PositionUnstableError, Reader, Source

_PAUSES_MAX = 3_000


def until(rig: Rig, reached: Callable[[], bool], *members: Member) -> None:
    """Let time go by, and poll these members, until something is so."""
    for _ in range(_PAUSES_MAX):
        if reached():
            return
        for member in members:
            member.port.poll(member.listener)
        rig.pause()
    raise AssertionError("it does not come to that")


def joined(rig: Rig, *, hasty: bool = False) -> Member:
    """Return a member that owns all partitions."""
    member = rig.member(hasty=hasty)
    until(rig, lambda: len(member.listener.owned) == PARTITIONS, member)
    return member


def alert(value: bytes, shard: int = 0) -> Output:
    """Return an output."""
    return Output(OutputTopic.ALERTS, shard, 0, b"key", value)


def values(rig: Rig, partition: int = 0) -> list[bytes | None]:
    """Return the visible alerts of a partition, as soon as no transaction ends there any more."""
    for _ in range(30):
        found = rig.visible(OutputTopic.ALERTS, partition)
        rig.pause()
        if rig.visible(OutputTopic.ALERTS, partition) == found:
            return [value for _, value in found]
    raise AssertionError("new alerts come all the time")


def settled(rig: Rig, member: Member, partition: int = 0) -> Position | None:
    """Return the committed position of a partition, as soon as it can be told."""
    until(rig, lambda: is_stable(member, partition))
    return member.port.committed([partition])[partition]


def is_stable(member: Member, partition: int = 0) -> bool:
    """Tell whether the position of a partition can be told."""
    try:
        member.port.committed([partition])
    except PositionUnstableError:
        return False
    return True


def offsets(batches: Sequence[RawBatch]) -> list[int]:
    """Return all offsets in the order in which they came."""
    return [offset for batch in batches for offset in batch.offsets]


def fetched(rig: Rig, source: Source, count: int) -> list[RawBatch]:
    """Fetch until so many records have come."""
    batches: list[RawBatch] = []
    until(rig, lambda: _grown(batches, source.fetch(1_000, 100), count))
    return batches


def read(rig: Rig, reader: Reader, count: int) -> list[RawBatch]:
    """Read until so many records have come."""
    batches: list[RawBatch] = []
    until(rig, lambda: _grown(batches, [reader.read(1_000, 100)], count))
    return batches


def _grown(batches: list[RawBatch], more: Sequence[RawBatch], count: int) -> bool:
    batches += more
    return len(offsets(batches)) >= count
