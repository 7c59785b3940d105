"""What `modelvigil replay` reads of the published alerts and of feedback, and how it says what came of it."""

import msgspec
import pytest

from tests.streams import batch
from worker import cli
from worker.cli_options import ExitCode
from worker.core.events import AlertEvent
from worker.lagging import LAG_HEADER
from worker.replay import screen
from worker.replay.difference import Caught, Difference, Pair
from worker.replay.incidents import Incident
from worker.replay.published import read_marks, read_published
from worker.replay.run import Report
from worker.replay.shard_replay import Counted

LATE = [(LAG_HEADER, b"61000")]


def alert(name: str, shard: int, status: str = "opened") -> bytes:
    """Return a step as it is published."""
    resolved = 2 if status == "resolved" else None
    step = {
        "alert_id": f"{name}-{status}",
        "incident_id": name,
        "fingerprint": name,
        "kind": "anomaly.input",
        "status": status,
        "severity": "warning",
        "summary": name,
        "runbook": "anomaly.input",
        "model_id": "m",
        "model_version": None,
        "shard": shard,
        "timestamp_ms": 1,
        "opened_at_ms": 1,
        "last_flagged_ms": 1,
        "resolved_at_ms": resolved,
    }
    return msgspec.json.encode(msgspec.convert(step, AlertEvent))


def test_published_incidents_are_read() -> None:
    """Of the shards asked for; others are counted; the last timely opening says how long a worker was there."""
    records = batch(
        0,
        0,
        [
            (alert("a", 0), 100),
            (b"no alert", 150),
            (alert("b", 1), 200),
            (alert("c", 0), 300),
            (alert("a", 0, "resolved"), 400),
        ],
    )
    found = read_published([records._replace(headers=[None, None, None, LATE, None])], {0})
    assert [(each.incident_id, each.resolved_ms) for each in found.incidents] == [("a", 2), ("c", None)]
    assert found.opened_at_ms == {0: 100}
    assert found.unreadable == 1


def mark(name: str, incident: str) -> bytes:
    """Return feedback that marks an incident as a true positive."""
    said = {"kind": "true_positive", "feedback_id": name, "author": "a", "model_id": "m", "shard": 0}
    return msgspec.json.encode(said | {"incident_id": incident})


def test_marks_can_be_undone() -> None:
    """Incidents that people have marked are known, but for marks that were taken back; other records do not matter."""
    undo = msgspec.json.encode({"kind": "undo", "feedback_id": "u", "author": "a", "undoes": "2"})
    said = [(mark("1", "a"), 1), (mark("2", "b"), 2), (b"{", 3), (undo, 4)]
    assert read_marks([batch(0, 0, said)]) == {"a"}


def incident(name: str, opened: int = 5, resolved: int | None = None, severity: str = "warning") -> Incident:
    """Return an incident whose summary would be markup."""
    return Incident(
        incident_id=name,
        fingerprint="f",
        kind="anomaly.input",
        model_id="[bold]m",
        shard=0,
        severity=severity,
        opened_ms=opened,
        resolved_ms=resolved,
        summary=f"[red]{name}",
    )


def report(difference: Difference, caught: Caught) -> Report:
    """Return a report of a difference."""
    both = difference.both
    return Report(
        topic="predictions",
        partitions=[0],
        from_ms=None,
        to_ms=0,
        against="published",
        played=Counted(predictions=1_000),
        seconds=1.0,
        published=len(difference.only_published) + len(both),
        replayed=len(difference.only_replayed) + len(both),
        differences=difference.differences,
        shifted=sum(pair.shifted for pair in both),
        other_severity=sum(pair.published.severity != pair.replayed.severity for pair in both),
        caught=caught,
        kinds=[],
        difference=difference,
        notes=[],
    )


def test_the_verdict_in_words() -> None:
    """How many became how many, what is still caught, and how those in both differ."""
    pair = Pair(incident("a", 5, 9), incident("b", 330, None, "critical"))
    found = report(Difference([incident("c"), incident("d")], [], [pair]), Caught("true_positive", 2, 1))
    first, second = screen.verdict(found)
    assert first == "3 → 1 incidents, still catches 1 of 2 marked as true positives"
    assert second.startswith("2 differences: 2 only published, 0 only replayed; 1 in both")
    assert second.endswith("(1 shifted by up to 325 ms, 1 with another severity)")
    nothing = report(Difference([], [], []), Caught("critical", 0, 0))
    assert next(screen.verdict(nothing)) == "0 → 0 incidents, none of them critical or marked as a true positive"


def test_the_table_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """What models and alerts say is no markup; severities that differ and shifts are shown."""
    from rich.console import Console  # noqa: PLC0415 - only here: it looks at the captured terminal

    pair = Pair(incident("a", 5, 9_005), incident("b", 330, None, "critical"))
    Console(width=200).print(
        screen.incidents(report(Difference([incident("c")], [], [pair]), Caught("critical", 0, 0)))
    )
    shown = capsys.readouterr().out
    assert "[red]c" in shown
    assert "[bold]m" in shown
    assert "warning → critical" in shown
    assert "both, +325 ms" in shown
    assert "9 s" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "yesterday"), "is no time"),
        (("--from", "-1h", "--to", "-2h"), "--from must be before --to"),
        (("--warm-up", "a lot"), "number of events"),
    ],
)
def test_a_wrong_range_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with it is told before anything is asked of Kafka."""
    assert cli.main(["replay", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
