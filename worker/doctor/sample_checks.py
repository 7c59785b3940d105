"""What the newest events look like: a worker's own decoder reads them, and what it would refuse is told.

A sample tells what is common. That it has nothing of a kind does not mean that there is nothing.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from worker.core.codec import DecodedBatch, DecodedLabels, Reject, decode_labels, decode_predictions
from worker.core.events import InputTopic, LabelEvent, PredictionEvent, RawBatch, RejectCode
from worker.core.options import EngineOptions
from worker.doctor.findings import Area, Finding, Status, ok, unknown, warning
from worker.edges.kafka.diagnosis import Missing
from worker.settings import Settings

_AREA = Area.EVENTS
_MANY = 0.5
"""A share of refused records from which on it is an error."""
_SECONDS_MAX = 100_000_000_000
"""Epoch milliseconds below this are in the year 1973 or before: the number is one of seconds."""
_LATE_MS = 86_400_000
_NAMES_TOLD_MAX = 3


class _Seen(NamedTuple):
    """A usable record."""

    partition: int
    offset: int
    key: bytes | None
    event_ms: int
    record_ms: int


class _Half(NamedTuple):
    """What the sample says of one topic."""

    records: int
    refused: list[tuple[RawBatch, Reject]]
    seen: dict[tuple[str, str], _Seen]
    """By model and event; of a repeated one the first."""
    repeated: int
    """Records that have an earlier one's model and event."""


def sample_findings(settings: Settings, sample: Mapping[InputTopic, Sequence[RawBatch]] | Missing) -> Iterator[Finding]:
    """Judge the newest records of predictions and labels."""
    if isinstance(sample, Missing):
        yield unknown(_AREA, f"the newest events: {sample.reason}")
        return
    options = settings.engine
    sizes = {"record_bytes_max": options.record_bytes_max, "future_max_ms": options.future_max_ms}
    decoded = [(each, decode_predictions(each, **sizes)) for each in sample.get(InputTopic.PREDICTIONS, ())]
    labelled = [(each, decode_labels(each, **sizes)) for each in sample.get(InputTopic.LABELS, ())]
    predictions, labels = _half(decoded), _half(labelled)
    if InputTopic.PREDICTIONS in sample:
        yield from _records(settings.topics.predictions, predictions)
        yield from _repeated(settings.topics.predictions, predictions)
    if InputTopic.LABELS in sample:
        yield from _records(settings.topics.labels, labels)
    yield from _models([event for _, each in decoded for event in each.events], options)
    yield from _meeting(settings, predictions, labels)


def _half(
    batches: Sequence[tuple[RawBatch, DecodedBatch | DecodedLabels]],
) -> _Half:
    half = _Half(sum(len(batch.offsets) for batch, _ in batches), [], {}, 0)
    repeated = 0
    for batch, decoded in batches:
        half.refused.extend((batch, reject) for reject in decoded.rejects)
        events: Sequence[PredictionEvent | LabelEvent] = decoded.events
        for row, event, event_ms in zip(decoded.rows.tolist(), events, decoded.timestamps_ms.tolist(), strict=True):
            seen = _Seen(batch.partition, batch.offsets[row], batch.keys[row], event_ms, batch.timestamps_ms[row])
            repeated += half.seen.setdefault((event.model_id, event.event_id), seen) is not seen
    return half._replace(repeated=repeated)


def _records(topic: str, half: _Half) -> Iterator[Finding]:
    if not half.records:
        yield unknown(_AREA, f"{topic} holds no records", "publish some, then ask again")
        return
    yield from _refused(topic, half)
    yield from _times(topic, half)
    if not half.refused:
        yield ok(_AREA, f"{topic}: the newest {half.records} records can all be read")


def _repeated(topic: str, half: _Half) -> Iterator[Finding]:
    """Tell predictions that look like others. A label that comes again is a correction."""
    if half.repeated:
        yield warning(
            _AREA,
            f"{topic}: {half.repeated} of {half.records} records repeat the event_id of another one of the same model",
            "give each event an id of its own: of those with the same id only the first one gets the label",
        )


def _refused(topic: str, half: _Half) -> Iterator[Finding]:
    by_code: dict[RejectCode, list[tuple[RawBatch, Reject]]] = defaultdict(list)
    for batch, reject in half.refused:
        by_code[reject.code].append((batch, reject))
    for code, refused in sorted(by_code.items(), key=lambda item: -len(item[1])):
        batch, reject = refused[0]
        share = len(refused) / half.records
        where = f"partition {batch.partition}, offset {batch.offsets[reject.row]}"
        yield Finding(
            _AREA,
            Status.ERROR if share >= _MANY else Status.WARNING,
            f"{topic}: {share:.0%} of the newest {half.records} records would be dead letters: {code} ({where})",
            _hint(code, batch.values[reject.row]) or f"mend the writer: {_one_line(reject.detail)}",
        )


