"""The life of an incident: it opens once, speaks seldom, rises with a burst, and ends when it has been quiet."""

import random

from worker.core.alerts.incident import Flagged, IncidentLife
from worker.core.options import IncidentOptions

UPDATE_MS = 500
OPTIONS = IncidentOptions(quiet_ms=1000, quiet_events=50, evidence_max=3)
RATE = 0.001


def flagged(sequence: int, p_value: float = 0.0005, spacing_ms: int = 10) -> Flagged:
    """Return a flagged event at a place in a steady stream."""
    now = sequence * spacing_ms
    return Flagged(sequence, sequence, f"e{sequence}", now, now, p_value, None)


def told(sequences: list[int], options: IncidentOptions = OPTIONS) -> list[tuple[int, str, str]]:
    """Flag events at these places; return what was told, with the severity then."""
    life = IncidentLife(options, UPDATE_MS)
    out: list[tuple[int, str, str]] = []
    for sequence in sequences:
        step, _ = life.flag(flagged(sequence), RATE)
        if step is not None:
            assert life.open is not None
            out.append((sequence, step.status, life.open.severity))
    return out


def test_one_flagged_event_opens_an_incident_for_information() -> None:
    """At the expected rate single flagged events are no emergency."""
    assert told([100]) == [(100, "opened", "info")]


def test_a_burst_is_critical_and_told_at_once() -> None:
    """The sixth flagged event in a row raises the severity, without waiting for the next update."""
    assert told([100, 101, 102, 103, 104, 105, 106]) == [(100, "opened", "info"), (105, "updated", "critical")]


def test_growth_is_told_when_it_has_doubled_and_the_pause_is_over() -> None:
    """A long incident speaks ever more seldom."""
    steps = told([100 + 60 * place for place in range(64)])
    assert [status for _, status, _ in steps] == ["opened"] + ["updated"] * (len(steps) - 1)
    assert len(steps) == 7  # at 1, 2, 4, 8, 16, 32, 64 flagged events


def test_a_subscriber_does_not_drown() -> None:
    """Ten thousand flagged events in a hundred seconds give at most one record for each `update_ms`, and few more."""
    rng = random.Random(3)
    steps = told(sorted(rng.sample(range(10_000), 9000)))
    assert len(steps) <= 20


def test_a_second_burst_is_told_after_a_pause() -> None:
    """When the first burst is over, the next one rises again."""
    burst = list(range(100, 110))
    later = [sequence + 600 for sequence in burst]
    critical = [sequence for sequence, _, severity in told([*burst, 400, 550, *later]) if severity == "critical"]
    assert any(sequence < 200 for sequence in critical)
    assert any(sequence >= 700 for sequence in critical)


def test_a_very_rare_event_is_a_warning() -> None:
    """One event that is a hundred times rarer than the alert rate stands out by itself."""
    life = IncidentLife(OPTIONS, UPDATE_MS)
    life.flag(flagged(1, p_value=RATE / 1000), RATE)
    assert life.open is not None
    assert life.open.severity == "warning"


def test_evidence_holds_the_rarest_events_in_stream_order() -> None:
    """At most `evidence_max` rows, the rarest ones, oldest first."""
    life = IncidentLife(OPTIONS, UPDATE_MS)
    for sequence, p_value in enumerate([5e-4, 1e-9, 4e-4, 1e-7, 3e-4, 1e-8]):
        life.flag(flagged(sequence, p_value), RATE)
    assert life.open is not None
    assert [row.sequence for row in life.open.evidence] == [1, 3, 5]
    assert life.open.rarest.sequence == 1


def test_it_is_over_when_it_was_quiet_long_enough_in_time_and_events() -> None:
    """Both bounds are counted from the last flagged event."""
    life = IncidentLife(OPTIONS, UPDATE_MS)
    life.flag(flagged(100), RATE)
    life.flag(flagged(120), RATE)
    assert life.open is not None
    assert life.open.quiet_from(OPTIONS) == (170, 2200)
    assert life.resolve().flagged == 2
    assert life.open is None
