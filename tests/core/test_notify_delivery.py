"""The order of a delivery: attempts, commits, dead letters; and what Alertmanager is told."""

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_notify_messages import NOW_MS, alert, arrived, event
from worker.core.events.alerts import AlertEvent, Situation
from worker.core.events.changes import Changed, ChangeEvidence
from worker.edges.http_client import Answer, NoAnswer, Request
from worker.edges.kafka.arrived import Arrived
from worker.edges.kafka.consuming import start_of
from worker.edges.kafka.dead_letters import letter
from worker.notify.alertmanager import Board, labels_of
from worker.notify.courier import REFUSED, UNREADABLE, Composer, Counts, Courier
from worker.notify.health import TargetHealth
from worker.notify.ports import CourierPorts
from worker.notify.resending import ALERTS_MAX, Resending, ResendPorts
from worker.notify_settings import TargetSettings

WEBHOOK = TargetSettings(name="hook", kind="webhook", url="http://hook.test/", give_up_ms=60_000)
MANAGER = TargetSettings(name="manager", kind="alertmanager", url="http://manager.test")


class World:
    """Kafka, HTTP and a clock, in memory. Implements all ports of a courier; answers come from a script, then 200."""

    def __init__(self, records: Sequence[Arrived], answers: Sequence[Answer | NoAnswer] = ()) -> None:
        self.records = deque(records)
        self.answers = deque(answers)
        self.now_ms = 0
        self.owned = True
        self.log: list[tuple[str, str]] = []
        self.happened: list[tuple[str, Any]] = []
        """Posts, commits and dead letters, in order."""
        self.requests: list[Request] = []
        self.incidents: list[Arrived] = []
        self.health = TargetHealth("hook", self)

    def next(self, wait_ms: int) -> Arrived | None:
        if self.records:
            return self.records.popleft()
        self.now_ms += wait_ms
        return None

    def wait(self, wait_ms: int) -> None:
        self.now_ms += wait_ms

    def owns(self, _: Arrived) -> bool:
        return self.owned

    def done(self, record: Arrived) -> None:
        self.happened.append(("commit", record.offset))

    def pass_over(self, record: Arrived) -> None:
        self.happened.append(("passed", record.offset))

    def at_end(self) -> bool:
        return not self.records

    def post(self, request: Request) -> Answer | NoAnswer:
        self.requests.append(request)
        self.happened.append(("post", request.headers["Idempotency-Key"]))
        return self.answers.popleft() if self.answers else Answer(200)

    def bury(self, record: Arrived, *, reason: str, detail: str, target: str) -> None:
        self.happened.append(("dead", (record.offset, reason, detail, target)))

    def fetch(self) -> Sequence[Arrived]:
        fetched, self.incidents = self.incidents, []
        return fetched

    def close(self) -> None:
        """Nothing to close."""

    def monotonic_ms(self) -> int:
        return self.now_ms

    def epoch_ms(self) -> int:
        return NOW_MS + self.now_ms

    def pause(self, wait_ms: int) -> None:
        self.now_ms += wait_ms

    def info(self, told: str, /, **_: object) -> None:
        self.log.append(("info", told))

    def warning(self, told: str, /, **_: object) -> None:
        self.log.append(("warning", told))

    def error(self, told: str, /, **_: object) -> None:
        self.log.append(("error", told))

    def bodies(self) -> list[Any]:
        """Return what was posted."""
        return [json.loads(request.body) for request in self.requests]


def courier_of(world: World, target: TargetSettings = WEBHOOK, board: Board | None = None) -> Courier:
    """Return a courier of this world."""
    ports = CourierPorts(world, world, world, world, world.health)
    resending = None
    if board is not None:
        resending = Resending(board, target, "", ResendPorts(world, world, world, world.health), world, lambda: 0.5)
    return Courier(target, Composer(target, "", board), ports, resending, Counts(), world, lambda: 0.5)


def steps(count: int) -> list[Arrived]:
    """Return so many alerts."""
    return [arrived(event(alert_id=f"a{offset}"), offset) for offset in range(count)]


def _until_finished(courier: Courier, steps_max: int = 10_000) -> None:
    for _ in range(steps_max):
        if courier.finished:
            return
        courier.step(200)
    pytest.fail("it does not come to an end")


# Deliveries.


def test_each_alert_is_committed_after_its_delivery() -> None:
    """In order, one by one."""
    world = World(steps(2))
    _until_finished(courier_of(world))
    assert world.happened == [("post", "a0/hook"), ("commit", 0), ("post", "a1/hook"), ("commit", 1)]


