"""Writes a shard with many models whose buffers are full into a real state topic, and restores it.

Run `python -m benchmarks.restoring SERVERS MODELS`; the last line is JSON.
"""

import json
import resource
import sys
import time
import uuid

from confluent_kafka import Consumer

from benchmarks.events import FEATURES, START_MS, create_topics, generate
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, OutputTopic, RawBatch
from worker.core.journal import Base, Origin
from worker.core.options import EngineOptions
from worker.core.shard import Topics
from worker.edges.kafka import KafkaConnection, KafkaHistory, KafkaSink
from worker.ports import CommitOutcome, Position
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.track import Identity, Track

EVENTS_PER_MODEL = 4000
"""Enough to fill the reservoir of the forest and the score pools (2,048 each), and for the second forest."""

COMMIT_BYTES = 20_000_000


def full_engine(models: int) -> Engine:
    """Return an engine with one shard: one model that has seen enough, under as many names."""
    teacher = Engine(EngineOptions(), Topics(), InlineRefits())
    teacher.add_shard(0)
    values = [value for partition, value in generate(EVENTS_PER_MODEL * 8) if b'"model-0"' in value]
    size = len(values)
    nothing = [None] * size
    teacher.handle(RawBatch(0, range(size), [START_MS + 10**9] * size, values, nothing, nothing))
    header = teacher.begin_cut(0, {})
    parts = {part.part: part.payload for part in teacher.take_captured(0, 2**30)}
    engine = Engine(EngineOptions(), Topics(), InlineRefits())
    engine.add_shard(0)
    names = [f"model-{number}" for number in range(models)]
    for name in names:
        engine.restore_monitor(0, name, parts["live"], parts["fitted"])
    engine.finish_restore(0, header, names)
    return engine


def restored(servers: str, models: int) -> dict[str, float]:
    """Write and restore; return seconds, bytes and the peak of this process's memory."""
    name = uuid.uuid4().hex[:8]
    topics = {topic: f"{name}-{topic}" for topic in (*InputTopic, *OutputTopic)}
    create_topics(servers, list(topics.values()))
    connection = KafkaConnection(servers)
    nobody = Consumer({"bootstrap.servers": servers, "group.id": name, "log_level": 0})
    sink = KafkaSink(
        connection,
        transactional_id=name,
        group_metadata=nobody.consumer_group_metadata,
        input_topic=topics[InputTopic.PREDICTIONS],
        label_topic=topics[InputTopic.LABELS],
        state_topic=topics[InputTopic.STATE],
        topic_names={topic: topics[topic] for topic in OutputTopic},
    )
    identity = Identity(name, Origin("", "", "", ""), "options", "libraries")
    track = Track(0, identity, Base(0, 0))
    engine = full_engine(models)
    begun = time.perf_counter()
    written, position = _write(sink, engine, track)
    write_seconds = time.perf_counter() - begun
    digest = engine.digest(0)
    engine.drop_shard(0)
    before_mb = _peak_mb()
    inputs = {topic: topics[topic] for topic in InputTopic}
    history = KafkaHistory(connection, group_id=name, topics=inputs)
    fresh = Engine(EngineOptions(), Topics(), InlineRefits())
    begun = time.perf_counter()
    job = RestoreJob(0, position, fresh, history, identity, RestoreOptions())
    while job.track is None:
        if not job.step():
            time.sleep(0.002)
    seconds = time.perf_counter() - begun
    assert fresh.digest(0) == digest, "what was restored is something else"
    return {
        "restore_seconds": round(seconds, 2),
        "restore_peak_mb": round(_peak_mb()),
        "writer_peak_mb": round(before_mb),
        "snapshot_seconds": round(write_seconds, 2),
        "snapshot_bytes_per_model": round(written / models),
        "features": FEATURES,
    }


def _write(sink: KafkaSink, engine: Engine, track: Track) -> tuple[int, Position]:
    job = SnapshotJob(engine, track, 0)
    while not job.done:
        records = job.next_records(COMMIT_BYTES)
        commit = sink.commit((), {0: track.position(engine.trace(0))}, records)
        assert commit.outcome is CommitOutcome.COMMITTED
        job.written(commit.state_offsets)
    position = track.position(engine.trace(0))
    assert sink.commit((), {0: position}).outcome is CommitOutcome.COMMITTED
    return job.bytes, position


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(restored(sys.argv[1], int(sys.argv[2]))))
