"""What the worker counts and logs of what the loop tells it."""

import json
from typing import Any

import pytest

from worker.core.codec import Reject
from worker.core.engine import Handled
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch, RejectCode
from worker.edges.telemetry import OUTPUT_COUNTS, Count, Gauge, Metrics, ModelBook, Stage, Telemetry
from worker.lagging import marked
from worker.observer import Census, MaintenanceCost, Shards
from worker.ports import CommitOutcome
from worker.reporting import Reporting, Vitals

_SHARDS = Shards(live=1, restoring=0, refused=0, records_left=0, seconds_left=None, oldest_cut_seconds=0.0)


class _Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, message: str, **fields: Any) -> None:  # noqa: ANN401 - whatever is logged
        self.lines.append(("info", message, fields))

    def warning(self, message: str, **fields: Any) -> None:  # noqa: ANN401 - whatever is logged
        self.lines.append(("warning", message, fields))


def _reporting() -> tuple[Reporting, Telemetry, _Log]:
    log = _Log()
    telemetry = Telemetry(log, models=ModelBook(models_max=2, features_max=2))
    reporting = Reporting(telemetry, log, lambda: None)  # type: ignore[arg-type]  # it logs on these two levels only
    return reporting, telemetry, log


def test_every_output_is_counted_where_it_goes_and_late_ones_apart() -> None:
    """Tombstones too; dead letters and scores are never marked, so they are not late."""
    reporting, telemetry, _ = _reporting()
    outputs = [Output(topic, 0, 0, b"k", None) for topic in OutputTopic]
    reporting.committed(outputs, 0.0)
    reporting.committed(marked(outputs, 61_000), 0.0)
    counts = telemetry.counts()
    assert {topic: counts[OUTPUT_COUNTS[topic]] for topic in OutputTopic} == dict.fromkeys(OutputTopic, 2)
    assert counts[Count.OUTPUTS_LATE] == len(OutputTopic) - 2


def test_lagging_is_a_warning_and_a_gauge() -> None:
    """One line when it begins, one when it is over; how late it is stands in the regular line."""
    reporting, telemetry, log = _reporting()
    reporting.lagging(61.04)
    reporting.caught_up()
    reporting.shards(_SHARDS._replace(lag_seconds=2.34))
    telemetry.report_at_end()
    warnings = [(message.split(":")[0], fields) for level, message, fields in log.lines if level == "warning"]
    assert warnings == [("lagging", {"lag_seconds": 61.0}), ("not lagging any more", {})]
    assert log.lines[-1][2][Gauge.LAG_SECONDS.value] == 2.3


def test_what_maintenance_costs_is_told_and_a_change_of_its_level_once() -> None:
    """Seconds by part, the share of the last window and the level in the regular line; a line of its own for news."""
    reporting, telemetry, log = _reporting()
    for share, level in ((0.1, 0), (0.6, 2), (0.15, 2), (None, 1)):
        reporting.maintained(MaintenanceCost(share, 0.5, 0.25, level))
    reporting.maintained(MaintenanceCost(0.03, 0.5, 0.25, 1))
    reporting.shards(_SHARDS._replace(thinning=1))
    telemetry.report_at_end()
    told = [(level, fields) for level, _, fields in log.lines[:-1]]
    assert told == [("warning", {"share": 0.6, "one_event_in": 4}), ("info", {"one_event_in": 2})]
    totals = log.lines[-1][2]
    assert (totals[Gauge.MAINTENANCE_SHARE.value], totals[Gauge.MAINTENANCE_THINNING.value]) == (0.03, 1)
    assert (totals[f"{Stage.MAINTENANCE}_seconds"], totals[f"{Stage.CHALLENGER_FITS}_seconds"]) == (2.5, 1.25)


def test_models_that_are_stored_or_not_are_counted_and_told() -> None:
    """A failure is a warning: it is tried again."""
    reporting, telemetry, log = _reporting()
    reporting.artefact_stored("m/0.onnx", 1_000, 0.25)
    reporting.artefact_failed("a model cannot be stored: no answer")
    assert [(level, message) for level, message, _ in log.lines] == [
        ("info", "model stored"),
        ("warning", "a model cannot be stored: no answer"),
    ]
    assert (telemetry.counts()[Count.ARTEFACTS_STORED], telemetry.counts()[Count.ARTEFACTS_FAILED]) == (1, 1)


def test_what_was_read_rejected_and_committed_is_counted_by_its_labels() -> None:
    """Records by topic, rejects by reason, transactions by outcome; the line of the log has the sums."""
    reporting, telemetry, _ = _reporting()
    none: list[None] = [None, None]
    batch = RawBatch(0, [7, 8], [1, 2], none, none, none)
    reporting.fetched([batch, batch._replace(topic=InputTopic.LABELS), batch._replace(partition=1)], 0.01)
    rejects = [
        Reject(row, code, "") for row, code in enumerate((RejectCode.EMPTY, RejectCode.NOT_JSON, RejectCode.EMPTY))
    ]
    reporting.handled(Handled([], 5, 0, rejects), 0.01)
    reporting.committed([], 0.01)
    for outcome in (CommitOutcome.UNKNOWN, CommitOutcome.ABORTED, CommitOutcome.ABORTED):
        reporting.aborted(outcome)
    values = telemetry.values()
    assert values[Metrics.RECORDS_CONSUMED] == {("predictions",): 4, ("labels",): 2, ("feedback",): 0}
    assert {key: value for key, value in values[Metrics.RECORDS_REJECTED].items() if value} == {
        ("empty",): 2,
        ("not_json",): 1,
    }
    assert values[Metrics.TRANSACTIONS] == {("committed",): 1, ("aborted",): 2, ("unknown",): 1}
    counts = telemetry.counts()
    assert (counts[Count.RECORDS_CONSUMED], counts[Count.RECORDS_REJECTED]) == (6, 3)
    assert counts[Count.TRANSACTIONS_ABORTED] == 3


