"""What is sent: texts, filters, bodies, signatures, and what is decided about an answer."""

import hashlib
import hmac
import json
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.events import Headline, SegmentName
from worker.core.events.alerts import AlertEvent, Situation
from worker.core.events.performance import LimitEvidence
from worker.edges.http_client import Answer, NoAnswer, retry_after_ms
from worker.edges.kafka.arrived import Arrived
from worker.notify.filters import wants
from worker.notify.messages import escaped, idempotency_key, redacted, request, slack_body, webhook_body
from worker.notify.records import Alert, UnreadableError, read
from worker.notify.rendering import duration, fields, moment, rendered
from worker.notify.retrying import Again, Decision, Done, GivenUp, Trouble, decide
from worker.notify.signing import HEADER, signature, verify
from worker.notify_settings import DEFAULT_TEMPLATE, TEMPLATE_FIELDS, TargetSettings

NOW_MS = 1_795_694_400_000
"""2026-11-26 12:00 UTC."""


def event(**changes: Any) -> AlertEvent:  # noqa: ANN401 - any field
    """Return an alert of a model called fraud."""
    fields = {
        "alert_id": "a1",
        "incident_id": "i1",
        "fingerprint": "f1",
        "kind": "performance.drop",
        "status": "opened",
        "severity": "critical",
        "summary": "accuracy has dropped",
        "runbook": changes.get("kind", "performance.drop"),
        "model_id": "fraud",
        "model_version": None,
        "shard": 0,
        "timestamp_ms": NOW_MS,
        "opened_at_ms": NOW_MS,
        "last_flagged_ms": NOW_MS,
        "resolved_at_ms": None,
    }
    return AlertEvent(**{**fields, **changes})


def alert(told: AlertEvent, lag_ms: int | None = None, raw: bytes | None = None) -> Alert:
    """Return an alert as it is read."""
    return Alert(told, msgspec.json.encode(told) if raw is None else raw, lag_ms)


def arrived(told: AlertEvent | None, offset: int = 0, key: str = "f1", partition: int = 0) -> Arrived:
    """Return a record of a topic; without an alert a tombstone."""
    value = None if told is None else msgspec.json.encode(told)
    return Arrived("alerts", partition, offset, NOW_MS, key.encode(), value)


TARGET = TargetSettings(name="chat", kind="webhook", url="https://hooks.test/T0/B0/sEcReT")
OPEN_DOORS = {"bearer_token": "tok-en", "secret": "hush"}
NORTH = SegmentName("site", "north")
LIMIT = LimitEvidence("accuracy", "drop", 0.7, 0.68, 0.72, 0.999, 500, 0.85, 0.9, 0, 500, NORTH, [])
FULL = event(
    model_version="7",
    performance=LIMIT,
    headline=Headline("accuracy", "value", 0.7, 0.9, 0.85, None),
    flapping=True,
    status="resolved",
    resolved_at_ms=NOW_MS + 5_400_000,
    duration_ms=5_400_000,
    situation=Situation(
        situation_id="s1",
        opened_at_ms=NOW_MS,
        incidents=3,
        open_incidents=2,
        cause_incident_id="other",
        cause_kind="drift.input",
        cause_summary="amount has drifted",
    ),
)


# Texts.


def test_the_fields_are_those_that_settings_check_templates_against() -> None:
    """A template that the settings accept has no hole."""
    assert tuple(sorted(fields(alert(event())))) == TEMPLATE_FIELDS


def test_the_default_text_says_what_a_person_needs() -> None:
    """What, where, how bad, since when, with what else, and what to do."""
    text = rendered(DEFAULT_TEMPLATE, fields(alert(FULL, lag_ms=125_000), "https://wiki.test/runbooks/"))
    assert text.splitlines() == [
        "[resolved critical] performance.drop fraud version 7",
        "accuracy has dropped",
        "accuracy value 0.7, expected 0.9 (at least 0.85)",
        "segment: site=north",
        "situation: one of 3 incidents (2 open); began with: amount has drifted",
        "opened: 2026-11-26T12:00:00.000Z",
        "resolved: 2026-11-26T13:30:00.000Z after 1 h 30 min",
        "flapping: it comes and goes",
        "late: computed 2 min 5 s late",
        "runbook: https://wiki.test/runbooks/performance.drop.md",
    ]


def test_what_is_not_known_takes_no_room() -> None:
    """A bare alert has three lines behind its title."""
    text = rendered(DEFAULT_TEMPLATE, fields(alert(event())))
    assert text.splitlines()[2:] == ["opened: 2026-11-26T12:00:00.000Z", "runbook: performance.drop"]


