"""State that cannot be used, identities that clash, partitions that grow: each is told clearly, and loses nothing."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined] # not in its __all__

from tests.e2e.harness import PARTITIONS, Deployment
from tests.malformed import GOOD

QUICK = {**os.environ, "MODELVIGIL_KAFKA_SESSION_TIMEOUT_MS": "3000", "MODELVIGIL_KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
STATE = 8
FENCED = 6
_WAIT_S = 40.0


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


def events(count: int, partition: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """Yield events of now, over all partitions or for one."""
    for number in range(count):
        event = GOOD | {"event_id": f"e{number}", "timestamp": int(time.time() * 1000)}
        yield number % PARTITIONS if partition is None else partition, json.dumps(event).encode()


def start(deployment: Deployment, *more: str) -> subprocess.Popen[str]:
    """Start a worker whose log can be read."""
    return subprocess.Popen([*deployment.command("run"), *more], stderr=subprocess.PIPE, text=True, env=QUICK)


def run_to_its_end(deployment: Deployment, *more: str) -> tuple[int, str]:
    """Run a worker that ends by itself; return its exit code and its log."""
    with start(deployment, *more) as process:
        try:
            _, log = process.communicate(timeout=_WAIT_S)
        finally:
            process.kill()
    return process.returncode, log


def crash(deployment: Deployment, count: int, *more: str) -> None:
    """Let a worker take so many more records, and kill it."""
    before = deployment.committed()
    deployment.publish(events(count))
    with start(deployment, *more) as process:
        deployment.wait_for(before + count)
        process.kill()


def delete_records(deployment: Deployment, topic: str, offset: int) -> None:
    """Delete the records before an offset in all partitions."""
    places = [TopicPartition(deployment.topics[topic], partition, offset) for partition in range(PARTITIONS)]
    client = AdminClient({"bootstrap.servers": deployment.servers})
    for future in client.delete_records(places).values():
        future.result(20)


NO_SNAPSHOTS = ("--set", "worker.snapshot_interval_ms=1000000")


def test_input_that_is_gone_is_told_and_fresh_goes_on_from_the_committed_position(deployment: Deployment) -> None:
    """Without its input a journal cannot be replayed: exit code 8 and one line; `fresh` loses state, but no event."""
    crash(deployment, 400, *NO_SNAPSHOTS)
    delete_records(deployment, "predictions", 50)
    code, log = run_to_its_end(deployment)
    assert code == STATE
    assert "must be read from offset 0, but begins at 50" in log
    assert "--on-missing-state fresh" in log.splitlines()[-1]
    deployment.publish(events(400))
    with start(deployment, "--on-missing-state", "fresh") as process:
        deployment.wait_for(800)
        process.terminate()
        assert process.wait(20) == 0
    assert _clean_turn(deployment) == [0] * PARTITIONS


def _clean_turn(deployment: Deployment) -> list[int]:
    """Run a worker until all partitions are live, and stop it; return how many records each one has replayed."""
    with start(deployment) as process:
        lines = _lines_until(process, "partition live", PARTITIONS)
        process.terminate()
        process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0
    return [int(json.loads(line)["modelvigil.records_replayed"]) for line in lines]


def test_a_clean_stop_leaves_nothing_to_replay(deployment: Deployment) -> None:
    """After SIGTERM everything is stored: input that was read can go, and the next worker replays no record."""
    deployment.publish(events(400))
    with start(deployment, *NO_SNAPSHOTS) as process:
        deployment.wait_for(400)
        process.terminate()
        assert process.wait(20) == 0
    delete_records(deployment, "predictions", 100)
    assert _clean_turn(deployment) == [0] * PARTITIONS


def test_other_options_are_refused(deployment: Deployment) -> None:
    """State means something else under other options: exit code 8; with the old ones the worker goes on."""
    crash(deployment, 200)
    code, log = run_to_its_end(deployment, "--set", "engine.warmup_events=64")
    assert code == STATE
    assert "other [engine] options" in log.splitlines()[-1]
    assert len(_clean_turn(deployment)) == PARTITIONS


def test_a_lost_position_is_not_taken_for_a_new_partition(deployment: Deployment) -> None:
    """The group's offsets have expired or were deleted, but there is state: exit code 8, and nothing is read again."""
    deployment.publish(events(200))
    with start(deployment) as process:
        deployment.wait_for(200)
        process.terminate()
        assert process.wait(20) == 0
    client = AdminClient({"bootstrap.servers": deployment.servers})
    client.delete_consumer_groups([deployment.group])[deployment.group].result(20)
    code, log = run_to_its_end(deployment)
    assert code == STATE
    assert "there is stored state, but no position is committed" in log


