"""What `doctor` says of brokers, topics, clocks, the group, stored state and the machine."""

import json
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from worker.cli_doctor import doctor
from worker.doctor.cluster_checks import broker_findings, clock_findings, topic_findings
from worker.doctor.facts import Access, Clocks, Documents, Machine, Port, Topics
from worker.doctor.findings import Area, Finding, Status, error, ok, unknown, warning
from worker.doctor.group_checks import group_findings, state_findings
from worker.doctor.machine import look
from worker.doctor.machine_checks import documents_findings, machine_findings
from worker.doctor.report import Report, blamed, summary, worst
from worker.doctor.shipping import look_at_documents
from worker.edges.kafka.diagnosis import GroupSeen, Missing, TopicSeen
from worker.edges.kafka.topics import UNREADABLE
from worker.edges.kafka.topics import Finding as TopicFinding
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.ops_settings import OpsSettings
from worker.recovery.problems import ProblemKind
from worker.settings import ArtefactSettings, KafkaSettings, Settings
from worker.state_admin.inspection import Lag, Problem, ShardReport
from worker.state_admin.inspection import Report as StateReport

SETTINGS = Settings()
SOUND_BROKER = {
    "offset.metadata.max.bytes": "4096",
    "transaction.max.timeout.ms": "900000",
    "offsets.retention.minutes": "10080",
}
SOUND_MACHINE = Machine("3.11", 2, "/cache", Port("free"), "", artefacts_tried=True, secrets="")
DAY_MS = 86_400_000
NOBODY = "http://127.0.0.1:9"


def statuses(findings: Sequence[Finding]) -> list[Status]:
    """Return how it is."""
    return [each.status for each in findings]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("offset.metadata.max.bytes", "4095", Status.ERROR),
        ("transaction.max.timeout.ms", "14999", Status.ERROR),
        ("transaction.max.timeout.ms", "15000", Status.OK),
        ("offsets.retention.minutes", "60", Status.WARNING),
        ("offsets.retention.minutes", "nonsense", Status.OK),
    ],
)
def test_settings_of_brokers(name: str, value: str, status: Status) -> None:
    """Each that a worker cannot live with, and the last value that it can."""
    (found,) = broker_findings(SETTINGS, SOUND_BROKER | {name: value}, 3)
    assert found.status is status
    assert status is Status.OK or name in found.message


def test_a_single_broker_and_settings_that_are_hidden() -> None:
    """Neither stops a worker."""
    assert statuses(list(broker_findings(SETTINGS, SOUND_BROKER, 1))) == [Status.WARNING, Status.OK]
    (found,) = broker_findings(SETTINGS, Missing("Cluster authorization failed.", forbidden=True), 3)
    assert found.status is Status.UNKNOWN
    assert "DescribeConfigs on the cluster" in found.advice


def topics(findings: Sequence[TopicFinding] = (), **settings: str) -> Topics:
    """Return what was told of topics; settings are those of all."""
    names = (getattr(SETTINGS.topics, role) for role in ("predictions", "labels", "state", "incidents"))
    told = {name.replace("_", "."): value for name, value in settings.items()}
    return Topics(list(findings), {}, dict.fromkeys(names, told), SOUND_BROKER)


def judged(seen: Topics, hidden: Sequence[str] = ()) -> list[Finding]:
    """Judge topics of which some are hidden."""
    access = Access(dict.fromkeys(hidden, Missing("no", forbidden=True)), Missing("?"), None)
    return list(topic_findings(SETTINGS, seen, access))


@pytest.mark.parametrize(
    ("kept_ms", "status"),
    [(-1, None), (7 * DAY_MS, None), (DAY_MS, None), (DAY_MS - 1, Status.WARNING), (99_999, Status.ERROR)],
)
def test_inputs_must_outlive_snapshots(kept_ms: int, status: Status | None) -> None:
    """A restart reads again what came since the last snapshot; an outage needs more."""
    found = judged(topics(retention_ms=str(kept_ms)))
    assert set(statuses(found)) == {status or Status.OK}
    if status:
        assert [each.message.split()[0] for each in found] == ["predictions", "labels"]
        assert "--entity-name labels --add-config retention.ms=" in found[1].advice


