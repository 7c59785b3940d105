"""What each command may need to do in Kafka: the list that `doctor` checks, the documentation shows and a test grants.

Read and Write include Describe, so that is named only where neither of them is. Nothing needs IdempotentWrite (Kafka
3.0 and later take Write on a topic for it).
"""

import shlex
from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Literal, NamedTuple

from worker.cluster import writes_scores
from worker.settings import Settings

INPUTS = ("predictions", "labels", "feedback")
OUTPUTS = ("alerts", "incidents", "metrics", "maintenance", "dead_letters")
_NOTED = "cleanup policies are not checked"


class Use(StrEnum):
    """Who connects to Kafka, and as what."""

    WORKER = "run"
    NOTIFY = "notify"
    SHIP = "ship"
    FEEDBACK = "feedback"
    REPLAY = "replay"
    INSPECT = "state inspect"
    """And `state export`."""
    CHANGE_STATE = "state import"
    """And `state reset`."""
    TOPICS = "topics create"
    """And `topics check`, which can do without Create."""
    DOCTOR = "doctor"


class Resource(StrEnum):
    """What can be protected, as `kafka-acls` calls it."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"
    CLUSTER = "cluster"


class Operation(StrEnum):
    """What can be allowed, as `kafka-acls` calls it."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"


class Grant(NamedTuple):
    """One thing that must be allowed."""

    use: Use
    resource: Resource
    name: str
    operation: Operation
    pattern: Literal["literal", "prefixed"] = "literal"
    optional: str = ""
    """What is lost without it; empty: the command does not work."""


class _Need(NamedTuple):
    resource: Resource
    what: str
    """The role of a topic; what the name of a group or transactional id ends with."""
    operation: Operation
    pattern: Literal["literal", "prefixed"] = "literal"
    optional: str = ""


def _topics(operation: Operation, *roles: str, optional: str = "") -> tuple[_Need, ...]:
    return tuple(_Need(Resource.TOPIC, role, operation, optional=optional) for role in roles)


def _group(operation: Operation, ending: str = "", pattern: Literal["literal", "prefixed"] = "literal") -> _Need:
    return _Need(Resource.GROUP, ending, operation, pattern)


_SHIPPING = "-ship-elasticsearch"
_TRANSACTIONS = _Need(Resource.TRANSACTIONAL_ID, "-", Operation.WRITE, "prefixed")
_NEEDS: dict[Use, tuple[_Need, ...]] = {
    Use.WORKER: (
        *_topics(Operation.READ, *INPUTS, "state"),
        *_topics(Operation.WRITE, *OUTPUTS, "scores", "state"),
        _group(Operation.READ),
        _TRANSACTIONS,
        *_topics(Operation.DESCRIBE_CONFIGS, *INPUTS, "incidents", "state", optional=_NOTED),
    ),
    Use.NOTIFY: (
        *_topics(Operation.READ, "alerts", "incidents"),
        *_topics(Operation.WRITE, "dead_letters"),
        _group(Operation.READ, "-notify-", "prefixed"),
    ),
    Use.SHIP: (
        *_topics(Operation.READ, "alerts", "metrics", "maintenance", "dead_letters"),
        *_topics(Operation.WRITE, "dead_letters"),
        _group(Operation.READ, _SHIPPING),
    ),
    Use.FEEDBACK: (
        *_topics(Operation.READ, "feedback", "alerts", "incidents", "maintenance"),
        *_topics(Operation.WRITE, "feedback"),
    ),
    Use.REPLAY: (*_topics(Operation.READ, *INPUTS, "alerts"), _group(Operation.DESCRIBE)),
    Use.INSPECT: (
        *_topics(Operation.READ, "state"),
        *_topics(Operation.DESCRIBE, *INPUTS, *OUTPUTS, "scores"),
        _group(Operation.DESCRIBE),
    ),
    Use.CHANGE_STATE: (
        *_topics(Operation.READ, "predictions", "labels", "state"),
        *_topics(Operation.WRITE, "state"),
        *_topics(Operation.DESCRIBE, "feedback", *OUTPUTS, "scores"),
        _group(Operation.READ),
        _TRANSACTIONS,
    ),
    Use.TOPICS: (
        *_topics(Operation.CREATE, *INPUTS, *OUTPUTS, "scores", "state"),
        *_topics(Operation.DESCRIBE, *INPUTS, *OUTPUTS, "scores", "state"),
        *_topics(Operation.DESCRIBE_CONFIGS, *INPUTS, *OUTPUTS, "scores", "state", optional=_NOTED),
    ),
    Use.DOCTOR: (
        *_topics(Operation.READ, "predictions", "labels", "state"),
        *_topics(Operation.DESCRIBE, "feedback", *OUTPUTS, "scores"),
        _group(Operation.DESCRIBE),
        _TRANSACTIONS,
        *_topics(
            Operation.DESCRIBE_CONFIGS,
            *INPUTS,
            *OUTPUTS,
            "scores",
            "state",
            optional="settings of topics are not checked",
        ),
        _Need(Resource.CLUSTER, "", Operation.DESCRIBE_CONFIGS, optional="settings of the brokers are not checked"),
    ),
}


def grants(settings: Settings, uses: Collection[Use] = tuple(Use)) -> Iterator[Grant]:
    """Yield what the commands need under the names of these settings; `scores` only where it is written."""
    scored = writes_scores(settings)
    for use in uses:
        for need in _NEEDS[use]:
            if need.what != "scores" or scored:
                yield Grant(use, need.resource, _name(settings, need), need.operation, need.pattern, need.optional)


def _name(settings: Settings, need: _Need) -> str:
    match need.resource:
        case Resource.TOPIC:
            name: str = getattr(settings.topics, need.what)
            return name
        case Resource.CLUSTER:
            return "kafka-cluster"
        case Resource.GROUP if need.what == _SHIPPING:
            return settings.elasticsearch.group_id or settings.kafka.group_id + _SHIPPING
        case _:
            return settings.kafka.group_id + need.what


def commands(wanted: Collection[Grant], principal: str, bootstrap_servers: str) -> Iterator[str]:
    """Yield `kafka-acls` commands, one for each resource, that allow all of it."""
    for addition in additions(wanted, principal):
        servers = shlex.quote(bootstrap_servers)
        yield f"kafka-acls --bootstrap-server {servers} --command-config admin.properties {addition}"


def additions(wanted: Collection[Grant], principal: str) -> Iterator[str]:
    """Yield what stands in these commands behind the connection."""
    by_resource: dict[tuple[Resource, str, str], list[Operation]] = {}
    for grant in wanted:
        operations = by_resource.setdefault((grant.resource, grant.name, grant.pattern), [])
        if grant.operation not in operations:
            operations.append(grant.operation)
    for (resource, name, pattern), operations in by_resource.items():
        # Read and Write include it.
        implied = {Operation.READ, Operation.WRITE} & set(operations)
        told = [each for each in operations if each is not Operation.DESCRIBE or not implied]
        allowed = " ".join(f"--operation {each}" for each in told)
        named = "--cluster" if resource is Resource.CLUSTER else f"--{resource} {shlex.quote(name)}"
        prefixed = " --resource-pattern-type prefixed" if pattern == "prefixed" else ""
        yield f"--add --allow-principal {shlex.quote(principal)} {allowed} {named}{prefixed}"