def test_foreign_metadata_is_refused(deployment: Deployment) -> None:
    """What another program, or another version, has committed is not guessed at."""
    deployment.publish(events(200))
    foreign = ["something else", '{"modelvigil": 7}', "x" * 4000]
    consumer = Consumer({"bootstrap.servers": deployment.servers, "group.id": deployment.group})
    places = [
        TopicPartition(deployment.topics["predictions"], p, 10, metadata=foreign[p % len(foreign)])
        for p in range(PARTITIONS)
    ]
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            consumer.commit(offsets=places, asynchronous=False)
            break
        except Exception:  # noqa: BLE001 - the coordinator of a new group is not ready at once
            assert time.monotonic() < end
            time.sleep(0.2)
    consumer.close()
    code, log = run_to_its_end(deployment)
    assert code == STATE
    told = log.splitlines()[-1]
    assert told.count("the metadata of the committed offset is not ours") == PARTITIONS - 1
    assert told.count("the committed offset has metadata of format 7") == 1


def test_two_workers_with_one_identity(deployment: Deployment) -> None:
    """The second one takes over, the first one ends with a clear line: they do not destroy each other for ever."""
    deployment.publish(events(200))
    with start(deployment, "--set", "worker.instance_id=pod-0") as first:
        deployment.wait_for(200)
        with start(deployment, "--set", "worker.instance_id=pod-0") as second:
            end = time.monotonic() + _WAIT_S
            while first.poll() is None:
                deployment.publish(events(20))
                assert time.monotonic() < end
                time.sleep(0.3)
            assert first.returncode == FENCED
            assert first.stderr is not None
            assert "same transactional id" in first.stderr.read().splitlines()[-1]
            deployment.publish(events(100))
            deployment.wait_for(300)
            second.terminate()
            assert second.wait(20) == 0


def test_a_grown_topic_stops_nothing_that_worked_before(deployment: Deployment) -> None:
    """New partitions of `predictions` are refused with instructions; the others go on."""
    client = AdminClient({"bootstrap.servers": deployment.servers})
    names = deployment.topics
    with start(deployment) as process:
        deployment.publish(events(200))
        deployment.wait_for(200)
        client.create_partitions([NewPartitions(names["predictions"], PARTITIONS + 2)])[names["predictions"]].result(20)
        deployment.publish(events(200))
        deployment.wait_for(400)
        process.terminate()
        assert process.wait(20) == 0
    deployment.publish([*events(200), *events(10, PARTITIONS + 1)])
    with start(deployment) as process:
        deployment.wait_for(600)
        process.terminate()
        _, log = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0
    refusals = [line for line in log.splitlines() if "no_state_partition" in line]
    assert len(refusals) == 2
    assert "kafka-topics --alter" in refusals[0]


def test_a_second_signal_ends_at_once_and_loses_nothing(deployment: Deployment) -> None:
    """Two SIGTERMs are a crash; the next worker repairs it."""
    deployment.publish(events(2000))
    with start(deployment) as process:
        deployment.wait_for(1000)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {130, 0}
    with start(deployment) as process:
        deployment.wait_for(2000)
        deployment.wait_for_events(2000)
        process.terminate()
        assert process.wait(20) == 0
    assert deployment.events_in_metrics() == 2000


def test_a_static_member_comes_back_without_a_rebalance(deployment: Deployment) -> None:
    """A quick restart under the same name keeps its partitions: the other worker notices nothing."""
    named = ("--set", "worker.static_membership=true", "--set")
    patient = {**QUICK, "MODELVIGIL_KAFKA_SESSION_TIMEOUT_MS": "20000"}
    command = deployment.command("run")
    with subprocess.Popen(
        [*command, *named, "worker.instance_id=a"], stderr=subprocess.PIPE, text=True, env=patient
    ) as other:
        _lines_until(other, "partition live", PARTITIONS)
        for _ in range(2):
            again = subprocess.Popen(
                [*command, *named, "worker.instance_id=b"], stderr=subprocess.PIPE, text=True, env=patient
            )
            with again as process:
                _lines_until(process, "partition live", PARTITIONS // 2)
                process.terminate()
                process.communicate(timeout=_WAIT_S)
                assert process.returncode == 0
        other.terminate()
        _, log = other.communicate(timeout=_WAIT_S)
    # Once, for the first time that the other one came, and at its own end (told once by us and once by the group).
    assert log.count("partitions revoked") <= 3


def _lines_until(process: subprocess.Popen[str], what: str, times: int) -> list[str]:
    """Read a worker's log until something has come so many times; return those lines."""
    assert process.stderr is not None
    found: list[str] = []
    for line in process.stderr:
        if what in line:
            found.append(line)
        if len(found) == times:
            break
    assert len(found) == times, f"{what!r} came {len(found)} times"
    return found