@pytest.mark.parametrize(
    ("seen", "needed", "says"),
    [
        (TopicSeen(4, 3, 3, 0), "2", ""),
        (TopicSeen(4, 3, 2, 0), "2", ""),
        (TopicSeen(4, 3, 1, 0), "2", "a partition has 1"),
        (TopicSeen(4, 1, 1, 0), "2", "it takes none"),
        (TopicSeen(4, 3, 3, 2), "2", "2 of 4 partitions have no leader"),
    ],
)
def test_partitions_that_take_no_records(seen: TopicSeen, needed: str, says: str) -> None:
    """Without a leader, or with fewer copies in sync than are wanted."""
    found = judged(topics(min_insync_replicas=needed)._replace(seen={"state": seen}))
    assert statuses(found) == [Status.ERROR if says else Status.OK]
    assert says in found[0].message


def test_records_must_hold_a_chunk_of_a_snapshot() -> None:
    """A client that may send less can never store state."""
    for largest, status in ((900_999, Status.ERROR), (901_000, Status.OK)):
        small = Settings(kafka=KafkaSettings(properties={"message.max.bytes": str(largest)}))
        found = topic_findings(small, topics(), Access({}, Missing("?"), None))
        assert statuses(list(found)) == [status]


def test_compacted_topics_must_close_their_segments() -> None:
    """With Kafka's default of a week state is compacted once a week."""
    found = judged(topics(segment_ms=str(7 * DAY_MS)))
    assert [each.message.split()[0] for each in found] == ["modelvigil.state", "modelvigil.incidents"]
    assert statuses(judged(topics(segment_ms="1200000"))) == [Status.OK]


def test_what_the_topics_command_finds_is_told_once() -> None:
    """What is hidden is told by access, settings that cannot be read in one line."""
    told = [
        TopicFinding("error", "labels", "does not exist: run `modelvigil topics create`"),
        TopicFinding("error", "modelvigil.state", "cleanup.policy must be compact alone: it would lose its state"),
        TopicFinding("warning", "feedback", f"{UNREADABLE} (no): not checked"),
    ]
    found = judged(topics(told), hidden=["labels"])
    assert [(each.message, each.advice) for each in found] == [
        ("modelvigil.state cleanup.policy must be compact alone", "it would lose its state")
    ]
    hidden = topics()._replace(settings={"labels": Missing("no")})
    (unread,) = judged(hidden)
    assert unread.status is Status.UNKNOWN
    assert judged(topics(), hidden=["labels"]) == []


def clocks(newest_ms: dict[str, int | Missing | None], commit_ms: int | Missing | None) -> list[Finding]:
    """Judge timestamps relative to now."""
    now_ms = 1_000_000
    shifted = {name: now_ms + each if isinstance(each, int) else each for name, each in newest_ms.items()}
    commit = now_ms + commit_ms if isinstance(commit_ms, int) else commit_ms
    return list(clock_findings(SETTINGS, Clocks(now_ms, shifted, commit)))


def test_a_timestamp_of_the_future_tells_whose_clock_is_ahead() -> None:
    """For certain; a small difference is the network's."""
    (found,) = clocks({"predictions": 5_000, "labels": 1_900}, None)
    assert found.message == "a writer of predictions has a clock that is 5 s ahead of this machine's"
    (found,) = clocks({"modelvigil.alerts": 90_000_000}, -1_000)
    assert found.message.startswith("a worker of modelvigil.alerts has a clock that is 25 h ahead")
    (found,) = clocks({}, 3_000)
    assert found.message.startswith("the broker of the group")
    assert statuses(clocks({"labels": None}, 1_000)) == [Status.OK]


def test_without_a_commit_of_just_now_a_clock_that_is_behind_cannot_be_told() -> None:
    """A position that was committed long ago says nothing of today."""
    for commit_ms in (None, Missing("no"), -60_000):
        assert statuses(clocks({"predictions": -5, "labels": Missing("no")}, commit_ms)) == [Status.UNKNOWN]


def state(lag: int = 0, problems: Sequence[Problem] = (), shards: int = 2) -> StateReport:
    """Return what `state inspect` found; problems are those of shard 0."""
    lags = Lag(0, lag, 0, lag)
    reports = [
        ShardReport(each, lags, None, None, None, list(problems) if each == 0 else [], []) for each in range(shards)
    ]
    return StateReport("modelvigil", "predictions", "c", 0, [], reports)


def group(members: int, assignor: str = "cooperative-sticky", status: str = "stable") -> GroupSeen:
    """Return a group."""
    return GroupSeen(status, assignor, ["modelvigil at 10.0.0.1"] * members, frozenset())