def test_a_template_sees_names_only() -> None:
    """Values are not templates, and nothing can be looked into."""
    named = fields(alert(event(summary="${secret} $model_id {0.__class__}")))
    assert rendered("$$5 ${kind}: $summary", named) == "$5 performance.drop: ${secret} $model_id {0.__class__}"


def test_times_and_lengths_are_readable_and_never_fail() -> None:
    """Whatever a record holds."""
    assert [duration(each) for each in (0, 999, 61_000, 90_000_000)] == ["0 ms", "999 ms", "1 min 1 s", "1 d 1 h"]
    assert moment(-5) == "1970-01-01T00:00:00.000Z"
    assert moment(10**18) == "9999-12-31T23:59:59.000Z"


def test_a_late_record_is_read_as_late() -> None:
    """The header of the worker; what is no number is none."""
    value = msgspec.json.encode(event())
    for text, lag_ms in ((b"90000", 90_000), (b"soon", None), (None, None)):
        assert read(Arrived("a", 0, 0, 0, b"k", value, [("modelvigil.lag_ms", text)])).lag_ms == lag_ms


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]", b"\xff", b'{"a":' + b"[" * 100_000])
def test_what_is_no_alert_is_told(value: bytes | None) -> None:
    """A reason instead of a crash."""
    with pytest.raises(UnreadableError, match=r"."):
        read(Arrived("a", 0, 0, 0, b"k", value))


# Filters.


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"models": ("fraud*",)}, True),
        ({"models": ("churn", "spam-?")}, False),
        ({"kinds": ("drift.*", "performance.*")}, True),
        ({"kinds": ("drift.*",)}, False),
        ({"severity_min": "critical"}, True),
        ({"statuses": ("resolved",)}, False),
    ],
)
def test_a_target_gets_what_it_asks_for(changes: dict[str, object], wanted: bool) -> None:  # noqa: FBT001 - a case
    """Models, kinds, severity and statuses all have to fit."""
    assert wants(msgspec.structs.replace(TARGET, **changes), event()) is wanted


def test_severities_have_an_order() -> None:
    """Each level and those above."""
    found = [
        [wants(msgspec.structs.replace(TARGET, severity_min=least), event(severity=now)) for now in ("info", "warning")]
        for least in ("info", "warning", "critical")
    ]
    assert found == [[True, True], [False, True], [False, False]]


# Bodies.


def test_a_webhook_gets_the_record_as_it_stands_in_the_topic() -> None:
    """Also what this version does not know, beside the text and the delay."""
    raw = msgspec.json.encode(event())[:-1] + b',"added_later":[1]}'
    got = json.loads(webhook_body(TARGET, alert(event(), lag_ms=7, raw=raw), ""))
    assert got["alert"] == json.loads(raw)
    assert (got["target"], got["lag_ms"]) == ("chat", 7)
    assert got["text"].startswith("[opened critical] performance.drop fraud\n")


def test_slack_gets_a_text_and_blocks_in_its_bounds() -> None:
    """Slack refuses headers over 150, sections over 3,000 characters."""
    got = json.loads(slack_body(TARGET, alert(event(summary="x" * 50_000, model_id="m" * 200)), ""))
    header, section, context = got["blocks"]
    assert (header["type"], section["type"], context["type"]) == ("header", "section", "context")
    assert len(header["text"]["text"]) == 150
    assert len(section["text"]["text"]) == 3_000
    assert len(got["text"]) <= 40_000


def test_nobody_can_be_mentioned_through_a_feature_name() -> None:
    """What comes from events is escaped, what the operator has written is not."""
    target = msgspec.structs.replace(TARGET, template="<!here> $summary")
    got = json.loads(slack_body(target, alert(event(summary="<!channel> & <https://evil.test|click>")), ""))
    assert got["text"] == "<!here> &lt;!channel&gt; &amp; &lt;https://evil.test|click&gt;"
    assert escaped("&lt;") == "&amp;lt;"


def test_each_step_and_target_has_its_own_key() -> None:
    """The same step has the same key, and no id can break out of a header."""
    assert idempotency_key(TARGET, alert(event(alert_id="a1"))) == "a1/chat"
    assert idempotency_key(TARGET, alert(event(alert_id="a\r\nX: y/é"))) == "a%0D%0AX%3A%20y%2F%C3%A9/chat"


