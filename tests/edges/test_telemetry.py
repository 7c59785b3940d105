"""Logs and counters: what a log shipper gets, what a person gets, and how often."""

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from worker import __version__
from worker.edges.kafka.client import LibraryLog
from worker.edges.telemetry import REPORT_SECONDS, Count, Gauge, Stage, Telemetry, configure_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Put the logging of the test session back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class _Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, message: str, **fields: Any) -> None:  # noqa: ANN401 - whatever is reported
        self.lines.append((message, fields))


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_for_machines_has_ecs_fields() -> None:
    """One JSON object a line; what is ours is below `modelvigil`; a stack trace is a field, not more lines."""
    stream = io.StringIO()
    configure_logging("auto", "info", stream)
    log = structlog.get_logger("tests.machines")
    log.debug("not wanted")
    log.info("partitions attached", partitions=[0, 1])
    try:
        int("two\nlines")
    except ValueError:
        log.exception("broken")
    plain, broken = _lines(stream)
    assert plain["message"] == "partitions attached"
    assert (plain["log.level"], plain["service.name"]) == ("info", "modelvigil")
    assert plain["event.dataset"] == "modelvigil.worker"
    assert plain["@timestamp"].endswith("Z")
    assert plain["modelvigil.partitions"] == [0, 1]
    assert broken["log.level"] == "error"
    assert "ValueError: invalid literal" in broken["error.stack_trace"]
    assert broken["error.stack_trace"].startswith("Traceback")
    assert broken["error.type"] == "ValueError"
    assert broken["error.message"].startswith("invalid literal")
    assert not any(name.startswith(("error.", "modelvigil.exc")) for name in plain)


def test_every_line_for_machines_tells_who_wrote_it() -> None:
    """Process, service, program and logger, in ECS' names; of an error that was passed on its type and its message."""
    stream = io.StringIO()
    configure_logging("json", "info", stream, program="ship")
    structlog.get_logger("modelvigil.ship").warning("away", error=OSError(5, "no answer"))
    structlog.get_logger("modelvigil.ship").warning("away", error="timed out")
    logging.getLogger("library").error("%d of %d", 1, 2, exc_info=KeyError("k"))
    own, told, foreign = _lines(stream)
    assert {name: own[name] for name in ("ecs.version", "event.dataset", "log.logger", "service.name")} == {
        "ecs.version": "8.11.0",
        "event.dataset": "modelvigil.ship",
        "log.logger": "modelvigil.ship",
        "service.name": "modelvigil",
    }
    assert (own["process.pid"], own["service.version"]) == (os.getpid(), __version__)
    assert (own["error.type"], own["error.message"]) == ("OSError", "[Errno 5] no answer")
    assert "error.type" not in told
    assert told["error.message"] == "timed out"
    assert (foreign["message"], foreign["log.logger"], foreign["error.type"]) == ("1 of 2", "library", "KeyError")


def test_on_a_terminal_a_line_is_for_a_person() -> None:
    """No JSON on a terminal, unless asked for."""
    stream = _Terminal()
    configure_logging("auto", "warning", stream)
    log = structlog.get_logger("tests.person")
    log.info("too quiet")
    log.warning("look here", partition=3)
    assert "look here" in stream.getvalue()
    assert "too quiet" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    configure_logging("json", "info", stream := _Terminal())
    structlog.get_logger("tests.person2").info("json")
    assert _lines(stream)[0]["message"] == "json"


