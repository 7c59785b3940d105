"""`modelvigil feedback`: what is sent, what is refused before it is sent, and what is in force; without a Kafka."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from click import UsageError
from confluent_kafka import KafkaError, Message, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from worker.cli_feedback import feedback
from worker.cli_options import ExitCode, Failure
from worker.cluster import BrokerUnreachableError, TopicsError
from worker.core.codec import decode_feedback, encode
from worker.core.events import AlertEvent, AuditEvent, FeedbackEvent, InputTopic, RawBatch, Scope, SilenceFeedback
from worker.core.events.feedback import FalsePositiveFeedback, UndoFeedback
from worker.edges.kafka import history
from worker.feedback_admin import sending
from worker.feedback_admin import session as sessions
from worker.feedback_admin.ledger import Entry, audited, entries, sent, time_of
from worker.feedback_admin.lookup import LookupFailedError, latest_steps, the_only
from worker.feedback_admin.session import Record, Session, open_session
from worker.settings import Settings, TopicSettings
from worker.times import EPOCH, LATEST, TimeError, duration, milliseconds, moment, shown, shown_duration

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
NOW_MS = milliseconds(NOW)
INCIDENTS = ("3f9a1c00", "3f9a1d00", "77000000")


def alert(incident_id: str, **changes: Any) -> AlertEvent:  # noqa: ANN401 - any field of an alert
    """Return a step of an incident."""
    step = AlertEvent(
        alert_id=f"alert {incident_id}",
        incident_id=incident_id,
        fingerprint=f"fingerprint {incident_id}",
        kind="quality.range",
        status="opened",
        severity="warning",
        summary="fraud: `amount` is out of range",
        runbook="quality.range",
        model_id="fraud",
        model_version=None,
        shard=3,
        timestamp_ms=NOW_MS,
        opened_at_ms=NOW_MS,
        last_flagged_ms=NOW_MS,
        resolved_at_ms=None,
    )
    return msgspec.structs.replace(step, **changes)


def records(*values: bytes | None) -> list[Record]:
    """Return values as the records of a partition, one a second."""
    return [Record(0, offset, NOW_MS + 1000 * offset, value) for offset, value in enumerate(values)]


def audit(kind: Any, feedback_id: str, reason: str = "silence", summary: str = "done") -> bytes:  # noqa: ANN401 - a literal
    """Return an audit record of a worker."""
    event = AuditEvent(
        audit_id=f"{kind} {feedback_id}",
        kind=kind,
        shard=0,
        offset=0,
        timestamp_ms=None,
        model_id="fraud",
        reason=reason,
        feedback_id=feedback_id,
        summary=summary,
    )
    return encode(event)


class Topics:
    """A session whose topics are lists; what is sent is in `feedback` at once."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.first = 0
        self.held: dict[str, list[Record]] = {
            "feedback": [],
            "alerts": records(*[encode(alert(each)) for each in INCIDENTS]),
            "incidents": records(encode(alert(INCIDENTS[0])), None),
            "maintenance": [],
        }

    def __contains__(self, role: str) -> bool:
        return role in self.held

    def topic(self, role: str) -> str:
        name: str = getattr(self.settings.topics, role)
        return name

    def records(self, role: str) -> Iterator[Record]:
        yield from self.held[role]

    def begin(self, role: str) -> int:
        assert role == "feedback"
        return self.first

    def send(self, key: str, value: bytes) -> None:
        assert key == json.loads(value)["feedback_id"]
        self.held["feedback"] += [Record(0, len(self.held["feedback"]), NOW_MS, value)]

    @property
    def events(self) -> list[FeedbackEvent]:
        """What was sent, as a worker reads it."""
        values = [record.value for record in self.held["feedback"]]
        nothing = [None] * len(values)
        batch = RawBatch(0, range(len(values)), [NOW_MS] * len(values), values, nothing, nothing, InputTopic.FEEDBACK)
        decoded = decode_feedback(batch, record_bytes_max=100_000)
        assert decoded.rejects == []
        return list(decoded.events)


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Topics:
    """Put lists in the place of Kafka."""
    found = Topics()

    @contextmanager
    def scripted(settings: Settings, needed: Collection[str]) -> Iterator[Topics]:
        assert {"feedback"} <= set(needed) <= set(found.held)
        yield found

    monkeypatch.setattr(sessions, "open_session", scripted)
    return found