def test_a_request_has_the_headers_of_its_target() -> None:
    """Token, own headers, key and signature; nothing of it shows in a repr."""
    target = msgspec.structs.replace(TARGET, **OPEN_DOORS, headers={"X-Org": "seven"})
    made = request(target, b"{}", "a1/chat", NOW_MS)
    assert made.headers["Authorization"] == "Bearer tok-en"
    assert made.headers["X-Org"] == "seven"
    assert made.headers["Idempotency-Key"] == "a1/chat"
    assert verify("hush", made.headers[HEADER], b"{}", NOW_MS // 1000)
    assert HEADER not in request(TARGET, b"{}", "k", NOW_MS).headers
    for hidden in ("hush", "tok-en", "seven", "sEcReT"):
        assert hidden not in f"{made!r} {target!r}"


def test_a_receiver_that_repeats_our_secrets_is_not_quoted() -> None:
    """What goes to logs and dead letters."""
    target = msgspec.structs.replace(TARGET, **OPEN_DOORS)
    assert redacted(f"no {TARGET.url} for tok-en", target) == "no ******** for ********"


# Signatures.


def test_a_signature_is_what_the_documentation_says() -> None:
    """HMAC-SHA256 over `<t>.<body>`, so that anybody can write a receiver."""
    expected = hmac.new(b"hush", b'1764158400.{"a":1}', hashlib.sha256).hexdigest()
    assert signature("hush", b'{"a":1}', 1_764_158_400) == f"t=1764158400,v1={expected}"


@given(st.binary(max_size=50), st.integers(0, 10**10), st.integers(-400, 400))
def test_a_signature_holds_for_a_while(body: bytes, sent_s: int, later_s: int) -> None:
    """Five minutes to both sides, for clocks that differ, and not after that: a repeat."""
    header = signature("hush", body, sent_s)
    assert verify("hush", header, body, sent_s + later_s) == (abs(later_s) <= 300)


@pytest.mark.parametrize("header", ["", "t=1,v1=", "t=x,v1=" + "0" * 64, "t=1,v1=" + "0" * 64, "v1=" + "0" * 64])
def test_what_is_not_signed_by_us_is_refused(header: str) -> None:
    """Forgeries, wrong forms, other secrets and other bodies."""
    assert not verify("hush", header, b"x", 1)
    assert not verify("other", signature("hush", b"x", 1), b"x", 1)
    assert not verify("hush", signature("hush", b"x", 1), b"y", 1)


# Decisions.


def _decided(answer: Answer | NoAnswer, failures: int = 0, failing_ms: int = 0, draw: float = 0.5) -> Decision:
    return decide(answer, Trouble(failures, failing_ms), TARGET, draw=draw, now_ms=NOW_MS)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_done(status: int) -> None:
    """All of 2xx."""
    assert _decided(Answer(status)) == Done()


@pytest.mark.parametrize("answer", [*map(Answer, (408, 429, 500, 502, 503, 504)), NoAnswer("no connection")])
def test_what_may_pass_is_tried_again(answer: Answer | NoAnswer) -> None:
    """Until patience is over."""
    assert isinstance(_decided(answer), Again)
    last = _decided(answer, 9, TARGET.give_up_ms)
    assert isinstance(last, GivenUp)
    assert not last.answered


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 410, 413, 422])
def test_what_is_refused_is_given_up(status: int) -> None:
    """Redirects too: they are not followed."""
    assert _decided(Answer(status, excerpt="no such hook")) == GivenUp(f"HTTP {status}: no such hook", answered=True)


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_pauses_double_and_are_bounded(failures: int, draw: float) -> None:
    """Full jitter: anything from nothing to the bound."""
    decision = _decided(Answer(500), failures, 0, draw)
    assert isinstance(decision, Again)
    bound = min(TARGET.retry_max_ms, TARGET.retry_ms * 2 ** min(failures, 40))
    assert decision.wait_ms == int(draw * bound)


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        ("7", 7_000),
        (" 7 ", 7_000),
        (formatdate(NOW_MS / 1000 + 30, usegmt=True), 30_000),
        (formatdate(NOW_MS / 1000 - 30, usegmt=True), 0),
        ("99999999999999999999", 999_999_999_000),
        *[(each, 0) for each in (None, "", "soon", "-3", "1.5", "٣", "Wed, 99 Foo 2026")],
    ],
)
def test_the_receivers_own_pause_is_read(header: str | None, wait_ms: int) -> None:
    """Seconds or a date; what cannot be read is no wish."""
    assert retry_after_ms(header, NOW_MS) == wait_ms


def test_the_receivers_own_pause_is_honoured_within_bounds() -> None:
    """It is the least pause, but not for ever."""
    assert _decided(Answer(429, "30")) == Again(30_000, "HTTP 429")
    assert _decided(Answer(503, "99999999")) == Again(TARGET.retry_after_max_ms, "HTTP 503")


def test_records_of_the_engine_can_be_told() -> None:
    """Every kind has a title, whatever evidence it has."""
    for kind in AlertEvent.__annotations__["kind"].__args__:
        assert kind in rendered("$title", fields(alert(event(kind=kind))))
