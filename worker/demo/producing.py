"""Only the models at work: predictions and labels for workers that run already, with a fault that comes back.

What cannot be delivered ends it: whoever supervises it starts it again.
"""

import time
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from worker.cluster import refuse_missing_topics
from worker.demo import fault as injected
from worker.demo.model import deploy
from worker.demo.processes import noted_signals
from worker.demo.stream import Stream
from worker.settings import Settings

_TURN_S = 0.05
_SAY_EVERY_S = 30.0


class NotDeliveredError(Exception):
    """Kafka has not taken all events; the message says how many are missing and why."""


class Produced(NamedTuple):
    """How long it went on, and how many predictions Kafka has taken."""

    seconds: float
    predictions: int


def produce(settings: Settings, seconds: float | None, rate: int, console: Console) -> Produced:
    """Write events of the demo's models into the topics of the settings until a signal comes, or for so many seconds.

    Raises TopicsError if there are no such topics, and NotDeliveredError.
    """
    refuse_missing_topics(settings)
    models = deploy()
    client = {**settings.kafka.properties, "bootstrap.servers": settings.kafka.bootstrap_servers}
    fault = injected.RECURRING
    stream = Stream(models, rate, fault, settings.topics, client, int(time.time() * 1000))
    _say(console, f"Producing {rate} events/s of {len(models)} models to {settings.topics.predictions}.")
    _say(
        console,
        f"Every {fault.every_s:.0f} s, from {fault.begin_s:.0f} s to {fault.end_s:.0f} s: {injected.DESCRIPTION}.",
    )
    with noted_signals() as received:
        second = _flow(stream, seconds, received, console)
        stream.close()
    if stream.lost or stream.written < stream.sent:
        reason = stream.lost or "it does not answer"
        raise NotDeliveredError(f"Kafka did not take {stream.sent - stream.written} of the events: {reason}")
    return Produced(second, stream.written)


def _flow(stream: Stream, length_s: float | None, received: list[int], console: Console) -> float:
    """Send what is due until the time is over, a signal was received, or something was lost; return the second."""
    begin_s, second, said_s = time.monotonic(), 0.0, 0.0
    while not received and not stream.lost and (length_s is None or second < length_s):
        second = time.monotonic() - begin_s
        if length_s is not None:
            second = min(second, length_s)
        stream.advance(second)
        if second - said_s >= _SAY_EVERY_S:
            said_s = second
            _say(console, f"{second:7.0f} s  {stream.sent:,} events sent")
        time.sleep(_TURN_S)
    return second


def _say(console: Console, line: str) -> None:
    console.print(escape(line), highlight=False, soft_wrap=True)
