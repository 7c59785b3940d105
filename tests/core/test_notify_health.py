"""What `notify` tells operators: pages and figures, while targets fail, threads hang, and Kafka is away."""

import json
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from tests.core.test_notify_delivery import MANAGER, WEBHOOK, World, courier_of, incident, steps
from tests.core.test_notify_messages import arrived
from worker.edges.http_client import Answer, NoAnswer
from worker.edges.ops_http import Page
from worker.notify.alertmanager import Board
from worker.notify.courier import Courier
from worker.notify.figures import Figures, Watched
from worker.notify.health import Lookout, TargetHealth, silent_s_max
from worker.ops_pages import serving
from worker.ops_settings import OpsSettings
from worker.settings import SettingsError

HANGS_S = silent_s_max([10_000, 30_000])


class Topic:
    """The topic of alerts, to look at."""

    joined = True

    def __init__(self) -> None:
        self.waiting: dict[int, int] | None = {0: 3}
        self.asked = 0

    def lag(self) -> dict[int, int] | None:
        """Return what waits."""
        self.asked += 1
        return self.waiting


class Side:
    """A courier with its pages."""

    def __init__(self, world: World, courier: Courier, topic: Topic | None = None) -> None:
        self.world, self.courier, self.topic = world, courier, topic or Topic()
        self.lookout = Lookout(self.topic, world.health, world)
        self.figures = Figures([Watched(courier.counts, world.health)])
        self.pages = self.figures.pages(HANGS_S)

    def run(self, duration_ms: int) -> None:
        """Serve for so long, as the thread of a target does."""
        end_ms = self.world.now_ms + duration_ms
        while self.world.now_ms < end_ms:
            self.courier.step(200)
            self.lookout.step()

    def sample(self, name: str, **labels: str) -> float | None:
        """Return what `/metrics` has."""
        return self.figures.registry.get_sample_value(f"modelvigil_notify_{name}", labels)


def told(page: Page) -> tuple[int, str]:
    """Return status and reason."""
    answer = page()
    return answer.status, json.loads(answer.body).get("reason", "")


def test_a_target_that_fails_for_a_minute_makes_it_not_ready_until_it_works() -> None:
    """With the name of the target as the reason, and no part of its address; it is alive all the time."""
    world = World(steps(1), [NoAnswer("no connection")] * 1_000)
    side = Side(world, courier_of(world, msgspec.structs.replace(WEBHOOK, give_up_ms=3_600_000)))
    side.run(50_000)
    assert told(side.pages["/readyz"]) == (200, "ready")
    side.run(30_000)
    assert told(side.pages["/readyz"]) == (503, "the target takes nothing: hook")
    failing = side.sample("failing_seconds", target="hook")
    assert failing is not None
    assert 60 < failing <= 81
    assert side.sample("ready") == 0
    assert told(side.pages["/healthz"])[0] == 200
    assert b"hook.test" not in side.pages["/metrics"]().body
    world.answers = deque([Answer(200)])
    side.run(61_000)
    assert told(side.pages["/readyz"]) == (200, "ready")
    assert side.sample("failing_seconds", target="hook") == 0


def test_what_becomes_of_records_is_counted() -> None:
    """Each once, and each attempt."""
    world = World(steps(3), [Answer(404), Answer(500)])
    side = Side(world, courier_of(world))
    side.run(5_000)
    assert side.sample("alerts_total", target="hook", outcome="given_up") == 1
    assert side.sample("alerts_total", target="hook", outcome="delivered") == 2
    assert side.sample("alerts_total", target="hook", outcome="passed_over") == 0
    assert side.sample("attempts_total", target="hook") == 4
    assert side.sample("failing_seconds", target="hook") == 0


def test_a_refusal_is_an_answer() -> None:
    """A receiver that refuses one alert after failures is there."""
    world = World(steps(1), [*[Answer(503)] * 5, Answer(400)])
    side = Side(world, courier_of(world))
    side.run(30_000)
    assert side.sample("failing_seconds", target="hook") == 0


def test_open_incidents_that_cannot_be_told_again_are_a_failure_too() -> None:
    """Alertmanager is away, and no alert comes that would tell."""
    world = World([], [Answer(503)] * 1_000)
    world.incidents = [arrived(incident(), key="f1")]
    side = Side(world, courier_of(world, MANAGER, Board(100)))
    side.run(90_000)
    assert told(side.pages["/readyz"])[0] == 503
    world.answers.clear()
    side.run(61_000)
    assert told(side.pages["/readyz"])[0] == 200