def test_failures_are_repeated_with_the_same_key_and_hold_up_what_follows() -> None:
    """An error, a broken connection, and then success."""
    world = World(steps(2), [Answer(500), NoAnswer("no connection")])
    courier = courier_of(world)
    _until_finished(courier)
    keys = [what for kind, what in world.happened if kind == "post"]
    assert keys == ["a0/hook", "a0/hook", "a0/hook", "a1/hook"]
    assert world.now_ms == 500 + 1_000
    assert (courier.counts.delivered, courier.counts.attempts) == (2, 4)
    assert [level for level, _ in world.log] == ["warning", "info", "info", "info"]


def test_what_is_refused_is_a_dead_letter_before_it_is_committed() -> None:
    """Never silently, and the next alert has its turn."""
    world = World(steps(2), [Answer(404, excerpt="no hook at http://hook.test/")])
    _until_finished(courier_of(world))
    dead = ("dead", (0, REFUSED, "HTTP 404: no hook at ********", "hook"))
    assert world.happened == [("post", "a0/hook"), dead, ("commit", 0), ("post", "a1/hook"), ("commit", 1)]
    assert ("error", "an alert was not delivered, it is a dead letter now") in world.log


def test_patience_ends() -> None:
    """After `give_up_ms` without a success, each further alert is offered once; success brings the patience back."""
    world = World(steps(3), [Answer(503)] * 500)
    courier = courier_of(world)
    while courier.counts.given_up < 2:
        courier.step(200)
    assert 60_000 <= world.now_ms < 90_000
    attempts = courier.counts.attempts
    world.answers = deque([Answer(200)])
    _until_finished(courier)
    assert courier.counts.attempts == attempts + 1
    assert [what for kind, what in world.happened if kind == "commit"] == [0, 1, 2]


def test_a_record_that_is_no_alert_does_not_stop_the_others() -> None:
    """It is a dead letter, too."""
    broken = Arrived("alerts", 0, 0, NOW_MS, b"k", b"{}")
    world = World([broken, *steps(2)[1:]])
    _until_finished(courier_of(world))
    assert [kind for kind, _ in world.happened] == ["dead", "commit", "post", "commit"]
    assert world.happened[0][1][1] == UNREADABLE


def test_what_a_target_does_not_want_is_passed_over() -> None:
    """Nothing is sent."""
    world = World(steps(1))
    _until_finished(courier_of(world, msgspec.structs.replace(WEBHOOK, models=("other",))))
    assert world.happened == [("passed", 0)]


def test_a_record_of_a_partition_that_is_gone_is_left_to_its_new_owner() -> None:
    """It is neither tried again nor committed."""
    world = World(steps(1), [Answer(500)])
    courier = courier_of(world)
    courier.step(200)
    world.owned = False
    for _ in range(20):
        courier.step(200)
    assert world.happened == [("post", "a0/hook")]


@given(st.lists(st.sampled_from([200, 204, 400, 404, 408, 429, 500, 503, 0]), max_size=30), st.integers(1, 6))
def test_every_alert_is_taken_or_a_dead_letter(script: list[int], count: int) -> None:
    """Whatever a receiver answers: one commit for each, in order, each behind a success or a dead letter."""
    world = World(steps(count), [Answer(status) if status else NoAnswer("broken") for status in script])
    courier = courier_of(world)
    _until_finished(courier)
    assert [what for kind, what in world.happened if kind == "commit"] == list(range(count))
    assert courier.counts.delivered + courier.counts.given_up == count
    before = [
        first[0] for first, (kind, _) in zip(world.happened, world.happened[1:], strict=False) if kind == "commit"
    ]
    assert set(before) <= {"post", "dead"}
    assert before.count("dead") == courier.counts.given_up


def test_a_dead_letter_tells_where_it_comes_from_and_whom_it_was_for() -> None:
    """The headers of all dead letters, behind those of the record, and the value byte for byte."""
    record = arrived(event(), 7)._replace(headers=(("modelvigil.lag_ms", b"5"),))
    output = letter(record, REFUSED, "HTTP 404", "hook")
    assert (output.key, output.value) == (record.key, record.value)
    assert dict(output.headers) == {
        "modelvigil.lag_ms": b"5",
        "modelvigil.topic": b"alerts",
        "modelvigil.partition": b"0",
        "modelvigil.offset": b"7",
        "modelvigil.timestamp": str(NOW_MS).encode(),
        "modelvigil.reason": b"delivery_refused",
        "modelvigil.detail": b"HTTP 404",
        "modelvigil.target": b"hook",
    }


