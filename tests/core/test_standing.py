"""Alerts that stand for a state of affairs."""

from dataclasses import dataclass, field

import msgspec
import pytest

from worker.core.events import AlertEvent, Changed
from worker.core.standing import SUBJECTS_TOLD_MAX, Finding, Moment, Severity, Standing, StandingOptions
from worker.core.telling import Owner, Told

OPTIONS = StandingOptions(update_ms=1_000, quiet_looks=2, features_max=3)


def finding(name: str, effect: float = 1.0, severity: Severity = "warning") -> Finding:
    """Return an affected feature."""
    changed = Changed(
        name=name, measure="missing_rate", observed=0.5, expected=0.0, effect=effect, since_offset=1, since_ms=1
    )
    return Finding(changed, severity)


@dataclass
class Desk:
    """A standing alert, and the moments at which it is looked at."""

    standing: Standing = field(
        default_factory=lambda: Standing(
            "quality.missing", Owner("m", 0, "predictions"), OPTIONS, lambda changed: f"{changed.name} is missing"
        )
    )
    looks: int = 0

    def look(self, *findings: Finding, ms: int = 500) -> list[AlertEvent]:
        """Look once more, `ms` later."""
        self.looks += 1
        return records(self.standing.look(findings, Moment(self.looks * ms, self.looks, 100, 7)))


def records(told: list[Told]) -> list[AlertEvent]:
    """Return the alerts among what is told."""
    return [each.record for each in told if isinstance(each.record, AlertEvent)]


def test_many_features_at_once_are_one_alert() -> None:
    """It names those with the largest effect, largest first, and counts all."""
    [alert] = Desk().look(*(finding(f"f{place}", effect=place) for place in range(40)))
    assert alert.status == "opened"
    assert alert.summary == "m: f39 is missing, and 39 more"
    assert alert.change is not None
    assert [each.name for each in alert.change.changed] == ["f39", "f38", "f37"]
    assert (alert.change.changed_count, alert.change.looked_at) == (40, 7)


def test_what_stays_as_it_is_is_told_once() -> None:
    """A standing fault does not repeat itself."""
    desk = Desk()
    assert len(desk.look(finding("a"))) == 1
    assert [desk.look(finding("a")) for _ in range(50)] == [[]] * 50


def test_another_feature_and_a_rise_are_told_but_not_too_often() -> None:
    """An update comes after `update_ms` at the earliest, and is not lost before that."""
    desk = Desk()
    [opened] = desk.look(finding("a"))
    assert desk.look(finding("a"), finding("b")) == []
    [updated] = desk.look(finding("a"), finding("b"))
    assert (updated.status, updated.incident_id) == ("updated", opened.incident_id)
    desk.look(finding("a"), finding("b"))
    [worse] = desk.look(finding("a"), finding("b", severity="critical"))
    assert worse.severity == "critical"


def test_it_is_over_after_two_quiet_looks() -> None:
    """One look without a finding is not enough; afterwards a new incident can open."""
    desk = Desk()
    [opened] = desk.look(finding("a"))
    assert desk.look() == []
    assert desk.look(finding("a")) == []
    assert desk.look() == []
    [resolved] = desk.look()
    assert (resolved.status, resolved.incident_id) == ("resolved", opened.incident_id)
    assert resolved.resolved_at_ms == resolved.timestamp_ms
    [again] = desk.look(finding("a"))
    assert again.fingerprint == opened.fingerprint
    assert again.incident_id != opened.incident_id


def test_closing_tells_only_of_what_is_open() -> None:
    """What has become normal resolves the alert, if there is one."""
    desk = Desk()
    assert desk.standing.close(Moment(1, 1, 1, 1)) == []
    desk.look(finding("a"))
    assert [each.status for each in records(desk.standing.close(Moment(9, 9, 1, 1)))] == ["resolved"]


def test_a_restored_alert_goes_on() -> None:
    """The incident is the same one, with the same things told."""
    first, second = Desk(), Desk()
    first.look(finding("a"))
    stored = msgspec.msgpack.encode(first.standing.state())
    second.standing.restore(msgspec.msgpack.decode(stored, type=type(first.standing.state())))
    second.looks = first.looks
    for _ in range(3):
        assert first.look(finding("a"), finding("b")) == second.look(finding("a"), finding("b"))


def test_too_many_stored_subjects_are_refused() -> None:
    """State is bounded on its way back, too."""
    desk = Desk()
    desk.look(*(finding(f"f{place}") for place in range(SUBJECTS_TOLD_MAX)))
    stored = desk.standing.state()
    assert stored.open is not None
    stored.open.subjects.append("one more")
    with pytest.raises(ValueError, match="too many subjects"):
        Desk().standing.restore(stored)
