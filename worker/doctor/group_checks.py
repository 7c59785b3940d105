"""Whether the group works, and whether it could go on after a restart."""

from collections.abc import Iterator

from worker.doctor.findings import Area, Finding, error, ok, unknown, warning
from worker.edges.kafka.diagnosis import GroupSeen, Missing
from worker.settings import Settings
from worker.state_admin.inspection import Report, ShardReport

_ASSIGNOR = "cooperative-sticky"
_NOT_THERE = "dead"
"""How older questions tell that there is no such group."""
_SHARDS_TOLD_MAX = 5


def group_findings(settings: Settings, group: GroupSeen | Missing, state: Report | Missing) -> Iterator[Finding]:
    """Judge who is in the group, and how much is left to read."""
    name = settings.kafka.group_id
    if isinstance(group, Missing) and not group.absent:
        yield unknown(Area.GROUP, f"group {name}: {group.reason}")
        return
    if isinstance(group, Missing) or group.state == _NOT_THERE:
        yield ok(Area.GROUP, f"group {name} does not exist yet: no worker has run")
        return
    if group.members and _is_foreign(settings, group.assignor):
        yield error(
            Area.GROUP,
            f"group {name} is used by another program ({group.members[0]}, {group.assignor})",
            "give the workers a group id of their own ([kafka] group_id); if they are workers, use their settings here",
        )
        return
    lag = "" if isinstance(state, Missing) else f", {_lag(state)} predictions to be read"
    count = len(group.members)
    if count:
        yield ok(Area.GROUP, f"group {name} is {group.state}, {count} worker{'' if count == 1 else 's'}{lag}")
        if not isinstance(state, Missing) and count > len(state.shards):
            yield warning(
                Area.GROUP,
                f"group {name} has {count} workers and {len(state.shards)} partitions: some have nothing to do",
                "run no more workers than partitions, but for standing by",
            )
    elif isinstance(state, Missing) or not _lag(state):
        yield ok(Area.GROUP, f"group {name} has no members: no worker is running{lag}")
    else:
        yield warning(Area.GROUP, f"group {name} has no members{lag}", "start a worker: `modelvigil run`")


def _is_foreign(settings: Settings, assignor: str) -> bool:
    """Tell whether members assign partitions as no worker does."""
    protocol = settings.kafka.properties.get("group.protocol", "classic").lower()
    # With the newer protocol the broker assigns, by whatever it is set to: that tells nothing of the members.
    return protocol == "classic" and bool(assignor) and _ASSIGNOR not in assignor


def _lag(state: Report) -> int:
    return sum(shard.predictions.lag for shard in state.shards)


def state_findings(state: Report | Missing) -> Iterator[Finding]:
    """Judge the stored state of each shard, as `state inspect` does."""
    if isinstance(state, Missing):
        yield unknown(Area.STATE, f"stored state: {state.reason}", "run `modelvigil state inspect`")
        return
    bad = [shard for shard in state.shards if shard.problems]
    for shard in bad[:_SHARDS_TOLD_MAX]:
        yield _problem(shard)
    if len(bad) > _SHARDS_TOLD_MAX:
        yield error(Area.STATE, f"{len(bad) - _SHARDS_TOLD_MAX} more shards", "run `modelvigil state inspect`")
    if not bad:
        stored = sum(shard.stored is not None for shard in state.shards)
        yield ok(Area.STATE, f"a worker can go on everywhere; {stored} of {len(state.shards)} shards have stored state")


def _problem(shard: ShardReport) -> Finding:
    return error(
        Area.STATE,
        f"shard {shard.partition}: {'; '.join(f'{each.message} [{each.kind}]' for each in shard.problems)}",
        f"look with `modelvigil state inspect --partition {shard.partition}`; to begin anew: `modelvigil state reset`",
    )