def test_a_group_at_work_and_one_that_stands_still() -> None:
    """Records that nobody reads are worth a warning; no records and no worker is a beginning."""
    (works,) = group_findings(SETTINGS, group(2), state(5))
    assert works == ok(Area.GROUP, "group modelvigil is stable, 2 workers, 10 predictions to be read")
    (stands,) = group_findings(SETTINGS, group(0, "", "empty"), state(5))
    assert stands.status is Status.WARNING
    (rests,) = group_findings(SETTINGS, group(0, "", "empty"), state(0))
    assert rests.status is Status.OK
    (new,) = group_findings(SETTINGS, group(0, "", "dead"), state(5))
    assert "does not exist yet" in new.message
    assert statuses(list(group_findings(SETTINGS, group(3), state()))) == [Status.OK, Status.WARNING]


def test_a_group_of_another_program_is_an_error() -> None:
    """Its members would take partitions and do nothing with them."""
    (found,) = group_findings(SETTINGS, group(1, "range"), state())
    assert found.status is Status.ERROR
    assert "[kafka] group_id" in found.advice
    (hidden,) = group_findings(SETTINGS, Missing("Group authorization failed", forbidden=True), state())
    assert hidden.status is Status.UNKNOWN


def test_with_the_newer_group_protocol_the_broker_names_the_assignor() -> None:
    """Workers with `group.protocol = consumer` are no other program."""
    newer = Settings(kafka=KafkaSettings(properties={"group.protocol": "consumer"}))
    (works,) = group_findings(newer, group(1, "uniform"), state())
    assert works.status is Status.OK


def test_problems_of_stored_state_are_told_by_shard() -> None:
    """Those that `state inspect` tells, of a few shards at most."""
    problem = Problem(ProblemKind.INPUT_GONE, "predictions must be read again from offset 5, but begins at 9")
    (found,) = state_findings(state(problems=[problem]))
    assert found.message == f"shard 0: {problem.message} [{ProblemKind.INPUT_GONE}]"
    assert "state inspect --partition 0" in found.advice
    (sound,) = state_findings(state())
    assert sound.status is Status.OK
    bad = msgspec.structs.replace(state(), shards=state(problems=[problem], shards=1).shards * 9)
    assert len(list(state_findings(bad))) == 6
    assert statuses(list(state_findings(Missing("no answer")))) == [Status.UNKNOWN]


def test_a_machine_that_lacks_something() -> None:
    """Each thing is told by itself."""
    assert statuses(list(machine_findings(SETTINGS, SOUND_MACHINE))) == [Status.OK]
    poor = SOUND_MACHINE._replace(
        compiled_at="", port=Port("taken", "port 9464"), artefacts="/x cannot be written to", secrets="no such file"
    )
    found = list(machine_findings(SETTINGS, poor))
    assert statuses(found) == [Status.OK, Status.ERROR, Status.WARNING, Status.ERROR, Status.ERROR]
    open_to_all = Settings(ops=OpsSettings(listen="0.0.0.0", port=8080))  # noqa: S104 - what is warned of
    taken = SOUND_MACHINE._replace(port=Port("taken", "port 8080"), artefacts_tried=False)
    assert statuses(list(machine_findings(open_to_all, taken))) == [
        Status.OK,
        Status.ERROR,
        Status.WARNING,
        Status.UNKNOWN,
    ]
    assert statuses(list(machine_findings(SETTINGS, Missing("no answer")))) == [Status.UNKNOWN]


