"""Named steps of a worker at which it can be killed or paused, from inside and to the call.

The worker's clients are built by its `KafkaConnection`. A `FaultyConnection` gives it thin proxies in their place. They
count the steps and end the process at the one that a `Cue` names; all else goes to the real clients untouched.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from worker.edges.kafka import KafkaConnection

STEPS: Final = {
    "init": "after init_transactions",
    "begin": "after begin_transaction",
    "produce": "after a produce, of whatever record",
    "state_produce": "after a produce to the state topic",
    "flush": "after flush",
    "send_offsets": "after send_offsets_to_transaction",
    "commit": "so many ms after commit_transaction was entered, as in commit:1.5",
    "committed": "after commit_transaction",
    "aborted": "after abort_transaction",
    "poll": "after the live source got records",
    "state_read": "after a restore got records of the state topic",
    "replay_read": "after a restore got records of an input topic",
    "committed_lookup": "after committed()",
    "assign_begin": "on entry of on_assign",
    "assign": "inside on_assign, when all its work is done",
    "revoke_begin": "on entry of on_revoke",
    "revoke": "inside on_revoke, when all its work is done",
    "lost": "inside on_lost, when all its work is done",
}
"""Each is counted from 1. A call counts when it has returned without an error; `commit` when it is entered."""

_PRODUCER_STEPS: Final = {
    "init_transactions": "init",
    "begin_transaction": "begin",
    "flush": "flush",
    "send_offsets_to_transaction": "send_offsets",
    "abort_transaction": "aborted",
}
_CALLBACK_STEPS: Final = {"on_assign": "assign", "on_revoke": "revoke", "on_lost": "lost"}


class Cue:
    """When the process ends, and how.

    Args:
        step: a name of `STEPS`; "commit:2" is 2 ms after commit_transaction was entered.
        count: at which occurrence.
        how: SIGKILL, or SIGSTOP for a pause that somebody else ends with SIGCONT.
    """

    def __init__(self, step: str, count: int, how: signal.Signals = signal.SIGKILL) -> None:
        name, _, delay_ms = step.partition(":")
        assert name in STEPS, f"{step} is none of {', '.join(STEPS)}"
        self._step = name
        self._delay_s = float(delay_ms or 0) / 1000
        self._count = count
        self._how = how
        self._seen = 0

    def reached(self, step: str) -> None:
        """Count a step, and act if it is the one."""
        if self._is_on(step):
            os.kill(os.getpid(), self._how)

    def entered(self, step: str) -> None:
        """Count a step that is about to begin; if it is the one, act in the midst of it."""
        if self._is_on(step):
            threading.Thread(target=self._act_later, daemon=True).start()

    def _is_on(self, step: str) -> bool:
        if step != self._step:
            return False
        self._seen += 1
        return self._seen == self._count

    def _act_later(self) -> None:
        time.sleep(self._delay_s)
        os.kill(os.getpid(), self._how)


@dataclass(frozen=True)
class FaultyConnection(KafkaConnection):
    """A connection whose clients take the process down on a cue."""

    cue: Cue = field(kw_only=True)
    state_topic: str = field(kw_only=True)

    def producer(self, *args: Any, **kwargs: Any) -> Producer:  # noqa: ANN401 - passed on as they are
        """Build a producer that counts steps."""
        return cast("Producer", _FaultyProducer(super().producer(*args, **kwargs), self.cue, self.state_topic))

    def consumer(self, *args: Any, **kwargs: Any) -> Consumer:  # noqa: ANN401 - passed on as they are
        """Build a consumer that counts steps."""
        faulty = _FaultyConsumer(super().consumer(*args, **kwargs), self.cue, self.state_topic)
        # Who closes a consumer gives back a reference that the connection took for it, and takes ours for the real one.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(faulty))
        return cast("Consumer", faulty)


class _FaultyProducer:
    """Stands before a producer."""

    def __init__(self, producer: Producer, cue: Cue, state_topic: str) -> None:
        self._producer = producer
        self._cue = cue
        self._state_topic = state_topic

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        method = getattr(self._producer, name)
        return partial(self._call, method, _PRODUCER_STEPS[name]) if name in _PRODUCER_STEPS else method

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - passed on as they are
        self._producer.produce(topic, *args, **kwargs)
        self._cue.reached("produce")
        if topic == self._state_topic:
            self._cue.reached("state_produce")

    def commit_transaction(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - passed on as they are
        self._cue.entered("commit")
        self._producer.commit_transaction(*args, **kwargs)
        self._cue.reached("committed")

    def _call(self, method: Callable[..., Any], step: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        result = method(*args, **kwargs)
        self._cue.reached(step)
        return result


class _FaultyConsumer:
    """Stands before a consumer. One that was given its partitions by `assign` reads for a restore."""

    def __init__(self, consumer: Consumer, cue: Cue, state_topic: str) -> None:
        self._consumer = consumer
        self._cue = cue
        self._state_topic = state_topic
        self._is_member = False
        self._restores = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._consumer, name)

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self._is_member = True
        heard = {name: partial(self._hear, _CALLBACK_STEPS[name], callback) for name, callback in callbacks.items()}
        self._consumer.subscribe(topics, **heard)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._restores = True
        self._consumer.assign(partitions)

    def consume(self, *args: Any, **kwargs: Any) -> list[Message]:  # noqa: ANN401 - passed on as they are
        messages = self._consumer.consume(*args, **kwargs)
        self._got(messages)
        return messages

    def poll(self, *args: Any, **kwargs: Any) -> Message | None:  # noqa: ANN401 - passed on as they are
        message = self._consumer.poll(*args, **kwargs)
        self._got([message] if message is not None else [])
        return message

    def committed(self, *args: Any, **kwargs: Any) -> list[TopicPartition]:  # noqa: ANN401 - passed on as they are
        positions = self._consumer.committed(*args, **kwargs)
        self._cue.reached("committed_lookup")
        return positions

    def _got(self, messages: Sequence[Message]) -> None:
        topics = {message.topic() for message in messages if message.error() is None}
        # What comes to the member before it has paused is read by nobody.
        if not topics or self._is_member:
            return
        if not self._restores:
            self._cue.reached("poll")
        else:
            self._cue.reached("state_read" if topics == {self._state_topic} else "replay_read")

    def _hear(
        self, step: str, callback: Callable[..., None], _consumer: Consumer, partitions: list[TopicPartition]
    ) -> None:
        if partitions:
            self._cue.reached(f"{step}_begin")
        # Not the real one: whoever compares the consumer with its own knows only this one.
        callback(self, partitions)
        if partitions:
            self._cue.reached(step)
