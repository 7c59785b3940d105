"""Alerts that stand for a state of affairs."""

from dataclasses import dataclass, field

import msgspec
import pytest

from worker.core.events import AlertEvent, Changed
from worker.core.standing import Finding, Moment, Severity, Standing, StandingOptions
from worker.core.telling import Owner, Place, Told

OPTIONS = StandingOptions(quiet_looks=2, features_max=3, evidence_max=2)
MS = 500
"""Milliseconds between looks."""


def finding(name: str, effect: float = 1.0, severity: Severity = "warning") -> Finding:
    """Return an affected feature."""
    changed = Changed(
        name=name, measure="missing_rate", observed=0.5, expected=0.0, effect=effect, since_offset=0, since_ms=7
    )
    return Finding(changed, severity)


@dataclass
class Desk:
    """A standing alert, and the moments at which it is looked at."""

    options: StandingOptions = OPTIONS
    standing: Standing = field(init=False)
    looks: int = 0

    def __post_init__(self) -> None:
        """Make the alert."""
        self.standing = Standing(
            "quality.missing", Owner("m", 0, "predictions"), self.options, lambda changed: f"{changed.name} is missing"
        )

    def look(self, *findings: Finding, place: Place | None = None) -> list[AlertEvent]:
        """Look once more, half a second later."""
        self.looks += 1
        return records(self.standing.look(findings, Moment(self.looks * MS, self.looks, 100, 7, place)))


def records(told: list[Told]) -> list[AlertEvent]:
    """Return the alerts among what is told."""
    return [each.record for each in told if isinstance(each.record, AlertEvent)]


def names(alert: AlertEvent) -> list[str]:
    """Return what it lists, in order."""
    assert alert.change is not None
    return [each.name for each in alert.change.changed]


def test_many_features_at_once_are_one_alert() -> None:
    """It names those with the largest effect, largest first, and counts all."""
    [alert] = Desk().look(*(finding(f"f{place}", effect=place) for place in range(40)))
    assert alert.status == "opened"
    assert alert.summary == "m: f39 is missing, and 39 more"
    assert alert.change is not None
    assert names(alert) == ["f39", "f38", "f37"]
    assert (alert.change.changed_count, alert.change.looked_at) == (40, 7)


def test_an_open_alert_is_told_of_at_every_look_as_it_is_then() -> None:
    """What is affected, the worst of it and the severity are those of the look; they may become less."""
    desk = Desk()
    [opened] = desk.look(finding("a"))
    [worse] = desk.look(finding("a"), finding("b", effect=2.0, severity="critical"))
    [better] = desk.look(finding("a", effect=0.5))
    assert [each.status for each in (opened, worse, better)] == ["opened", "updated", "updated"]
    assert [each.severity for each in (opened, worse, better)] == ["warning", "critical", "warning"]
    assert [names(each) for each in (opened, worse, better)] == [["a"], ["b", "a"], ["a"]]
    assert worse.summary == "m: b is missing, and 1 more"
    assert better.last_flagged_ms == better.timestamp_ms == 3 * MS
    assert {each.incident_id for each in (worse, better)} == {opened.incident_id}
    assert len({each.alert_id for each in (opened, worse, better)}) == 3


def test_it_is_over_after_two_quiet_looks() -> None:
    """One look without a finding is not enough; afterwards a new incident can open."""
    desk = Desk()
    [opened] = desk.look(finding("a"))
    assert desk.look() == []
    assert [each.status for each in desk.look(finding("a"))] == ["updated"]
    assert desk.look() == []
    [resolved] = desk.look()
    assert (resolved.status, resolved.incident_id) == ("resolved", opened.incident_id)
    assert resolved.resolved_at_ms == resolved.timestamp_ms
    [again] = desk.look(finding("a"))
    assert again.fingerprint == opened.fingerprint
    assert again.incident_id != opened.incident_id


def test_evidence_is_where_the_window_began_and_what_made_it_known() -> None:
    """At each step, the end included; no more rows than are wanted, and none twice."""
    desk = Desk()
    steps = desk.look(finding("a")) + desk.look(finding("a")) + desk.look() + desk.look()
    found = [[(row.topic, row.partition, row.offset, row.timestamp_ms) for row in each.evidence] for each in steps]
    assert found == [[("predictions", 0, 0, 7), ("predictions", 0, at, at * MS)] for at in (1, 2, 4)]
    [alert] = Desk(OPTIONS._replace(evidence_max=1)).look(finding("a"))
    assert [row.offset for row in alert.evidence] == [1]
    [alert] = Desk().look(finding("a"), place=Place(0, 7))
    assert [row.offset for row in alert.evidence] == [0]


def test_an_incident_is_named_by_the_prediction_that_made_it_known() -> None:
    """Neither the label that did so nor when that came changes the id, and they stay what they are in the record."""
    first, second = Desk(), Desk(looks=70)
    [one], [other] = (desk.look(finding("a"), place=Place(4, 40)) for desk in (first, second))
    assert (one.incident_id, one.alert_id) == (other.incident_id, other.alert_id)
    assert one.opened_at_ms != other.opened_at_ms
    [elsewhere] = Desk().look(finding("a"), place=Place(5, 40))
    assert elsewhere.incident_id != one.incident_id


def test_closing_tells_only_of_what_is_open() -> None:
    """What has become normal resolves the alert, if there is one."""
    desk = Desk()
    assert desk.standing.close(Moment(1, 1, 1, 1)) == []
    desk.look(finding("a"))
    assert [each.status for each in records(desk.standing.close(Moment(9, 9, 1, 1)))] == ["resolved"]


def test_a_restored_alert_goes_on() -> None:
    """The incident is the same one, with the same quiet looks."""
    first, second = Desk(), Desk()
    first.look(finding("a"))
    first.look()
    stored = msgspec.msgpack.encode(first.standing.state())
    second.standing.restore(msgspec.msgpack.decode(stored, type=type(first.standing.state())))
    second.looks = first.looks
    for found in ((), (finding("a"),), (finding("a"), finding("b")), ()):
        assert first.look(*found) == second.look(*found)


def test_a_stored_incident_that_cannot_be_is_refused() -> None:
    """An offset that no record has."""
    desk = Desk()
    desk.look(finding("a"))
    stored = msgspec.to_builtins(desk.standing.state())
    stored["open"]["opened_offset"] = -2
    with pytest.raises(msgspec.ValidationError, match="opened_offset"):
        msgspec.convert(stored, type(desk.standing.state()))
