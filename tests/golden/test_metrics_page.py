"""The documentation of all metrics is what the code declares. `python -m tests.golden.test_metrics_page` writes it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family

from worker.edges.clock import SystemClock
from worker.edges.telemetry.metrics import DECLARED, PREFIX, Metric
from worker.notify import figures as notify
from worker.ship.figures import Figures
from worker.ship.health import Health
from worker.supervisor import pages as supervisor

PAGE = Path(__file__).parents[2] / "deploy" / "metrics.md"

_HEAD = f"""# Metrics

Made from the code (`worker/edges/telemetry/metrics.py` and its neighbours); a test keeps this page current. `/metrics`
has them in Prometheus' text format, with `process_*` of the process (CPU, memory, open files). Each name begins with
`{PREFIX}`.

## Worker

* What is not known has no sample. 0 means 0.
* Labels: `model` is a model id, `shard` and `partition` are the number of a partition, `topic` is the role of a topic
  (`predictions`), not its name.
* A model is one of the first `ops.models_max` that appear in a process, or it has no gauges, and its counters are
  summed under `model="other"`. `{PREFIX}models_beyond_max` tells how many those are. Their events are in
  `{PREFIX}events_processed_total` only. Open incidents are summed under `other`, too. Notes on alerts that are about no
  single model have an empty `model`.
* A feature is one of the first `ops.features_max` of the model's schema, or it has no series.
  `{PREFIX}model_drift_psi` is over all features.
* Gauges of a model are those of the last complete window, per shard. What labels say is of the latest sliding window by
  prediction time, the shortest of `engine.performance.windows_ms` (1 h by default). Of a pane in several parts the
  largest part counts. Segments are not shown. They go when the shard goes, and come with the next window.
* Counters begin at 0 with each process. Those of a model on a shard that has gone stay until another model needs its
  place.
"""
_SUPERVISOR = """
## Supervisor

With `run --processes N` there is one `/metrics` for all. Every sample of a worker has the label `process` there, too.
"""
_SHIPPER = """
## Shipper

Of `modelvigil ship elasticsearch`.
"""
_NOTIFY = """
## Notify

Of `modelvigil notify`. `target` is the name of a target.
"""
_TABLE = ["", "| metric | type | labels | meaning |", "|---|---|---|---|"]


def metrics_page() -> str:
    """Return the page in Markdown."""
    lines = [_HEAD.rstrip(), *_TABLE, *map(_row, DECLARED), _SUPERVISOR.rstrip(), *_TABLE]
    lines += [*map(_row, supervisor.DECLARED), _SHIPPER.rstrip(), *_TABLE, *map(_row, _of_shipper())]
    lines += [_NOTIFY.rstrip(), *_TABLE, *map(_row, _of_notify()), ""]
    return "\n".join(lines)


def _of_shipper() -> Iterable[Metric]:
    """Yield what a shipper declares; it is counted by prometheus_client."""
    yield from _declared(Figures(Health(structlog.get_logger(), SystemClock())).registry)


def _of_notify() -> Iterable[Metric]:
    """Yield what `notify` declares."""
    yield from _declared(notify.Figures([]).registry)


def _declared(registry: CollectorRegistry) -> Iterable[Metric]:
    for family in registry.collect():
        if family.name.startswith(PREFIX):
            total = "_total" if family.type == "counter" else ""
            name = family.name.removeprefix(PREFIX) + total
            kind: Any = family.type
            yield Metric(name, kind, family.documentation.removesuffix("."), _labels(family))


def _labels(family: Family) -> tuple[str, ...]:
    names = {name: None for sample in family.samples for name in sample.labels if name != "le"}
    return tuple(getattr(family, "_labelnames", ()) or names)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    values = f" ({', '.join(f'`{each}`' for each in metric.known)})" if len(metric.labels) == 1 and metric.known else ""
    return f"| `{metric.name}` | {metric.kind} | {labels}{values} | {metric.help} |"


def _twice(metrics: Sequence[Metric]) -> set[str]:
    names = [metric.name for metric in metrics]
    return {name for name in names if names.count(name) > 1}


def test_the_page_is_current() -> None:
    """Who changes a metric writes the page again; who reads it can rely on it."""
    assert PAGE.read_text(encoding="utf-8") == metrics_page()


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Counters end in `_total`, nothing else does; units are base units; each has a help text; none is there twice."""
    everything = [*DECLARED, *supervisor.DECLARED, *_of_shipper(), *_of_notify()]
    assert not _twice(everything)
    for metric in everything:
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not metric.name.endswith(("_count", "_sum", "_bucket", "_ms", "_rate", "_percent")), metric.name
        assert metric.help, metric.name
        assert not metric.help.endswith("."), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


if __name__ == "__main__":
    PAGE.write_text(metrics_page(), encoding="utf-8")
