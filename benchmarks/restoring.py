"""Writes a shard with many models whose buffers are full into a real state topic, and restores it.

Run `python -m benchmarks.restoring SERVERS MODELS`; the last line is JSON.
"""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import msgspec
from confluent_kafka import Consumer

from benchmarks.events import FEATURES, START_MS, create_topics, generate
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, OutputTopic, RawBatch
from worker.core.journal import Base, Origin
from worker.core.options import EngineOptions
from worker.core.shard import Topics
from worker.core.snapshot import pack, unpack
from worker.edges.kafka import KafkaConnection, KafkaHistory, KafkaSink
from worker.ports import CommitOutcome, Position
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.track import Identity, Track

EVENTS_PER_MODEL = 4000
"""Enough to fill the reservoir of the forest and the score pools (2,048), and for the second forest."""

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
        engine.restore_monitor(0, name, _renamed(parts["live"], name), _renamed(parts["fitted"], name))
    engine.finish_restore(0, header, names)
    return engine


def _renamed(payload: bytes, model_id: str) -> bytes:
    """Return stored state as that of another model."""
    state = unpack(payload)
    plain = msgspec.msgpack.decode(state.plain)
    return pack(state._replace(plain=msgspec.msgpack.encode({**plain, "model_id": model_id})))


def _topics(name: str) -> dict[str, str]:
    return {topic: f"{name}-{topic}" for topic in (*InputTopic, *OutputTopic)}


def written(servers: str, models: int) -> dict[str, float | str]:
    """Write a shard with so many models; return what it took, and where it can be found."""
    name = uuid.uuid4().hex[:8]
    topics = _topics(name)
    create_topics(servers, list(topics.values()))
    nobody = Consumer({"bootstrap.servers": servers, "group.id": name, "log_level": 0})
    sink = KafkaSink(
        KafkaConnection(servers),
        transactional_id=name,
        group_metadata=nobody.consumer_group_metadata,
        input_topic=topics[InputTopic.PREDICTIONS],
        label_topic=topics[InputTopic.LABELS],
        state_topic=topics[InputTopic.STATE],
        topic_names={topic: topics[topic] for topic in OutputTopic},
    )
    engine = full_engine(models)
    track = Track(0, _identity(name), Base(0, 0))
    begun = time.perf_counter()
    job = SnapshotJob(engine, track, 0)
    while not job.done:
        records = job.next_records(COMMIT_BYTES)
        commit = sink.commit((), {0: track.position(engine.trace(0))}, records)
        assert commit.outcome is CommitOutcome.COMMITTED
        job.written(commit.state_offsets)
    seconds = time.perf_counter() - begun
    metadata = track.position(engine.trace(0)).metadata
    return {
        "name": name,
        "metadata": metadata,
        "digest": engine.digest(0),
        "snapshot_seconds": round(seconds, 2),
        "snapshot_bytes_per_model": round(job.bytes / models),
    }


def read(servers: str, name: str, metadata: str, digest: str) -> dict[str, float]:
    """Restore it; return the seconds, and the peak of this process's memory with and without the state."""
    topics = _topics(name)
    history = KafkaHistory(
        KafkaConnection(servers), group_id=name, topics={topic: topics[topic] for topic in InputTopic}
    )
    engine = Engine(EngineOptions(), Topics(), InlineRefits())
    before_mb = _peak_mb()
    begun = time.perf_counter()
    job = RestoreJob(0, Position(0, metadata), engine, history, _identity(name), RestoreOptions())
    while job.track is None:
        if not job.step():
            time.sleep(0.002)
    seconds = time.perf_counter() - begun
    peak_mb = _peak_mb()
    assert engine.digest(0) == digest, "what was restored is something else"
    return {
        "restore_seconds": round(seconds, 2),
        "restore_peak_mb": round(peak_mb),
        "restore_peak_mb_beside_python": round(peak_mb - before_mb),
        "features": FEATURES,
    }


def _identity(name: str) -> Identity:
    return Identity(name, Origin("", "", "", ""), "options", "libraries")


def _peak_mb() -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Write here, read in a process of its own, so that its memory is its own."""
    servers, what = sys.argv[1:3]
    if what == "read":
        print(json.dumps(read(servers, **json.load(sys.stdin))))
        return
    figures = written(servers, int(what))
    where = {key: figures.pop(key) for key in ("name", "metadata", "digest")}
    reading = [sys.executable, "-m", "benchmarks.restoring", servers, "read"]
    done = subprocess.run(reading, input=json.dumps(where), stdout=subprocess.PIPE, text=True, check=True)
    print(json.dumps({**json.loads(done.stdout.splitlines()[-1]), **figures}))


if __name__ == "__main__":
    main()