@pytest.fixture
def run(topics: Topics, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that succeeds; return what it prints."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert feedback.main(list(arguments), prog_name="feedback", standalone_mode=False) == ExitCode.DONE
        return capsys.readouterr().out

    return run


def refusal(*arguments: str) -> tuple[int, str]:
    """Run a command that fails; return its code and message."""
    with pytest.raises((Failure, UsageError)) as caught:
        feedback.main(list(arguments), prog_name="feedback", standalone_mode=False)
    error = caught.value
    return (error.code if isinstance(error, Failure) else ExitCode.USAGE), error.format_message()


# Times.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26T22:00:00Z", datetime(2026, 11, 26, 22, tzinfo=UTC)),
        ("2026-11-26 23:00+01:00", datetime(2026, 11, 26, 22, tzinfo=UTC)),
        ("2026-11-26T22:00:00.1239Z", datetime(2026, 11, 26, 22, 0, 0, 123_000, tzinfo=UTC)),
        (str(NOW_MS + 7), NOW + timedelta(milliseconds=7)),
        ("2h", NOW + timedelta(hours=2)),
        ("+1h30m", NOW + timedelta(minutes=90)),
        ("-1.5d", NOW - timedelta(hours=36)),
        (" 250ms ", NOW + timedelta(milliseconds=250)),
    ],
)
def test_a_time_is_written_in_three_ways(text: str, expected: datetime) -> None:
    """RFC 3339, epoch milliseconds, and durations from now all mean a millisecond in UTC."""
    assert moment(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-11-26T22:00:00", "no time zone"),
        ("2026-11-26", "no time zone"),
        ("1767225600", "looks like seconds"),
        ("noon", "is no time"),
        ("", "is no time"),
        ("2", "is no time"),
        ("2 h", "is no time"),
        ("-", "is no time"),
        ("0s", "is no time"),
        ("999999999w", "is no time"),
        ("999999d999999d999999d", "between 1970 and 9999"),
        ("-60000d", "between 1970 and 9999"),
        ("0001-01-01T00:00:00+14:00", "between 1970 and 9999"),
    ],
)
def test_what_is_no_time_is_refused_with_what_could_be_written(text: str, says: str) -> None:
    """A slip does not silence for ever, and the message helps."""
    with pytest.raises(TimeError, match=says):
        moment(text, NOW)


