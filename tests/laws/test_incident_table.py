"""The same of the whole engine: whatever comes in, the table of open incidents is what the history of alerts says."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.incidents import FEEDBACK
from tests.streams import SMALL, Record, batch, records
from worker.core.cut import FITTED, LIVE
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import (
    InputTopic,
    Output,
    OutputTopic,
    RawBatch,
)
from worker.core.shard import Topics


class Turn(NamedTuple):
    """A batch, or a tick."""

    raw: RawBatch | None
    tick_ms: int = 0


class Taken(NamedTuple):
    """An engine, and all that it told."""

    engine: Engine
    out: list[Output]

    @classmethod
    def new(cls) -> "Taken":
        """Return one that has seen nothing."""
        engine = Engine(SMALL, Topics(), InlineRefits())
        engine.add_shard(0)
        return cls(engine, [])

    def take(self, turn: Turn) -> None:
        """Let it happen."""
        self.out.extend(self.engine.tick(0, turn.tick_ms) if turn.raw is None else self.engine.handle(turn.raw).outputs)

    def moved(self) -> "Taken":
        """Return the same on another worker."""
        header, model_ids = self.engine.begin_cut(0, {}), self.engine.model_ids(0)
        parts: dict[tuple[str, str], bytes] = {}
        while found := self.engine.take_captured(0, 10**9):
            parts |= {(each.model_id, each.part): each.payload for each in found}
        other = Taken(Taken.new().engine, self.out)
        for model_id in model_ids:
            other.engine.restore_monitor(0, model_id, parts[model_id, LIVE], parts.get((model_id, FITTED)))
        other.engine.finish_restore(0, header, model_ids)
        return other


def alerts_of(out: Sequence[Output]) -> list[dict[str, Any]]:
    """Return the history of alerts."""
    return [json.loads(each.value or b"") for each in out if each.topic is OutputTopic.ALERTS]


def faulty(seed: int, count: int) -> list[Record]:
    """Return records in which a feature is missing for a while, and is of another unit later on."""
    out: list[Record] = []
    for number, (value, stamp) in enumerate(records(seed, count, models=1)):
        event = json.loads(value) if value is not None and b'"e' in value and b"prediction" in value else {}
        share, features = number / count, event.get("features", {})
        if features and 0.45 < share < 0.6:
            features.pop("a", None)
        if features and 0.75 < share < 0.85 and isinstance(features.get("b"), float):
            features["b"] += 90.0
        out.append((json.dumps(event).encode() if features else value, stamp))
    return out


def live(seed: int, count: int) -> tuple[list[Turn], Taken]:
    """Let records, labels, feedback and ticks come to an engine as they fall; return them, and what was told."""
    rng, taken = random.Random(seed), Taken.new()
    stream, turns, offsets, place = faulty(seed, count), [], Counter[InputTopic](), 0

    def come(topic: InputTopic, part: Sequence[Record]) -> None:
        turns.append(Turn(batch(0, offsets[topic], part)._replace(topic=topic)))
        offsets[topic] += len(part)
        taken.take(turns[-1])

    while place < count:
        stop = min(count, place + rng.choice([1, 7, 30, 60]))
        come(InputTopic.PREDICTIONS, stream[place:stop])
        place, now_ms = stop, stream[stop - 1][1]
        if rng.random() < 0.5:
            names = [f"e{rng.randrange(place)}" for _ in range(9)]
            labels = [{"event_id": name, "model_id": "m0", "label": rng.gauss(0, 1)} for name in names]
            come(InputTopic.LABELS, [(json.dumps(each).encode(), now_ms) for each in labels])
        if rng.random() < 0.3:
            come(InputTopic.FEEDBACK, [(said(rng, place, now_ms, taken.out), now_ms)])
        for _ in range(rng.choice([0, 0, 0, 2])):
            turns.append(Turn(None, now_ms + rng.choice([100, 3_000, 9_000])))
            taken.take(turns[-1])
    return turns, taken


def said(rng: random.Random, number: int, now_ms: int, out: Sequence[Output]) -> bytes:
    """Return what somebody says."""
    ids = [each["incident_id"] for each in alerts_of(out)]
    notes = [json.loads(each.value or b"") for each in out if each.topic is OutputTopic.MAINTENANCE]
    applied = [each["feedback_id"] for each in notes if each["kind"] == "feedback_applied"]
    about: dict[str, Any] = {"feedback_id": f"f{number}", "author": "ann", "reason": "a test"}
    if number % 3 == 0:
        about |= {"kind": "undo", "undoes": rng.choice(applied or ["nothing"])}
    elif ids and number % 3 == 1:
        about |= {"kind": rng.choice(sorted(FEEDBACK)), "model_id": "m0", "shard": 0, "incident_id": rng.choice(ids)}
    else:
        about |= {"kind": "silence", "scope": {"kind": rng.choice(["quality.*", "anomaly.*"])}, "to": now_ms + 700}
    return json.dumps(about).encode()


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32), crashes=st.sets(st.integers(0, 60), max_size=3), size=st.integers(1, 40))
def test_the_whole_engine_tells_the_same_of_incidents(seed: int, crashes: set[int], size: int) -> None:
    """With real watchers: however it is cut and wherever a worker dies, the same bytes; the table is what is open."""
    turns, whole = live(seed, 300)
    twin = Taken.new()
    for place, turn in enumerate(turns):
        twin = twin.moved() if place in crashes else twin
        for part in [turn] if turn.raw is None else smaller(turn.raw, size):
            twin.take(part)
    assert twin.out == whole.out
    assert twin.engine.digest(0) == whole.engine.digest(0)
    check_table(whole.out)


def smaller(raw: RawBatch, size: int) -> list[Turn]:
    """Cut a batch into smaller ones."""
    parts = [slice(begin, begin + size) for begin in range(0, len(raw.offsets), size)]
    return [
        Turn(
            RawBatch(
                raw.partition,
                raw.offsets[part],
                raw.timestamps_ms[part],
                raw.values[part],
                raw.keys[part],
                raw.headers[part],
                raw.topic,
            )
        )
        for part in parts
    ]


def check_table(out: Sequence[Output]) -> None:
    """The compacted table is, after each step, what the history of alerts says is open."""
    shown: dict[bytes | None, bytes | None] = {}
    table: dict[bytes | None, bytes | None] = {}
    for each in out:
        if each.topic is OutputTopic.ALERTS:
            assert shown == table
            alert = json.loads(each.value or b"")
            assert (each.key in shown) is (alert["status"] != "opened")
            shown[each.key] = each.value
            if alert["status"] == "resolved":
                del shown[each.key]
        elif each.topic is OutputTopic.INCIDENTS:
            table[each.key] = each.value
            if each.value is None:
                del table[each.key]
    assert shown == table


def test_the_engine_law_is_not_empty() -> None:
    """Its streams open, update and resolve incidents of several kinds, hold some back, and take feedback."""
    _, taken = live(3, 800)
    text = b"".join(each.value or b"" for each in taken.out)
    kinds = {each["kind"].split(".")[0] for each in alerts_of(taken.out)}
    assert kinds >= {"anomaly", "quality"}
    for part in (b'"updated"', b'"resolved"', b'"alert_suppressed"', b'"feedback_applied"', b'"feedback_undone"'):
        assert part in text