@pytest.mark.parametrize(
    ("committed", "served_before", "start_at", "begin"),
    [
        (20, True, "latest", 20),
        (30, True, "latest", 30),
        (5, True, "latest", 10),
        (31, True, "earliest", 10),
        (None, False, "latest", 30),
        (None, False, "earliest", 10),
        (None, True, "latest", 10),
    ],
)
def test_where_a_target_begins(committed: int | None, served_before: bool, start_at: Any, begin: int) -> None:  # noqa: ANN401, FBT001 - cases
    """At its position; where that is gone, at what is left; in a new partition at its beginning."""
    assert start_of(committed, 10, 30, served_before=served_before, start_at=start_at) == begin


# Alertmanager.


def incident(**changes: Any) -> AlertEvent:  # noqa: ANN401 - any field
    """Return a step of an incident."""
    feature = changes.pop("feature", "amount")
    changed = Changed(name=feature, measure="psi", observed=1.0, expected=0.1, effect=1.0, since_offset=0, since_ms=0)
    evidence = ChangeEvidence(changed=[changed], changed_count=1, looked_at=9, events=100)
    return event(**{"kind": "drift.input", "change": evidence, **changes})


def _resolved(**changes: Any) -> AlertEvent:  # noqa: ANN401 - any field
    """A last step has no change lines."""
    fields = {
        "kind": "drift.input",
        "alert_id": "a9",
        "status": "resolved",
        "resolved_at_ms": NOW_MS + 10,
        "updates": 9,
    }
    return event(**{**fields, **changes})


def _managed(world: World, *incidents: AlertEvent) -> tuple[Courier, Board]:
    board = Board(100)
    world.incidents = [arrived(each, key=each.fingerprint) for each in incidents]
    return courier_of(world, MANAGER, board), board


def _is_open(told: dict[str, Any]) -> bool:
    return "endsAt" not in told


def test_labels_say_what_it_is_about() -> None:
    """Those that have no value are left out; without a situation an incident is its own."""
    situation = Situation(
        situation_id="s1",
        opened_at_ms=0,
        incidents=1,
        open_incidents=1,
        cause_incident_id="i1",
        cause_kind="drift.input",
        cause_summary="",
    )
    assert labels_of(incident(situation=situation)) == {
        "alertname": "drift.input",
        "model_id": "fraud",
        "severity": "critical",
        "fingerprint": "f1",
        "feature": "amount",
        "shard": "0",
        "situation_id": "s1",
    }
    assert labels_of(event())["situation_id"] == "i1"


def test_an_incident_opens_and_ends_under_the_same_labels() -> None:
    """Also when its last step knows no feature, and whatever leads it meanwhile."""
    steps = [incident(), incident(alert_id="a2", status="updated", feature="age", updates=1), _resolved()]
    world = World([arrived(each, offset) for offset, each in enumerate(steps)])
    courier, _ = _managed(world)
    _until_finished(courier)
    told = [each for body in world.bodies() for each in body]
    assert len({json.dumps(each["labels"], sort_keys=True) for each in told}) == 1
    assert list(map(_is_open, told)) == [True, True, False]
    assert told[-1]["startsAt"] == "2026-11-26T12:00:00.000Z"
    assert told[0]["annotations"]["summary"] == "accuracy has dropped"
    assert world.requests[0].url == "http://manager.test/api/v2/alerts"


def test_a_new_severity_ends_the_alert_of_the_old_one() -> None:
    """In one request, so that nobody hears of an end."""
    steps = [incident(severity="warning"), incident(alert_id="a2", status="updated", updates=1)]
    world = World([arrived(each, offset) for offset, each in enumerate(steps)])
    courier, _ = _managed(world)
    _until_finished(courier)
    last = world.bodies()[-1]
    assert [(each["labels"]["severity"], _is_open(each)) for each in last] == [("warning", False), ("critical", True)]


def test_open_incidents_are_told_again_until_they_are_over() -> None:
    """Alertmanager would forget them; the topic of incidents says which they are, from before this process began."""
    world = World([])
    courier, _ = _managed(world, incident(), incident(fingerprint="f2", incident_id="i2"))
    while world.now_ms < 125_000:
        courier.step(200)
    assert [len(body) for body in world.bodies()] == [2, 2, 2]
    world.incidents = [arrived(None, key="f1")]
    while world.now_ms < 185_000:
        courier.step(200)
    assert [each["labels"]["fingerprint"] for each in world.bodies()[-1]] == ["f2"]