def test_librdkafkas_lines_are_warnings_and_do_not_flood() -> None:
    """A refused connection is logged once in a while, whatever numbers are in it; a percent sign stays what it is."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    library = LibraryLog(structlog.get_logger("tests.librdkafka"))
    for milliseconds in range(50):
        library.log(logging.ERROR, "%s [%s] %s", "FAIL", "modelvigil#consumer-1", f"refused after {milliseconds} ms")
    library.log(logging.INFO, "%s [%s] %s", "OK", "modelvigil#consumer-1", "100 % done")
    library.log(logging.CRITICAL, "%s [%s] %s", "FATAL", "modelvigil#producer-2", "fenced")
    assert [(line["log.level"], line["message"]) for line in _lines(stream)] == [
        ("warning", "FAIL [modelvigil#consumer-1] refused after 0 ms"),
        ("info", "OK [modelvigil#consumer-1] 100 % done"),
        ("error", "FATAL [modelvigil#producer-2] fenced"),
    ]


def test_progress_is_told_at_a_bounded_rate_and_only_when_there_is_some() -> None:
    """Thousands of events, one line; an idle worker is silent."""
    clock, log = _Clock(), _Lines()
    telemetry = Telemetry(log, clock)
    for _ in range(1000):
        telemetry.add(Count.EVENTS_PROCESSED, 5)
        telemetry.spend(Stage.HANDLE, 0.001)
        clock.seconds += REPORT_SECONDS / 1000
        telemetry.report_if_due()
    clock.seconds += REPORT_SECONDS
    telemetry.report_if_due()
    clock.seconds += 10 * REPORT_SECONDS
    telemetry.report_if_due()
    messages = [message for message, _ in log.lines]
    assert messages == ["progress"] * len(messages)
    assert 1 <= len(messages) <= 2
    assert log.lines[-1][1]["events_processed"] == 5000
    assert log.lines[-1][1]["handle_seconds"] == pytest.approx(1.0)
    telemetry.report_at_end()
    assert log.lines[-1][0] == "totals"


def test_progress_has_the_gauges_as_they_are_now() -> None:
    """A gauge that changes is news, except an age, which changes by itself: an idle worker stays silent."""
    clock, log = _Clock(), _Lines()
    telemetry = Telemetry(log, clock)
    for left in (200, 100, 0, 0, 0):
        telemetry.set_gauge(Gauge.RESTORE_RECORDS_LEFT, left)
        telemetry.set_gauge(Gauge.STATE_AGE_SECONDS, clock.seconds + 0.12345)
        clock.seconds += REPORT_SECONDS
        telemetry.report_if_due()
    assert [fields["restore_records_left"] for _, fields in log.lines] == [200, 100, 0]
    assert log.lines[0][1]["state_age_seconds"] == 0.123
    assert log.lines[0][1]["restore_seconds_left"] is None
    telemetry.set_gauge(Gauge.STATE_AGE_SECONDS, None)
    telemetry.report_at_end()
    assert log.lines[-1][1]["state_age_seconds"] is None


@pytest.mark.parametrize(
    ("live", "restoring", "refused", "ready"),
    [(0, 0, 0, False), (1, 0, 0, True), (4, 0, 0, True), (3, 1, 0, False), (3, 0, 1, False), (0, 2, 0, False)],
)
def test_ready_is_a_worker_whose_shards_are_all_live(*, live: int, restoring: int, refused: int, ready: bool) -> None:
    """One that restores, or waits for a human, is not ready; nor is one that has nothing to do."""
    log = _Lines()
    telemetry = Telemetry(log)
    assert not telemetry.ready
    telemetry.set_gauge(Gauge.SHARDS_LIVE, live)
    telemetry.set_gauge(Gauge.SHARDS_RESTORING, restoring)
    telemetry.set_gauge(Gauge.SHARDS_REFUSED, refused)
    telemetry.report_at_end()
    assert telemetry.ready is ready
    assert log.lines[-1][1]["ready"] is ready


def test_every_counter_stage_and_gauge_is_reported() -> None:
    """Names are what dashboards are built on: all are reported, and none twice."""
    log = _Lines()
    Telemetry(log).report_at_end()
    names = [*Count, *(f"{stage}_seconds" for stage in Stage), *Gauge, "ready"]
    assert set(log.lines[0][1]) == set(names)
    assert len(set(names)) == len(names)