def _hint(code: RejectCode, value: bytes | None) -> str:
    """Say what a wrong timestamp probably is; nothing if that cannot be guessed."""
    if code not in {RejectCode.BAD_TIMESTAMP, RejectCode.TIMESTAMP_IN_FUTURE}:
        return ""
    try:
        stamp = json.loads(value or b"").get("timestamp")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if isinstance(stamp, str):
        return f"write timestamps as RFC 3339 with a time zone (2026-11-24T09:30:00Z), not {stamp[:40]!r}"
    if isinstance(stamp, int | float) and not isinstance(stamp, bool) and stamp > _SECONDS_MAX * 1_000:
        return "timestamps look like micro- or nanoseconds: write milliseconds"
    return ""


def _times(topic: str, half: _Half) -> Iterator[Finding]:
    usable = half.seen.values()
    if not usable:
        return
    seconds = sum(0 <= each.event_ms < _SECONDS_MAX for each in usable)
    late = sum(each.record_ms - each.event_ms > _LATE_MS for each in usable) - seconds
    if seconds / len(usable) >= _MANY:
        yield Finding(
            _AREA,
            Status.ERROR,
            f"{topic}: {seconds} of {len(usable)} timestamps are before 1974",
            "they look like seconds: write milliseconds, or RFC 3339",
        )
    elif late / len(usable) >= _MANY:
        yield warning(
            _AREA,
            f"{topic}: {late} of {len(usable)} events are more than a day older than their records",
            "check the clock of the writer and the time zone, unless old events are being sent again",
        )


def _models(events: Sequence[PredictionEvent], options: EngineOptions) -> Iterator[Finding]:
    models = {event.model_id for event in events}
    if len(models) > options.models_max:
        yield warning(
            _AREA,
            f"the sample alone has {len(models)} models, engine.models_max is {options.models_max}",
            "raise engine.models_max, or send fewer models; what is beyond it becomes dead letters",
        )
    elif len(models) > _MANY * len(events) and len(events) >= options.warmup_events:
        yield warning(
            _AREA,
            f"{len(models)} models in {len(events)} events: is model_id the id of something else?",
            "model_id names what was deployed, event_id the single answer",
        )
    yield from _varying(events)


def _varying(events: Sequence[PredictionEvent]) -> Iterator[Finding]:
    """Tell features that are of several types."""
    kinds: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for event in events:
        for name, value in event.features.items():
            if value is not None:
                kinds[event.model_id, name][_kind(value)] += 1
    varying = [(place, counts) for place, counts in kinds.items() if len(counts) > 1]
    if varying:
        told = [
            f"{name} of {model} ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})"
            for (model, name), counts in varying[:_NAMES_TOLD_MAX]
        ]
        more = f" and {len(varying) - len(told)} more" if len(varying) > len(told) else ""
        yield warning(
            _AREA,
            f"features of several types: {', '.join(told)}{more}",
            "send each feature as one type: values of another than the first are counted as invalid",
        )


def _kind(value: object) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _meeting(settings: Settings, predictions: _Half, labels: _Half) -> Iterator[Finding]:
    """Tell whether a prediction and its label are in partitions of the same number."""
    both = predictions.seen.keys() & labels.seen.keys()
    apart = [each for each in both if predictions.seen[each].partition != labels.seen[each].partition]
    if apart:
        model, event = min(apart)
        here, there = predictions.seen[model, event], labels.seen[model, event]
        same = here.key == there.key
        yield Finding(
            _AREA,
            Status.ERROR if len(apart) > _MANY * len(both) else Status.WARNING,
            f"{len(apart)} of {len(both)} labels in the sample are in another partition than their predictions "
            f"({settings.topics.predictions}[{here.partition}]@{here.offset}, "
            f"{settings.topics.labels}[{there.partition}]@{there.offset}): they never meet",
            "use the same partitioner for both topics (librdkafka: partitioner = murmur2_random, as in Java)"
            if same
            else "key each label as its prediction is keyed",
        )
    elif both:
        yield ok(_AREA, f"{len(both)} labels in the sample are in the partitions of their predictions")
    elif labels.seen and predictions.seen:
        yield unknown(_AREA, "no label in the sample belongs to a prediction in it", "look at more: --sample 10000")


def _one_line(text: str) -> str:
    return " ".join(text.split())