def test_an_end_is_not_undone_by_a_topic_that_is_behind() -> None:
    """The step `resolved` came first; the incident's record and its tombstone come later."""
    world = World([arrived(incident(), 0), arrived(_resolved(), 1)])
    courier, board = _managed(world)
    _until_finished(courier)
    world.incidents = [arrived(incident(status="updated", updates=1))]
    courier.step(200)
    assert board.open_alerts() == []
    world.incidents = [arrived(None), arrived(incident(incident_id="i2"))]
    courier.step(200)
    assert [each.event.incident_id for each in board.open_alerts()] == ["i2"]


def test_an_end_after_a_restart_has_the_labels_of_the_incident() -> None:
    """They come from the topic of incidents, also when its tombstone is there already."""
    for tombstone in ([], [arrived(None)]):
        world = World([arrived(_resolved(), 0)])
        courier, _ = _managed(world)
        world.incidents = [arrived(incident()), *tombstone]
        _until_finished(courier)
        last = world.bodies()[-1][-1]
        assert last["labels"]["feature"] == "amount"
        assert not _is_open(last)


def test_after_an_outage_an_incident_is_told_as_it_is_now() -> None:
    """A severity of the day before yesterday wakes nobody."""
    now = incident(alert_id="a2", status="updated", severity="critical", updates=1)
    world = World([arrived(incident(severity="warning"), 0), arrived(now, 1)])
    courier, _ = _managed(world, now)
    _until_finished(courier)
    assert {each["labels"]["severity"] for body in world.bodies() for each in body} == {"critical"}


def test_open_incidents_are_told_while_an_alert_waits() -> None:
    """One alert that Alertmanager cannot digest must not let the others run out."""
    world = World([arrived(incident(), 0)], [Answer(200), *[Answer(500)] * 8])
    courier, board = _managed(world, incident(fingerprint="f2", incident_id="i2"))
    while world.now_ms < 200_000:
        courier.step(200)
    again = [what for kind, what in world.happened if kind == "post" and what.startswith("open-")]
    assert len(again) >= 3
    assert len(board.open_alerts()) == 1


def test_many_open_incidents_go_in_parts_and_not_without_bound() -> None:
    """A request stays small; what is beyond `open_max` is told once, and complained about."""
    incidents = [incident(fingerprint=f"f{place}", incident_id=f"i{place}") for place in range(ALERTS_MAX + 1)]
    world = World([])
    board = Board(ALERTS_MAX + 1)
    courier = courier_of(world, MANAGER, board)
    world.incidents = [arrived(each, key=each.fingerprint) for each in [*incidents, incident(fingerprint="one-more")]]
    courier.step(200)
    assert [len(body) for body in world.bodies()] == [ALERTS_MAX, 1]
    assert [level for level, _ in world.log] == ["error"]


def test_times_are_never_ahead_of_the_clock() -> None:
    """An event time of tomorrow would be an alert that has not begun, or never ends."""
    tomorrow_ms = NOW_MS + 86_400_000
    steps = [incident(opened_at_ms=tomorrow_ms), _resolved(opened_at_ms=tomorrow_ms, resolved_at_ms=tomorrow_ms)]
    world = World([arrived(each, offset) for offset, each in enumerate(steps)])
    courier, _ = _managed(world)
    _until_finished(courier)
    (last,) = world.bodies()[-1]
    assert last["startsAt"] <= last["endsAt"] <= "2026-11-26T12:00:01.000Z"


_STEP = st.tuples(st.sampled_from(["opened", "updated", "resolved"]), st.sampled_from(["info", "warning", "critical"]))


@given(st.lists(st.tuples(st.sampled_from("ab"), _STEP), max_size=25))
def test_alertmanager_has_one_open_alert_for_each_open_incident(story: list[tuple[str, tuple[Any, Any]]]) -> None:
    """Whatever the steps: what was told last under each set of labels leaves exactly the open ones open."""
    board, told, lives, open_now = Board(100), dict[str, bool](), {"a": 0, "b": 0}, dict[str, str]()
    for number, (fingerprint, (status, severity)) in enumerate(story):
        lives[fingerprint] += status == "opened"
        changes = {"incident_id": f"{fingerprint}{lives[fingerprint]}", "alert_id": f"a{number}", "updates": number}
        made = _resolved if status == "resolved" else incident
        step = alert(made(fingerprint=fingerprint, severity=severity, **{**changes, "status": status}))
        for each in board.request_of(step, MANAGER, "", NOW_MS + number):
            told[json.dumps(each["labels"], sort_keys=True)] = _is_open(each)
        board.took(step)
        open_now |= {fingerprint: severity}
        if status == "resolved":
            del open_now[fingerprint]
    still = [json.loads(labels) for labels, is_open in told.items() if is_open]
    assert {each["fingerprint"]: each["severity"] for each in still} == open_now
    assert len(still) == len(open_now)
