"""What must be allowed in Kafka, and what `doctor` says of what is not."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from worker.core.options import EngineOptions
from worker.doctor.access_checks import access_findings
from worker.doctor.acls import Operation, Resource, Use, commands, grants
from worker.doctor.facts import Access
from worker.doctor.findings import Area, Finding, Status
from worker.edges.kafka.diagnosis import GroupSeen, Missing
from worker.settings import KafkaSettings, Settings, TargetSettings

SETTINGS = Settings()
EVERYTHING = frozenset({"Read", "Write", "Create", "Describe", "DescribeConfigs"})
FORBIDDEN = Missing("Broker: Topic authorization failed", forbidden=True)
ABSENT = Missing("Broker: Unknown topic or partition", absent=True)


def group(operations: frozenset[str] | None = EVERYTHING) -> GroupSeen:
    """Return a group with nobody in it."""
    return GroupSeen("empty", "", [], operations)


def topics(**changed: frozenset[str] | Missing) -> dict[str, frozenset[str] | Missing]:
    """Return what is allowed with each topic, by role: everything but what is changed."""
    names = SETTINGS.topics
    return {getattr(names, role): changed.get(role, EVERYTHING) for role in names.__struct_fields__ if role != "scores"}


def findings(access: Access, settings: Settings = SETTINGS) -> list[Finding]:
    """Judge as the user `User:m`."""
    return list(access_findings(settings, access, "User:m"))


def test_who_may_do_everything_is_told_once() -> None:
    """One line for what is well, and no list."""
    (only,) = findings(Access(topics(), group(), None))
    assert (only.status, only.area) == (Status.OK, Area.ACCESS)


def test_every_grant_of_the_worker_is_missed_when_it_is_not_there() -> None:
    """Take the operations away one by one: each is told, with the command that gives it back."""
    for grant in grants(SETTINGS, [Use.WORKER]):
        if grant.resource is not Resource.TOPIC:
            continue
        allowed = topics() | {grant.name: EVERYTHING - {grant.operation}}
        (only,) = findings(Access(allowed, group(), None))
        assert only.status is (Status.WARNING if grant.optional else Status.ERROR)
        assert f"may not {grant.operation} topic {grant.name}" in only.message
        assert only.advice.endswith(f"--operation {grant.operation} --topic {grant.name}")


def test_a_hidden_topic_lacks_all_that_is_needed_of_it() -> None:
    """The broker does not even say whether it exists."""
    found = findings(Access(topics(state=FORBIDDEN), group(), None))
    assert [(each.status, each.message.split()[4]) for each in found] == [
        (Status.ERROR, "Read"),
        (Status.ERROR, "Write"),
        (Status.WARNING, "DescribeConfigs"),
    ]


def test_what_is_not_there_or_not_told_is_no_error() -> None:
    """A topic that does not exist is another check's; what is not told is unknown."""
    assert [each.status for each in findings(Access(topics(feedback=ABSENT), group(), None))] == [Status.OK]
    (silent,) = findings(Access(topics(labels=EVERYTHING - {"DescribeConfigs"}), group(None), None))[:1]
    assert silent.status is Status.UNKNOWN
    found = findings(Access(Missing("no answer in time"), group(), None))
    assert {each.status for each in found} == {Status.UNKNOWN}


def test_a_group_that_does_not_exist_is_judged_by_the_topics() -> None:
    """Where nothing is restricted, the group is not; else only the first start can tell."""
    assert findings(Access(topics(), ABSENT, None))[0].status is Status.OK
    restricted = {name: EVERYTHING - {"Create"} for name in topics()}
    assert findings(Access(restricted, ABSENT, None))[0].status is Status.OK
    own = {name: frozenset({"Read", "Write", "Describe"}) for name in topics()}
    assert Status.UNKNOWN in {each.status for each in findings(Access(own, ABSENT, None))}