@given(st.datetimes(EPOCH.replace(tzinfo=None), LATEST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_what_is_written_is_read_back(time: datetime) -> None:
    """ISO format and milliseconds mean the same millisecond."""
    assert moment(time.isoformat(), NOW) == EPOCH + timedelta(milliseconds=milliseconds(time))


@given(st.text(max_size=30))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever is typed is a time or a refusal."""
    try:
        assert EPOCH <= moment(text, NOW) <= LATEST
    except TimeError:
        return


def test_durations_are_shown_by_their_largest_units() -> None:
    """Two units are enough for a person."""
    assert shown_duration(duration("1w2d3h4m")) == "9 d 3 h"
    assert shown_duration(duration("90s")) == "1 min 30 s"
    assert shown_duration(timedelta(0)) == "0 s"
    assert shown(NOW) == "2026-11-26 12:00:00Z"


# Sending.


def test_a_silence_is_one_event_that_a_worker_takes(run: Callable[..., str], topics: Topics) -> None:
    """Scope, times, author and reason arrive as they were asked for; the answer says how to undo it."""
    said = run(
        *("silence", "--model", "fraud-*", "--kind", "quality.*", "--segment", "region=eu", "--feature", "amount"),
        *("--from", "2100-01-01T00:00Z", "--until", "2100-01-01T02:00Z", "--reason", "backfill", "--author", "ann"),
    )
    (event,) = topics.events
    assert isinstance(event, SilenceFeedback)
    assert event.scope == Scope(model="fraud-*", kind="quality.*", segment="region=eu", feature="amount")
    assert event.begin is not None
    assert [time_of(event.begin), time_of(event.end)] == [datetime(2100, 1, 1, hour, tzinfo=UTC) for hour in (0, 2)]
    assert (event.author, event.reason) == ("ann", "backfill")
    assert f"modelvigil feedback undo {event.feedback_id}" in said
    assert "until 2100-01-01 02:00:00Z" in said


def test_a_silence_begins_at_once_and_is_by_whoever_types(
    run: Callable[..., str], topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --from there is no beginning, `--for` counts from now, and the author is user@host."""
    monkeypatch.setenv("LOGNAME", "bob")
    before = datetime.now(UTC)
    run("silence", "--for", "2h", "--reason", "x")
    (event,) = topics.events
    assert isinstance(event, SilenceFeedback)
    assert event.begin is None
    assert timedelta(0) <= time_of(event.end) - before - timedelta(hours=1, minutes=59) < timedelta(minutes=2)
    assert event.scope == Scope()
    assert event.author.startswith("bob@")


def test_a_silence_may_have_begun(run: Callable[..., str], topics: Topics) -> None:
    """An outage that began half an hour ago is written as it is said: a minus is no option."""
    run("silence", "--from", "-30m", "--for", "1h", "--reason", "x")
    (event,) = topics.events
    assert isinstance(event, SilenceFeedback)
    assert event.begin is not None
    assert time_of(event.end) - time_of(event.begin) == timedelta(hours=1)


def test_for_counts_from_the_beginning(run: Callable[..., str], topics: Topics) -> None:
    """A silence that begins later is as long as asked for."""
    run("silence", "--from", "2100-01-01T00:00Z", "--for", "90m", "--reason", "x")
    (event,) = topics.events
    assert isinstance(event, SilenceFeedback)
    assert time_of(event.end) == datetime(2100, 1, 1, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--reason", "x"], "either --for or --until"),
        (["--for", "2h", "--until", "3h", "--reason", "x"], "either --for or --until"),
        (["--for", "2h"], "Missing option '--reason'"),
        (["--for", "two hours", "--reason", "x"], "write it like 90s"),
        (["--until", "2020-01-01T00:00Z", "--reason", "x"], "over already"),
        (["--until", "2026-11-26T22:00:00", "--reason", "x"], "no time zone"),
        (["--from", "3h", "--until", "2h", "--reason", "x"], "end before it begins"),
        (["--for", "2h", "--reason", ""], "reason: expected `str` of length >= 1"),
        (["--for", "2h", "--reason", "x", "--model", ""], "scope.model: expected `str` of length >= 1"),
        (["--for", "2h", "--reason", "x" * 1001], "reason: expected `str` of length <= 1000"),
        (["--for", "2h", "--reason", "x", "--author", "x" * 300], "author: expected `str` of length <= 256"),
    ],
)
def test_a_silence_that_cannot_be_meant_is_not_sent(arguments: list[str], says: str, topics: Topics) -> None:
    """The command line is told what is wrong with it, and nothing is sent."""
    code, message = refusal("silence", *arguments)
    assert code == ExitCode.USAGE
    assert says in message
    assert topics.events == []


@pytest.mark.parametrize("command", ["true-positive", "false-positive", "ignore-like-this"])
def test_the_first_digits_of_an_incident_are_enough(command: str, run: Callable[..., str], topics: Topics) -> None:
    """Model and shard come from the alert; the answer says which incident was meant."""
    said = run(command, "77", "--reason", "because", "--author", "ann")
    (event,) = topics.events
    assert event.__struct_config__.tag == command.replace("-", "_")
    expected = {"incident_id": "77000000", "model_id": "fraud", "shard": 3, "author": "ann", "reason": "because"}
    assert msgspec.structs.asdict(event).items() >= expected.items()
    assert "`amount` is out of range" in said
    assert f"modelvigil feedback undo {event.feedback_id}" in said


def test_an_open_incident_is_known_however_old(run: Callable[..., str], topics: Topics) -> None:
    """Retention has removed the alert, but the compacted topic still has the incident."""
    topics.held["alerts"] = []
    run("false-positive", INCIDENTS[0])
    assert len(topics.events) == 1


@pytest.mark.parametrize(
    ("digits", "says"),
    [
        ("3f9a", "fits 2 incidents, write more of the id: 3f9a1c00 (quality.range, warning, opened: fraud: `amount`"),
        ("beef", "no incident in modelvigil.incidents and modelvigil.alerts has an id that begins with 'beef'"),
        ("", "no incident"),
        ("alert", "no incident"),
    ],
)
def test_an_incident_that_cannot_be_told_is_not_judged(digits: str, says: str, topics: Topics) -> None:
    """An ambiguous or unknown id is refused with what is known, and nothing is sent."""
    code, message = refusal("false-positive", digits)
    assert code == ExitCode.USAGE
    assert says in message
    assert topics.events == []


def test_undo_names_an_earlier_event(run: Callable[..., str], topics: Topics) -> None:
    """The first digits are enough; undone twice, or an undo undone, is refused."""
    run("silence", "--for", "2h", "--reason", "x")
    silenced = topics.events[0].feedback_id
    said = run("undo", silenced[:10], "--author", "eve", "--reason", "done early")
    undo = topics.events[1]
    assert isinstance(undo, UndoFeedback)
    assert undo.undoes == silenced
    assert silenced in said
    assert "is undone already, by eve" in refusal("undo", silenced)[1]
    assert "is itself an undo" in refusal("undo", undo.feedback_id)[1]
    assert "no feedback event has an id that begins with 'nothing'" in refusal("undo", "nothing")[1]
    assert len(topics.events) == 2


def test_what_retention_has_removed_can_still_be_undone(run: Callable[..., str], topics: Topics) -> None:
    """An id that the topic does not have any more is taken as it is written."""
    topics.first = 7
    run("undo", "an-old-one")
    (event,) = topics.events
    assert isinstance(event, UndoFeedback)
    assert event.undoes == "an-old-one"


def test_ids_that_begin_alike_can_be_told_apart() -> None:
    """The whole of one id counts though another one begins with it."""
    assert the_only({"ab": 1, "abc": 2}, "ab", "unknown", "things") == "ab"
    with pytest.raises(LookupFailedError, match=r"fits 7 things.* and 2 more"):
        the_only({f"ab{digit}": digit for digit in range(7)}, "ab", "unknown", "things")


def test_the_latest_step_of_an_incident_is_told() -> None:
    """A later step replaces an earlier one, whichever topic or partition it comes from; other records are no error."""
    later = alert("aa", status="resolved", timestamp_ms=NOW_MS + 5)
    found = latest_steps(records(encode(later), encode(alert("aa")), b"aa, not JSON", None, b'{"a": "aa"}'), "a", {})
    assert {name: step.status for name, step in found.items()} == {"aa": "resolved"}
    assert latest_steps([], "a", found) == found


# What is in force.


def listed(values: list[bytes], audits: list[bytes], now: datetime = NOW) -> dict[str, Entry]:
    """Return the entries by id."""
    return {each.feedback_id: each for each in entries(sent(records(*values)), audited(records(*audits)), now)}


def silence(name: str, end: timedelta, begin: timedelta | None = None) -> bytes:
    """Return a silence that ends so long after now."""
    since = None if begin is None else NOW + begin
    event = SilenceFeedback(
        feedback_id=name, author="ann", reason="x", scope=Scope(model=name), begin=since, end=milliseconds(NOW + end)
    )
    return msgspec.json.encode(event)


def false_positive(name: str) -> bytes:
    """Return what was said of an incident."""
    event = FalsePositiveFeedback(feedback_id=name, author="bob", model_id="fraud", shard=0, incident_id="77")
    return msgspec.json.encode(event)


def undo(name: str) -> bytes:
    """Return an undo."""
    return msgspec.json.encode(UndoFeedback(feedback_id=f"undo {name}", author="eve", undoes=name))


def test_the_state_of_each_event_is_told() -> None:
    """Time, undos, and what workers say decide; without a word of theirs a verdict was only sent."""
    hour = timedelta(hours=1)
    found = listed(
        [
            *(silence("now", hour), silence("later", 2 * hour, hour), silence("ended", -hour), silence("undone", hour)),
            *(silence("refused", hour), silence("partly", hour)),
            *(false_positive("applied"), false_positive("sent"), false_positive("unknown")),
            *(undo("undone"), undo("nothing"), b"no feedback", b""),
        ],
        [
            audit("feedback_applied", "applied", "false_positive", "quality.range of fraud asks 1 doubling more"),
            audit("feedback_refused", "refused", "too many silences"),
            audit("feedback_refused", "partly", "too many silences"),
            audit("feedback_applied", "partly"),
            audit("feedback_refused", "unknown", "unknown_incident", "it was not told here"),
            b"no audit record",
        ],
    )
    states: Mapping[str, str] = {name: each.state for name, each in found.items()}
    assert states == {
        "now": "in force",
        "later": "later",
        "ended": "ended",
        "undone": "undone",
        "refused": "refused",
        "partly": "in force",
        "applied": "in force",
        "sent": "sent",
        "unknown": "refused",
    }
    assert found["undone"].undone_by == "eve"
    assert found["applied"].effects == ["quality.range of fraud asks 1 doubling more"]
    assert found["unknown"].effects == ["it was not told here"]


def test_sent_twice_it_is_listed_once() -> None:
    """The first of two events of one id counts, as it does for a worker."""
    (entry,) = listed([silence("a", timedelta(hours=1)), silence("a", timedelta(hours=-1))], []).values()
    assert entry.state == "in force"


def test_suppressed_openings_are_counted() -> None:
    """Every shard tells what it held back; the list adds it up, and tells an effect of many shards once."""
    audits = [audit("alert_suppressed", "a")] * 3 + [audit("feedback_applied", "a")] * 2
    (entry,) = listed([silence("a", timedelta(hours=1))], audits).values()
    assert entry.held_back == 3
    assert entry.effects == ["done"]


def test_the_list_shows_who_what_and_until_when(run: Callable[..., str], topics: Topics) -> None:
    """In force by default, everything on request, and the same as JSON."""
    run("silence", "--model", "fraud-*", "--until", "2100-01-01T00:00Z", "--reason", "[b]backfill[/b]", "--author", "a")
    run("false-positive", "77", "--author", "bob")
    run("undo", topics.events[1].feedback_id, "--author", "eve")
    topics.held["maintenance"] = records(audit("alert_suppressed", topics.events[0].feedback_id))
    text = run("list")
    for shown_text in (
        "silence",
        "model fraud-*",
        "2100-01-01 00:00:00Z",
        "[b]backfill[/b]",
        "held back 1",
        "in force",
    ):
        assert shown_text in text
    assert topics.events[0].feedback_id[:12] in text
    assert "bob" not in text
    assert "undone by" in run("list", "--all")
    parsed = json.loads(run("list", "--all", "--json"))
    assert [(each["kind"], each["state"]) for each in parsed] == [("silence", "in force"), ("false_positive", "undone")]


def test_an_empty_list_says_so(run: Callable[..., str], topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in force is one line; that older feedback is gone is another one."""
    assert run("list") == "no feedback is in force\n"
    del topics.held["maintenance"]
    topics.first = 3
    assert feedback.main(["list", "--all"], prog_name="feedback", standalone_mode=False) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert out == "no feedback\n"
    assert "retention has removed older feedback" in err


@pytest.mark.parametrize(
    ("partitions", "says"),
    [
        ({"alerts": 4}, "^feedback does not exist: run `modelvigil topics create`"),
        ({}, "^feedback, modelvigil.alerts do not exist"),
        ({"alerts": 4, "feedback": 4}, "feedback has 4 partitions and must have one"),
    ],
)
def test_topics_that_are_not_as_they_must_be_are_refused(
    partitions: dict[str, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing topic and a feedback topic of several partitions are told before anything is read."""

    class Admin:
        def __init__(self, connection: object, names: Mapping[str, str]) -> None:
            assert names.keys() <= msgspec.structs.asdict(TopicSettings()).keys()

        def partition_counts(self, needed: Collection[str]) -> dict[str, int]:
            assert needed == ["feedback", "alerts"]
            return partitions

    monkeypatch.setattr(sessions, "TopicAdmin", Admin)
    with pytest.raises(TopicsError, match=says), open_session(Settings(), ["feedback", "alerts"]):
        raise AssertionError("unreachable")


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user may be a number only."""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert sending.this_author().startswith("unknown@")


# What is asked of Kafka.


class Script:
    """A consumer and a producer that do what a test says."""

    def __init__(self, batches: list[list[Message]], end: int = 0, answer: KafkaError | None = None) -> None:
        self.batches = batches
        self.end = end
        self.answer = answer
        self.next = 2
        self.produced: list[tuple[str, bytes, int]] = []
        self._told: Callable[[KafkaError | None, Message], None] | None = None

    def consumer(self, *_: object) -> "Script":
        return self

    producer = consumer

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return 2, self.end

    def assign(self, places: list[TopicPartition]) -> None:
        assert [place.offset for place in places] == [2]

    def consume(self, count: int, timeout: float) -> list[Message]:
        found = self.batches.pop(0) if self.batches else []
        # A marker of a transaction takes an offset behind each batch.
        self.next += len(found) + bool(found)
        return found

    def poll(self, timeout: float) -> Message | None:
        return None

    def position(self, places: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(place.topic, place.partition, self.next) for place in places]

    def warn(self, text: str) -> None:
        """Be told what passes."""

    def produce(self, topic: str, value: bytes, *, key: bytes, partition: int, on_delivery: Any) -> None:  # noqa: ANN401 - as the real one
        self.produced.append((topic, value, partition))
        self._told = on_delivery

    def flush(self, timeout: float) -> None:
        if self._told is not None and self.answer is not NO_ANSWER:
            self._told(self.answer, Message(offset=7))


NO_ANSWER = KafkaError(KafkaError._FAIL)


def session_with(script: Script, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Return a session whose clients are scripted."""
    monkeypatch.setattr(sessions, "connect", lambda _: script)
    monkeypatch.setattr(history, "close_beside", lambda _: None)
    return Session(Settings(), {"alerts": 1, "feedback": 1})


def message(offset: int, error: KafkaError | None = None) -> Message:
    """Return a record, or an error in the place of one."""
    return Message("alerts", 0, offset, value=b"%d" % offset, error=error, timestamp=(1, NOW_MS))


def test_a_partition_is_read_to_where_it_ends_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers of transactions are passed over, and what came after the look at the end is not waited for."""
    script = Script([[message(2), message(3)], [], [message(5), message(6)], [message(8)]], end=6)
    found = list(session_with(script, monkeypatch).records("alerts"))
    assert [(record.offset, record.value, record.timestamp_ms) for record in found] == [
        (2, b"2", NOW_MS),
        (3, b"3", NOW_MS),
        (5, b"5", NOW_MS),
    ]


def test_an_empty_partition_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was there is gone: nothing comes, and nothing is asked."""
    assert list(session_with(Script([], end=2), monkeypatch).records("alerts")) == []


def test_a_kafka_that_gives_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded."""
    monkeypatch.setattr(sessions, "_SILENCE_S_MAX", 0.0)
    with pytest.raises(BrokerUnreachableError, match="gave nothing"):
        list(session_with(Script([], end=5), monkeypatch).records("alerts"))


def test_errors_of_transport_pass_and_refusals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away for a moment is waited for; a user without rights is told."""
    passing = message(-1, KafkaError(KafkaError._TRANSPORT))
    script = Script([[passing], [message(2), message(3), message(4)]], end=5)
    assert len(list(session_with(script, monkeypatch).records("alerts"))) == 3
    refused = message(-1, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(TopicsError, match="check the credentials and the ACLs"):
        list(session_with(Script([[refused]], end=5), monkeypatch).records("alerts"))


def test_a_record_goes_to_the_one_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent once, and its offset is told when it is there."""
    script = Script([])
    assert session_with(script, monkeypatch).send("an id", b"{}") == 7
    assert script.produced == [("feedback", b"{}", 0)]


@pytest.mark.parametrize(
    ("answer", "failure", "says"),
    [
        (NO_ANSWER, BrokerUnreachableError, "may have been written or not"),
        (KafkaError(KafkaError._MSG_TIMED_OUT), BrokerUnreachableError, "may have been written or not"),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), TopicsError, "check the credentials and the ACLs"),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), TopicsError, "run `modelvigil topics create`"),
    ],
)
def test_a_record_that_is_not_there_is_told(
    answer: KafkaError, failure: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, or in doubt: the message says which, and what to do."""
    with pytest.raises(failure, match=says):
        session_with(Script([], answer=answer), monkeypatch).send("an id", b"{}")