def test_where_documents_are_shipped_to() -> None:
    """Nobody asks where nothing is set; else each thing that is wrong has its own advice."""
    assert look_at_documents(SETTINGS) is None
    # The image names the port of the shipper's pages for whoever ships.
    assert look_at_documents(Settings(elasticsearch=ElasticsearchSettings(ops_listen="::", ops_port=9464))) is None
    assert list(documents_findings(None)) == []
    (away,) = documents_findings(look_at_documents(Settings(elasticsearch=ElasticsearchSettings(urls=(NOBODY,)))))
    assert (away.status, away.area) == (Status.ERROR, Area.ELASTICSEARCH)
    (refused,) = documents_findings(Missing("HTTP 401", forbidden=True))
    assert "api_key" in refused.advice
    (bare,) = documents_findings(Documents(["modelvigil-alerts"]))
    assert bare.advice == "run `modelvigil ship elasticsearch --setup`"
    assert statuses(list(documents_findings(Documents([])))) == [Status.OK]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, Documents([])),
        ({"/_index_template/modelvigil-alerts": 404}, Documents(["modelvigil-alerts"])),
        ({"/": 401}, Missing("HTTP 401: {}", forbidden=True)),
        ({"/_index_template/modelvigil-metrics": 403}, Missing("template modelvigil-metrics: HTTP 403: {}")),
    ],
)
def test_a_cluster_of_documents_is_only_asked(answers: dict[str, int], expected: Documents | Missing) -> None:
    """A server that answers, lacks a template, or refuses; the first node is away."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answers.get(self.path, 200))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        urls = (NOBODY, f"http://127.0.0.1:{server.server_port}")
        found = look_at_documents(Settings(elasticsearch=ElasticsearchSettings(urls=urls)))
        server.shutdown()
    assert found == expected
    assert asked


def test_ports_and_folders_are_looked_at(tmp_path: Path) -> None:
    """A port that is taken, one that is free, an address of another machine; a folder that cannot be made."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert look(Settings(ops=OpsSettings(port=port))).port.state == "taken"
    assert look(Settings(ops=OpsSettings(port=port))).port.state == "free"
    assert look(Settings(ops=OpsSettings(port=0))).port.state == "free"
    assert look(Settings(ops=OpsSettings(listen="nowhere.invalid", port=port))).port.state == "impossible"
    assert look(Settings(ops=OpsSettings(socket=str(tmp_path / "no" / "s")))).port.state == "impossible"
    assert look(Settings(ops=OpsSettings(socket=str(tmp_path / "s")))).port.state == "free"
    (tmp_path / "file").write_text("")
    assert look(Settings(artefacts=ArtefactSettings(url=str(tmp_path / "file" / "models")))).artefacts
    assert not look(Settings(artefacts=ArtefactSettings(url=str(tmp_path / "new" / "models")))).artefacts
    assert not (tmp_path / "new").exists()


def test_the_worst_and_the_first_to_blame() -> None:
    """What cannot be found out is no failure; of several errors the first area is the cause of the others."""
    sound = [ok(Area.BROKER, "a"), unknown(Area.CLOCK, "b")]
    assert (worst(sound), blamed(sound)) == (Status.OK, None)
    unwise = [*sound, warning(Area.EVENTS, "c", "d")]
    assert (worst(unwise), blamed(unwise)) == (Status.WARNING, None)
    wrong = [*unwise, error(Area.STATE, "e", "f"), error(Area.ACCESS, "g", "h")]
    assert (worst(wrong), blamed(wrong)) == (Status.ERROR, Area.ACCESS)
    report = Report("1", "g", "k", 0, worst(wrong), wrong)
    assert list(summary(report)) == ["1 ok, 1 warning, 2 errors, 1 unknown"]


def test_acls_are_printed_without_a_broker() -> None:
    """For all commands, or for some; who is unknown is refused."""
    run = CliRunner().invoke
    everything = run(doctor, ["--acls", "--principal", "User:x"], standalone_mode=False).output.splitlines()
    some = run(doctor, ["--acls", "--for", "run", "--for", "notify"], standalone_mode=False).output.splitlines()
    assert all(line.startswith("kafka-acls --bootstrap-server localhost:9092") for line in everything)
    assert len(everything) > len(some)
    assert any("--topic modelvigil.state" in line for line in some)
    assert not any("-ship-elasticsearch" in line for line in some)
    state = run(doctor, ["--acls", "--for", "state"], standalone_mode=False).output
    assert "--operation Describe --topic predictions" not in state
    assert "--operation Read --topic predictions" in state
    inspected = run(doctor, ["--acls", "--for", "state inspect"], standalone_mode=False).output
    assert "--operation Describe --topic predictions" in inspected
    assert "known are" in str(run(doctor, ["--acls", "--for", "nobody"], standalone_mode=False).exception)
    assert "--for goes with" in str(run(doctor, ["--for", "run"], standalone_mode=False).exception)


def test_a_cluster_that_is_away_is_told_as_json() -> None:
    """One document, code 4, no secret, and what needs no Kafka is told all the same."""
    environment = {"MODELVIGIL_KAFKA_SASL_PASSWORD": "hidden-word", "MODELVIGIL_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    result = CliRunner(env=environment).invoke(doctor, ["--json"], standalone_mode=False)
    assert result.return_value == 4
    report = json.loads(result.output)
    assert report["status"] == "error"
    assert {each["area"] for each in report["findings"]} == {"connection", "machine"}
    assert "hidden-word" not in result.output