def test_what_another_process_delivers_is_no_failure_here() -> None:
    """The partition goes elsewhere while the target is down; later the target has all of its patience again."""
    world = World(steps(1), [Answer(503)] * 3)
    side = Side(world, courier_of(world))
    while len(world.requests) < 3:
        side.run(200)
    world.owned = False
    side.run(120_000)
    assert side.sample("failing_seconds", target="hook") == 0
    world.owned, world.records, world.answers = True, deque(steps(2)[1:]), deque([Answer(503)])
    side.run(10_000)
    assert side.courier.counts.given_up == 0
    assert side.courier.counts.delivered == 1


def test_kafka_is_looked_after_though_nothing_comes() -> None:
    """Every 15 s, and at once when the group has decided something."""
    topic = Topic()
    topic.joined = False
    world = World([])
    side = Side(world, courier_of(world), topic)
    side.run(1_000)
    assert told(side.pages["/readyz"]) == (503, "waiting for the group: hook")
    topic.joined = True
    side.run(400)
    assert told(side.pages["/readyz"]) == (200, "ready")
    assert side.sample("lag_records", target="hook", partition="0") == 3
    topic.waiting = None
    side.run(16_000)
    assert told(side.pages["/readyz"]) == (503, "Kafka does not answer: hook")
    assert side.sample("lag_records", target="hook", partition="0") == 3
    topic.joined = False
    side.run(400)
    assert side.sample("lag_records", target="hook", partition="0") is None
    topic.waiting, topic.joined = {0: 0, 1: 5}, True
    side.run(400)
    asked = topic.asked
    side.run(60_000)
    assert told(side.pages["/readyz"]) == (200, "ready")
    assert side.sample("lag_records", target="hook", partition="1") == 5
    assert topic.asked - asked == 4


@pytest.mark.parametrize("kind", ["alerts", "open incidents"])
def test_a_thread_that_hangs_is_noticed_and_a_slow_target_is_none(kind: str) -> None:
    """Each request that begins is a sign of life; one that never ends is not."""
    world = World(steps(30) if kind == "alerts" else [])
    world.incidents = [arrived(incident(fingerprint=f"f{each}"), key=f"f{each}") for each in range(350)]
    side = Side(world, courier_of(world, MANAGER, Board(1_000)))
    before, seen = world.post, []

    def slow(*request: object) -> object:
        world.now_ms += 130_000
        seen.append(told(side.pages["/healthz"])[0])
        return before(*request)  # type: ignore[arg-type]  # as it comes

    world.post = slow  # type: ignore[assignment, method-assign]  # a slow receiver
    side.run(300_000)
    assert len(seen) >= 4
    assert set(seen) == {200}
    world.now_ms += int(HANGS_S * 1000)
    assert told(side.pages["/healthz"])[0] == 503
    world.health.ended = True
    assert told(side.pages["/healthz"])[0] == 200


def test_reasons_name_all_targets() -> None:
    """Each reason once, with those whom it is about."""
    world = World([])
    healths = [TargetHealth(name, world) for name in ("chat", "pager")]
    figures = Figures([Watched(courier_of(world).counts, health) for health in healths])
    assert told(figures.pages(HANGS_S)["/readyz"]) == (503, "waiting for the group: chat, pager")
    healths[0].joined = healths[1].joined = True
    healths[1].reachable = False
    healths[0].failed("alerts")
    world.now_ms += 61_000
    assert told(figures.pages(HANGS_S)["/readyz"])[1] == (
        "Kafka does not answer: pager; the target takes nothing: chat"
    )


def test_a_port_that_is_taken_is_named_as_the_setting_that_it_is() -> None:
    """One that was asked for ends the command; the default one does not, and the log says what to set."""
    world = World([])
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        port = taken.server_port
        with (
            pytest.raises(SettingsError, match=rf"^notify\.ops_port: port {port} of 127\.0\.0\.1 is taken"),
            serving(OpsSettings(port=port), {}, world, table="notify", default_port=1),
        ):
            pytest.fail("it serves")
        with serving(OpsSettings(), {}, world, table="notify", default_port=port) as server:
            assert server.url is None
    ((level, line),) = world.log
    assert level == "warning"
    assert "notify.ops_port" in line
