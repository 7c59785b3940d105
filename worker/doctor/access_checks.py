"""Whether this user may do what the commands need."""

from collections.abc import Iterator, Sequence

from worker.doctor.acls import Grant, Operation, Resource, Use, additions, grants
from worker.doctor.facts import Access
from worker.doctor.findings import Area, Finding, error, ok, unknown, warning
from worker.edges.kafka.diagnosis import GroupSeen, Missing
from worker.settings import Settings

_AREA = Area.ACCESS
_ALL = frozenset({Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS})
_ASKING = "grant Describe to see it, or run `modelvigil doctor --acls` for the whole list"


def access_findings(settings: Settings, access: Access, principal: str) -> Iterator[Finding]:
    """Compare what is allowed with what the worker needs, and `notify`, where targets are configured.

    Args:
        settings: names and what is configured.
        access: what the brokers told.
        principal: as whom this user is known there, for the commands in the advice.
    """
    uses = [Use.WORKER, *([Use.NOTIFY] if settings.notify.targets else [])]
    wanted = [grant for grant in grants(settings, uses) if grant.resource in {Resource.TOPIC, Resource.GROUP}]
    found = [finding for grant in wanted if (finding := _judged(grant, access, settings, principal)) is not None]
    found += _transactions(settings, access, principal)
    if found:
        yield from found
    else:
        yield ok(_AREA, f"this user may do all that {' and '.join(f'`{use}`' for use in uses)} needs")


def _judged(grant: Grant, access: Access, settings: Settings, principal: str) -> Finding | None:
    if grant.resource is Resource.TOPIC:
        allowed = access.topics if isinstance(access.topics, Missing) else access.topics.get(grant.name, Missing("?"))
    elif grant.name != settings.kafka.group_id:
        # Of the groups of targets only a prefix is known.
        return None
    else:
        allowed = _of_group(access)
    if isinstance(allowed, Missing):
        if allowed.absent:
            return None
        if not allowed.forbidden:
            return unknown(
                _AREA, f"what this user may do with {grant.resource} {grant.name}: {allowed.reason}", _ASKING
            )
    elif grant.operation in allowed:
        return None
    return _refused([grant], principal)


def _of_group(access: Access) -> frozenset[str] | Missing:
    if isinstance(access.group, GroupSeen):
        return Missing("the broker does not tell") if access.group.operations is None else access.group.operations
    if not access.group.absent:
        return access.group
    unrestricted = not isinstance(access.topics, Missing) and all(
        each.absent if isinstance(each, Missing) else each >= _ALL for each in access.topics.values()
    )
    # A group that does not exist tells nothing; who may do everything with all topics is not restricted here either.
    return _ALL if unrestricted else Missing("it does not exist yet, so only the first start of a worker can tell")


def _transactions(settings: Settings, access: Access, principal: str) -> Iterator[Finding]:
    missing = access.transactions
    if missing is None:
        return
    if missing.forbidden:
        needed = [each for each in grants(settings, [Use.WORKER]) if each.resource is Resource.TRANSACTIONAL_ID]
        yield _refused(needed, principal)
    elif "timeout" in missing.reason.lower() and "invalid" in missing.reason.lower():
        yield error(
            Area.BROKER,
            f"the broker refuses worker.transaction_timeout_ms = {settings.worker.transaction_timeout_ms}",
            "make it smaller, or raise transaction.max.timeout.ms of the brokers",
        )
    else:
        yield error(
            Area.BROKER,
            f"transactions do not work: {missing.reason}",
            "check that the topic __transaction_state has leaders and enough replicas in sync",
        )


def _refused(refused: Sequence[Grant], principal: str) -> Finding:
    grant = refused[0]
    message = f"this user may not {grant.operation} {grant.resource} {grant.name}"
    (addition,) = additions(refused, principal)
    advice = f"kafka-acls ... {addition}"
    if grant.optional:
        return warning(_AREA, f"{message}: {grant.optional}", advice)
    return error(_AREA, f"{message}, which `{grant.use}` needs", advice)
