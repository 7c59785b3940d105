"""From a broken feature to a person: a worker and `modelvigil notify` beside each other, each killed on the way."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.harness import Deployment, parsed
from tests.e2e.test_notify import Story, until
from tests.malformed import GOOD

PARTITION = 1
BROKEN = range(3000, 3060)
START_MS = 1_767_225_600_000


def events(numbers: range) -> Iterator[tuple[int, bytes]]:
    """Yield ten events a second of a steady model; its feature `amount` is far off for six seconds."""
    for number in numbers:
        value = 1000.0 if number in BROKEN else 10 + (number * 37 % 101) / 50
        features = {"amount": value, "age": 30 + number * 13 % 29, "region": "north"}
        event = GOOD | {"event_id": f"e{number}", "features": features, "timestamp": START_MS + number * 100}
        yield PARTITION, json.dumps(event).encode()


def test_what_opens_and_resolves_reaches_the_receiver_over_two_kills(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Each alert of the topic arrives, in order; only one that was being delivered at a kill may arrive twice."""
    deployment, story = Deployment(kafka, topic_prefix), Story(kafka, topic_prefix, tmp_path)
    deployment.create_topics()
    story.configure()
    receiver = story.receiver
    with story.notify() as notify:
        with deployment.worker() as worker:
            deployment.publish(events(range(3030)))
            until(lambda: bool(receiver.got), "the alert does not arrive")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        # The next one that is delivered finds nobody who could note that.
        receiver.plan = [notify.kill]
        with deployment.worker() as worker:
            deployment.publish(events(range(3030, 5000)))
            deployment.wait_for(5000)
            notify.wait(20)
            worker.terminate()
            assert worker.wait(20) == 0
    published = [parsed(message) for message in deployment.read("alerts")]
    with story.notify("--once") as notify:
        assert notify.wait(60) == 0
    delivered = _first_deliveries(receiver.keys())
    assert delivered == [f"{alert['alert_id']}/hook" for alert in published]
    assert len(receiver.got) == len(published) + 1
    alerts = [json.loads(each.body)["alert"] for each in receiver.got]
    assert [alert for number, alert in enumerate(alerts) if alert not in alerts[:number]] == published
    steps = {(alert["incident_id"], alert["status"]) for alert in alerts}
    resolved = {incident for incident, status in steps if status == "resolved"}
    assert resolved == {incident for incident, status in steps if status == "opened"} != set()
    assert _open(deployment) == {}
    receiver.server.shutdown()
    receiver.server.server_close()


def _first_deliveries(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def _open(deployment: Deployment) -> dict[bytes, Any]:
    table = {message.key(): message.value() for message in deployment.read("incidents")}
    return {key: value for key, value in table.items() if key is not None and value is not None}