def test_transactions_that_do_not_work_are_told_by_kind() -> None:
    """No ACL; a timeout that the broker does not take; anything else."""
    forbidden, timeout, other = (
        findings(Access(topics(), group(), missing))[-1]
        for missing in (
            Missing("Broker: Transactional Id authorization failed", forbidden=True),
            Missing("Broker: Invalid transaction timeout"),
            Missing("Local: Timed out"),
        )
    )
    assert "--transactional-id modelvigil- --resource-pattern-type prefixed" in forbidden.advice
    assert forbidden.area is Area.ACCESS
    assert "worker.transaction_timeout_ms = 15000" in timeout.message
    assert "transactions do not work: Local: Timed out" in other.message


def test_targets_of_notify_are_looked_at_where_there_are_any() -> None:
    """`notify` reads alerts, which a worker only writes."""
    target = TargetSettings(name="a", kind="webhook", url="https://example.org")
    notify = Settings(notify=type(SETTINGS.notify)(targets=(target,)))
    allowed = topics(alerts=EVERYTHING - {"Read"})
    assert findings(Access(allowed, group(), None))[0].status is Status.OK
    (only,) = findings(Access(allowed, group(), None), notify)
    assert only.message == "this user may not Read topic modelvigil.alerts, which `notify` needs"


def test_scores_are_in_the_list_where_they_are_written() -> None:
    """Nobody needs a topic that is never used."""
    scored = Settings(engine=EngineOptions(scores="all"))
    name = SETTINGS.topics.scores
    assert name not in {each.name for each in grants(SETTINGS)}
    assert (name, Operation.WRITE) in {(each.name, each.operation) for each in grants(scored, [Use.WORKER])}


def test_commands_allow_all_of_it_and_are_safe_in_a_shell() -> None:
    """One command for each resource; a hostile name stays one word."""
    settings = Settings(kafka=KafkaSettings(group_id="a group; rm -rf $HOME"))
    wanted = list(grants(settings))
    told = [shlex.split(line) for line in commands(wanted, "User:CN=m, O=x", "k:9092")]
    assert len(told) == len({(grant.resource, grant.name, grant.pattern) for grant in wanted})
    for line in told:
        assert line[:3] == ["kafka-acls", "--bootstrap-server", "k:9092"]
        assert line[line.index("--allow-principal") + 1] == "User:CN=m, O=x"
    allowed = {line[each + 1] for line in told for each, word in enumerate(line) if word == "--operation"}
    assert allowed == set(Operation) - {Operation.DESCRIBE}
    assert [line for line in told if "a group; rm -rf $HOME-notify-" in line]


def test_describe_is_named_only_where_nothing_includes_it() -> None:
    """Read and Write include Describe."""
    for line in commands(list(grants(SETTINGS)), "User:m", "k:9092"):
        assert not ("--operation Describe " in line and ("--operation Read" in line or "--operation Write" in line))
    (replay,) = [line for line in commands(list(grants(SETTINGS, [Use.REPLAY])), "User:m", "k") if "--group" in line]
    assert "--operation Describe --group modelvigil" in replay


def rows() -> Iterator[str]:
    """Yield the rows of the table in deploy/security.md, under the default names."""
    for use in Use:
        told: dict[tuple[Resource, str, str], list[str]] = {}
        for each in grants(SETTINGS, [use]):
            operation = f"({each.operation})" if each.optional else each.operation
            told.setdefault((each.resource, each.name, each.pattern), []).append(operation)
        by_operations: dict[tuple[Resource, str], list[str]] = {}
        for (resource, name, pattern), operations in told.items():
            star = "*" if pattern == "prefixed" else ""
            by_operations.setdefault((resource, ", ".join(operations)), []).append(f"`{name}{star}`")
        for (resource, allowed), names in by_operations.items():
            yield f"| `{use}` | {resource} | {', '.join(names)} | {allowed} |"


def test_the_table_of_the_documentation_is_this_list() -> None:
    """Whoever grants by hand grants the right things."""
    page = (Path(__file__).parents[2] / "deploy" / "security.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert table == list(rows())
