"""The stage of a story: topics, a stream of events and labels, a crew of workers, a reader; at the end, the verdict."""

import json
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.e2e.faults.reader import Follower, Place, assert_same, read_all
from tests.e2e.harness import PARTITIONS, Deployment
from tests.e2e.stories.commits import committed_positions
from tests.e2e.stories.crew import Crew
from tests.e2e.stories.oracle import ShardFold, Verdict
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, OutputTopic
from worker.core.journal import decode_pointer
from worker.core.shard import Topics
from worker.edges.kafka import KafkaConnection, KafkaHistory
from worker.ports import Position
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.track import Identity

OUTPUTS = {
    OutputTopic.ALERTS: "alerts",
    OutputTopic.INCIDENTS: "incidents",
    OutputTopic.METRICS: "metrics",
    OutputTopic.MAINTENANCE: "maintenance",
    OutputTopic.DEAD_LETTERS: "dead_letters",
}
MODELS = 6
_TURN_S = 0.05
_SETTLE_MAX_S = 90.0
_QUIET_S = 2.5
_LABEL_DELAY_EVENTS = 400
_UNLABELLED_MAX = 5_000


class Stage:
    """Everything that a story needs. As a context manager it begins to send, and ends all processes.

    Args:
        servers: where the workers connect.
        prefix: of topics and group.
        direct: where the story itself connects, if that is another address.
        rate: records per second, over all partitions: predictions, labels of most of them, some that are neither.
        environment: of the workers.
        settings: of the workers, as NAME=VALUE.
    """

    def __init__(
        self,
        servers: str,
        prefix: str,
        *,
        direct: str | None = None,
        rate: int = 1500,
        environment: Mapping[str, str] | None = None,
        settings: tuple[str, ...] = (),
    ) -> None:
        self.servers = direct or servers
        self.deployment = Deployment(servers, prefix)
        self._looking = Deployment(self.servers, prefix)
        self._looking.create_topics()
        self._folder = tempfile.TemporaryDirectory(prefix="modelvigil-story-")
        self.crew = Crew(self.deployment, Path(self._folder.name), environment, settings)
        self._follower = Follower(self.servers, [self.deployment.topics[name] for name in OUTPUTS.values()])
        self._producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5, "enable.idempotence": True})
        self._rate = rate
        self._over = threading.Event()
        self._feeding = threading.Thread(target=self._feed, daemon=True)
        self.sent = 0
        self._unlabelled: deque[tuple[int, int, bool]] = deque(maxlen=_UNLABELLED_MAX)

    def __enter__(self) -> Self:
        self._follower.__enter__()
        self.crew.__enter__()
        self._feeding.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._feeding.join()
        self.crew.__exit__(kind, error, traceback)
        self._follower.__exit__(kind, error, traceback)
        self._folder.cleanup()

    # The stream.

    def _feed(self) -> None:
        rng = random.Random(5)
        begun = time.monotonic()
        while not self._over.wait(_TURN_S):
            due = int((time.monotonic() - begun) * self._rate)
            while self.sent < due:
                self._send(rng)
            self._producer.poll(0)
        self._producer.flush(60)

    def _send(self, rng: random.Random) -> None:
        number, self.sent = self.sent, self.sent + 1
        model = rng.randrange(MODELS)
        now = int(time.time() * 1000)
        what = rng.random()
        topic = "predictions"
        if what < 0.02:
            value = b"bad %d" % number
        elif what < 0.45 and self._unlabelled:
            topic, (model, value) = "labels", self._label(rng, now)
        else:
            chance = rng.random()
            self._unlabelled.append((number, model, rng.random() < chance))
            value = _event(rng, number, model, now, chance)
        partition = model % PARTITIONS
        self._producer.produce(self.deployment.topics[topic], value, key=b"m%d" % model, partition=partition)

    def _label(self, rng: random.Random, now: int) -> tuple[int, bytes]:
        """Label one of the latest events: most once, some twice, some another way later, some never, some nobody's."""
        place = rng.randrange(max(len(self._unlabelled) - _LABEL_DELAY_EVENTS, 0), len(self._unlabelled))
        number, model, truth = self._unlabelled[place]
        if rng.random() < 0.9:
            del self._unlabelled[place]
        if rng.random() < 0.05:
            truth = not truth
        elif rng.random() < 0.02:
            number += 10_000_000
        return model, _label(number, model, now, truth)

    # The end.

    def settle(self) -> None:
        """End the stream, let the workers finish it and close their panes, and stop them cleanly."""
        self._over.set()
        self._feeding.join()
        end, since, last = time.monotonic() + _SETTLE_MAX_S, time.monotonic(), ""
        while time.monotonic() - since < _QUIET_S:
            now = repr(self._positions())
            if now != last or not self._is_done():
                since, last = time.monotonic(), now
            assert time.monotonic() < end, f"not everything was taken within {_SETTLE_MAX_S:g} s: {now[:300]}"
            time.sleep(0.2)
        codes = self.crew.stop_all()
        # 75: it hung in librdkafka, owning nothing any more, and was ended by its watchdog.
        assert set(codes.values()) <= {0, 75}, f"exit codes {codes}"

    def verdict(self) -> Verdict:
        """Compare all that came out with what must have come out."""
        outputs = [self.deployment.topics[name] for name in OUTPUTS.values()]
        afterwards = read_all(self.servers, outputs)
        assert_same(self._follower, afterwards)
        names = self.deployment.topics
        commits = committed_positions(self.servers, self.deployment.group, names["predictions"])
        inputs = {
            InputTopic.PREDICTIONS: self._looking.read("predictions"),
            InputTopic.LABELS: self._looking.read("labels"),
        }
        verdict = Verdict()
        settings = self.deployment.settings()
        for partition in range(PARTITIONS):
            fold = ShardFold(partition, settings.engine, Topics(names["predictions"], names["labels"]), inputs)
            fold.follow(commits[partition], verdict)
            fold.compare_inputs(verdict)
            visible = {
                topic: [(r.key, r.value) for r in afterwards.get(Place(names[name], partition), [])]
                for topic, name in OUTPUTS.items()
            }
            fold.compare(visible, verdict)
            last = commits[partition][-1]
            if self._restored(partition, Position(last.offset, last.metadata)) != fold.engine.digest(partition):
                verdict.state_differences += 1
                verdict.problems.append(f"shard {partition}: the stored state is another")
        return verdict

    def _restored(self, partition: int, position: Position) -> str:
        """Return the digest of what is stored, restored as a worker would."""
        pointer, names = decode_pointer(position.metadata), self.deployment.topics
        topics = {topic: names[topic.value] for topic in InputTopic}
        engine = Engine(
            self.deployment.settings().engine, Topics(names["predictions"], names["labels"]), InlineRefits()
        )
        history = KafkaHistory(KafkaConnection(self.servers), group_id="oracle", topics=topics)
        identity = Identity(
            self.deployment.group, pointer.origin, pointer.fingerprint, pointer.environment, policy=pointer.policy
        )
        job = RestoreJob(partition, position, engine, history, identity, RestoreOptions())
        end = time.monotonic() + _SETTLE_MAX_S
        while job.track is None:
            assert time.monotonic() < end
            if not job.step():
                time.sleep(0.005)
        history.close()
        return engine.digest(partition)

    def _positions(self) -> list[tuple[int, str]]:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.deployment.group})
        places = [TopicPartition(self.deployment.topics["predictions"], p) for p in range(PARTITIONS)]
        found = consumer.committed(places, timeout=30)
        consumer.close()
        return [(place.offset, place.metadata or "") for place in found]

    def _is_done(self) -> bool:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "oracle"})
        done = True
        for partition, (offset, metadata) in enumerate(self._positions()):
            ends = [
                consumer.get_watermark_offsets(TopicPartition(self.deployment.topics[name], partition), timeout=20)[1]
                for name in ("predictions", "labels")
            ]
            label_offset = decode_pointer(metadata).label_offset if metadata else -1
            done &= [offset, label_offset] == ends
        consumer.close()
        return done


def _event(rng: random.Random, number: int, model: int, now: int, chance: float) -> bytes:
    features = {f"f{place}": rng.gauss(place, 1.0) for place in range(4)} | {"site": rng.choice(["north", "south"])}
    if rng.random() < 0.01:
        features["f1"] *= 1000
    event = {"event_id": f"e{number}", "model_id": f"m{model}", "timestamp": now, "features": features}
    return json.dumps(event | {"prediction": chance}).encode()


def _label(number: int, model: int, now: int, truth: bool) -> bytes:  # noqa: FBT001 - what happened, not a switch
    return json.dumps({"event_id": f"e{number}", "model_id": f"m{model}", "timestamp": now, "label": truth}).encode()
