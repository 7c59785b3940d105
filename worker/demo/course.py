"""The course of events: they flow, the worker catches up, it is stopped, and what it has published is read to the end.

Rule 1: the worker is stopped when its last panes have closed, which takes it a few silent seconds: a worker that is
        stopped keeps its open panes as state and publishes nothing of them.
"""

import time
from collections.abc import Sized
from typing import NamedTuple

from worker.demo import fault as injected
from worker.demo.processes import WorkerProcess, noted_signals
from worker.demo.report import Result
from worker.demo.screen import Now, Plan, Screen
from worker.demo.stream import Stream
from worker.demo.watch import Watch

_TURN_S = 0.05
_SHOW_S = 0.25
_LAG_S = 1.0
_CATCH_UP_S = 90.0
_CATCH_UP_AFTER_CTRL_C_S = 10.0
_PANES_CLOSE_S = 20.0


class Parts(NamedTuple):
    """What has been set up."""

    plan: Plan
    worker: WorkerProcess
    stream: Stream
    watch: Watch


class Course:
    """Runs the parts in turn, in one thread, and shows each moment."""

    def __init__(self, parts: Parts, screen: Screen) -> None:
        self._plan, self._worker, self._stream, self._watch = parts
        self._screen = screen
        self._second = 0.0
        self._behind = 0
        self._rate = 0.0
        self._measured = (time.monotonic(), 0)
        self._shown_s = 0.0

    def run(self) -> Result:
        """Run to the end. A Ctrl-C while events flow ends them; what follows is the same."""
        with noted_signals() as received:
            self._flow(received)
        patience_s = _CATCH_UP_AFTER_CTRL_C_S if received else _CATCH_UP_S
        self._stream.close()
        self._catch_up(patience_s)
        exit_code = self._worker.stop()
        self._watch.read_to_end()
        self._rate = self._stream.sent / max(self._second, _TURN_S)
        self._show("the worker has left")
        return self._result(exit_code)

    def _flow(self, received: Sized) -> None:
        """Send what is due and show what comes out, until the time is over or a signal was received."""
        begin_s, length_s = time.monotonic(), self._plan.seconds
        while not received and (length_s is None or self._second < length_s):
            passed_s = time.monotonic() - begin_s
            self._second = passed_s if length_s is None else min(passed_s, length_s)
            self._stream.advance(self._second)
            self._turn("events flow")

    def _catch_up(self, patience_s: float) -> None:
        """Wait until the worker has committed everything that was written."""
        deadline_s = time.monotonic() + patience_s
        self._measure()
        while self._behind and time.monotonic() < deadline_s:
            self._turn("no more events; the worker catches up")
        deadline_s = min(deadline_s, time.monotonic() + _PANES_CLOSE_S)
        while self._watch.counted + self._watch.dead_letters < self._stream.written and time.monotonic() < deadline_s:
            self._turn("the last panes close")

    def _turn(self, doing: str) -> None:
        self._watch.poll()
        self._worker.check()
        if time.monotonic() - self._measured[0] >= _LAG_S:
            self._measure()
        if time.monotonic() - self._shown_s >= _SHOW_S:
            self._show(doing)
        time.sleep(_TURN_S)

    def _measure(self) -> None:
        self._behind = self._watch.behind(self._stream.written)
        then_s, then_sent = self._measured
        self._measured = (time.monotonic(), self._stream.sent)
        self._rate = (self._stream.sent - then_sent) / max(self._measured[0] - then_s, _TURN_S)

    def _show(self, doing: str) -> None:
        self._shown_s = time.monotonic()
        watch = self._watch
        self._screen.show(
            Now(
                second=self._second,
                doing=doing,
                sent=self._stream.sent,
                rate=self._rate,
                behind=self._behind,
                dead_letters=watch.dead_letters,
                opened=watch.opened,
                models=watch.models,
                new_alerts=watch.new_alerts(),
            )
        )

    def _result(self, exit_code: int) -> Result:
        stream, watch = self._stream, self._watch
        return Result(
            seconds=self._second,
            sent=stream.sent,
            written=stream.written,
            delivery_error=stream.lost,
            counted=watch.counted,
            dead_letters=watch.dead_letters,
            behind=self._behind,
            opened=watch.opened,
            worker_exit_code=exit_code,
            fault=self._plan.fault,
            started_ms=self._plan.started_ms,
            criticals=watch.criticals,
            label_alerts=watch.label_alerts,
            asked_in_fault=stream.asked_in_fault,
            right_in_fault=stream.right_in_fault,
            accuracy=next(model.accuracy for model in self._plan.models if model.model_id == injected.MODEL_ID),
        )
