"""What the worker counts and logs of what the loop tells it."""

from typing import Any

from worker.core.events import Output, OutputTopic
from worker.edges.telemetry import OUTPUT_COUNTS, Count, Gauge, Stage, Telemetry
from worker.lagging import marked
from worker.observer import MaintenanceCost, Shards
from worker.reporting import Reporting

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
    telemetry = Telemetry(log)
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