def test_a_census_tells_of_all_models_and_of_open_incidents_from_0() -> None:
    """A model of two shards is two; incidents of models without series are summed; a shard that goes makes room."""
    reporting, telemetry, _ = _reporting()
    lag = {(InputTopic.PREDICTIONS, 3): 17}
    incidents = {(0, "a", "warning"): 1, (1, "a", "warning"): 2, (1, "c", "critical"): 4, (1, "d", "critical"): 1}
    reporting.census(Census({0: ["a", "b"], 1: ["a", "c", "d"]}, incidents, lag))
    values = telemetry.values()
    assert values[Metrics.MODELS] == {(): 5}
    assert values[Metrics.MODELS_BEYOND_MAX] == {(): 2}
    assert {key: value for key, value in values[Metrics.INCIDENTS_OPEN].items() if value} == {
        ("a", "warning"): 3,
        ("other", "critical"): 5,
    }
    assert values[Metrics.INCIDENTS_OPEN]["b", "info"] == 0
    assert values[Metrics.CONSUMER_LAG_RECORDS] == {("predictions", "3"): 17}
    reporting.partitions("revoked", [0])
    reporting.census(Census({1: ["a", "c", "d"]}, {}, {}))
    assert telemetry.values()[Metrics.MODELS_BEYOND_MAX] == {(): 1}
    assert telemetry.models.here() == ["a", "c"]


def test_a_worker_is_ready_when_all_that_it_was_given_is_live() -> None:
    """From the start over the group and restores to work, and back; a spare worker without a partition is ready."""
    reporting, telemetry, _ = _reporting()
    reasons = [telemetry.readiness()]
    reporting.shards(_SHARDS._replace(live=0))
    reasons.append(telemetry.readiness())
    reporting.partitions("assigned", [])
    reasons.append(telemetry.readiness())
    reporting.partitions("assigned", [0, 1, 2, 3])
    reasons.append(telemetry.readiness())
    reporting.shards(_SHARDS._replace(live=3, restoring=1, records_left=12_000, seconds_left=3.04))
    reasons.append(telemetry.readiness())
    reporting.shards(_SHARDS._replace(live=4))
    reasons.append(telemetry.readiness())
    reporting.shards(_SHARDS._replace(live=3, refused=1))
    reasons.append(telemetry.readiness())
    reporting.partitions("lost", [0, 1, 2, 3])
    reporting.shards(_SHARDS._replace(live=0))
    reasons.append(telemetry.readiness())
    assert reasons == [
        (False, "starting"),
        (False, "waiting for the group"),
        (True, "spare: the group has no partition for it"),
        (False, "restoring: 4 of 4 partitions"),
        (False, "restoring: 1 of 4 partitions, 12,000 records left, 3 s"),
        (True, "4 partitions"),
        (False, "refused: the state of 1 of 4 partitions; see the log"),
        (False, "waiting for the group"),
    ]
    assert telemetry.values()[Metrics.REBALANCES] == {("assigned",): 1, ("revoked",): 0, ("lost",): 1}


@pytest.mark.parametrize(
    ("age_s", "status", "said"),
    [(None, 200, "starting"), (0.5, 200, "alive"), (30.0, 200, "alive"), (30.1, 503, "the loop does not answer")],
)
def test_health_is_a_loop_that_beats(age_s: float | None, status: int, said: str) -> None:
    """Before it begins there is nothing to hang; then it may be silent for as long as the watchdog lets it."""
    _, telemetry, _ = _reporting()
    vitals = Vitals(telemetry, 30.0, lambda: False)
    vitals.heartbeat_age_s = None if age_s is None else lambda: age_s
    answer = vitals.pages["/healthz"]()
    assert (answer.status, json.loads(answer.body)["status"]) == (status, said)
    assert (b"modelvigil_heartbeat_age_seconds " in vitals.pages["/metrics"]().body) is (age_s is not None)


def test_a_worker_that_is_stopping_is_not_ready() -> None:
    """Whoever asks is told why; the metric follows what the worker does."""
    reporting, telemetry, _ = _reporting()
    stopping: list[int] = []
    vitals = Vitals(telemetry, 30.0, lambda: bool(stopping))
    reporting.shards(_SHARDS)
    assert json.loads(vitals.pages["/readyz"]().body) == {"ready": True, "reason": "1 partitions"}
    stopping.append(15)
    answer = vitals.pages["/readyz"]()
    assert (answer.status, json.loads(answer.body)) == (503, {"ready": False, "reason": "stopping"})
