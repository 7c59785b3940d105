"""What the worker counts and logs of what the loop tells it."""

from typing import Any

from worker.core.events import Output, OutputTopic
from worker.edges.telemetry import OUTPUT_COUNTS, Count, Gauge, Telemetry
from worker.lagging import marked
from worker.observer import Shards
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
