"""What `/metrics` answers: Prometheus' text format, 0.0.4.

The samples of models are written here and not by prometheus_client, which takes ten times as long for them: a hundred
models with twenty features each are more than ten thousand samples, and while they are written the loop has to share
its interpreter.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest

from worker import __version__
from worker.edges.telemetry.metrics import DECLARED, Metric, Metrics
from worker.edges.telemetry.models import ModelFigures
from worker.edges.telemetry.series import Labels, Observed
from worker.edges.telemetry.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """Makes the page; safe to be asked by several threads at once.

    Args:
        telemetry: where the figures are.
        heartbeat_age_s: how long ago the loop was alive; None: it has not begun.
    """

    def __init__(self, telemetry: Telemetry, heartbeat_age_s: Callable[[], float | None]) -> None:
        self._telemetry = telemetry
        self._heartbeat_age_s = heartbeat_age_s
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def render(self) -> bytes:
        """Return all samples as they are now."""
        values = self._telemetry.values() | self._present()
        histograms = self._telemetry.series.histograms()
        of_models = _model_lines(self._telemetry.models.figures())
        lines: list[str] = []
        for metric in DECLARED:
            samples = [
                *_plain_lines(metric, values.get(metric, {})),
                *_histogram_lines(metric, histograms.get(metric, {})),
                *of_models.get(metric, ()),
            ]
            if samples:
                lines += (f"# HELP {metric.full_name} {metric.help}.", f"# TYPE {metric.full_name} {metric.kind}")
                lines += samples
        return "\n".join([*lines, ""]).encode() + generate_latest(self._process)

    def _present(self) -> dict[Metric, Mapping[Labels, float]]:
        """Return what is looked up only when somebody asks."""
        age_s = self._heartbeat_age_s()
        return {
            Metrics.READY: {(): int(self._telemetry.ready)},
            Metrics.HEARTBEAT_AGE: {} if age_s is None else {(): age_s},
            Metrics.BUILD_INFO: {(__version__, platform.python_version()): 1},
        }


def _plain_lines(metric: Metric, values: Mapping[Labels, float]) -> Iterator[str]:
    for labels, value in sorted(values.items()):
        yield f"{metric.full_name}{_braced(zip(metric.labels, labels, strict=True))} {value!r}"


def _histogram_lines(metric: Metric, by_labels: Mapping[Labels, Observed]) -> Iterator[str]:
    bounds = [*map(repr, metric.buckets), "+Inf"]
    for labels, (counts, total) in by_labels.items():
        own = list(zip(metric.labels, labels, strict=True))
        for bound, below in zip(bounds, accumulate(counts), strict=True):
            yield f"{metric.full_name}_bucket{_braced([*own, ('le', bound)])} {below}"
        yield f"{metric.full_name}_sum{_braced(own)} {total!r}"
        yield f"{metric.full_name}_count{_braced(own)} {sum(counts)}"


def _model_lines(figures: Iterable[ModelFigures]) -> dict[Metric, list[str]]:
    """Return the samples of models by metric. A line takes about a microsecond: there may be thousands."""
    lines: dict[Metric, list[str]] = {metric: [] for metric in DECLARED if metric.labels[:2] == ("model", "shard")}
    names = {metric: metric.full_name for metric in lines}
    for model_id, shard, values, features in figures:
        own = f'model="{_escaped(model_id)}",shard="{shard}"'
        for metric, value in values.items():
            lines[metric].append(f"{names[metric]}{{{own}}} {value!r}")
        for feature, of_feature in features.items():
            with_feature = f'{{{own},feature="{_escaped(feature)}"}}'
            for metric, value in of_feature.items():
                lines[metric].append(f"{names[metric]}{with_feature} {value!r}")
    return lines


def _braced(labels: Iterable[tuple[str, str]]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
