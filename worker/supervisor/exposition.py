"""Several expositions of metrics in Prometheus' text format as one: pure.

Each sample gets the label `process`. Samples of one metric stand together, below one HELP and one TYPE, as the format
asks for. Lines keep their order within a process, so that the buckets of a histogram stay sorted. Values are not read.
"""

import re
from collections.abc import Iterator, Mapping

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME})(?: (.*))?")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})?( [^{{}}]+)")
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


class _Metric:
    """How a metric is described, and its samples."""

    __slots__ = ("descriptions", "samples")

    def __init__(self) -> None:
        self.descriptions: dict[str, str] = {}
        """HELP and TYPE, as far as they are there."""
        self.samples: list[str] = []


def merged(by_process: Mapping[int, str]) -> str:
    """Return one exposition. Of a metric that has another type in a later process, that process's part is left out."""
    metrics: dict[str, _Metric] = {}
    for process, text in by_process.items():
        for name, part in _metrics(text, process).items():
            metric = metrics.setdefault(name, part)
            if metric is not part and metric.descriptions.get("TYPE") == part.descriptions.get("TYPE"):
                metric.samples += part.samples
    return "".join(line + "\n" for name, metric in metrics.items() for line in _lines(name, metric))


def _metrics(text: str, process: int) -> dict[str, _Metric]:
    """Return the metrics of one process by name, samples labelled. What is no line of the format is left out."""
    metrics: dict[str, _Metric] = {}
    current = ""
    # Not `splitlines`: it also cuts at characters that may stand in a label's value.
    for line in text.split("\n"):
        if comment := _COMMENT.fullmatch(line):
            current = comment[2]
            metrics.setdefault(current, _Metric()).descriptions.setdefault(comment[1], comment[3] or "")
        elif sample := _SAMPLE.fullmatch(line):
            name, labels, value = sample[1], sample[2], sample[3]
            if name != current and not (current and name.removeprefix(current) in _OF_HISTOGRAMS):
                current = name
            more = f",{labels}" if labels else ""
            metrics.setdefault(current, _Metric()).samples.append(f'{name}{{process="{process}"{more}}}{value}')
    return metrics


def _lines(name: str, metric: _Metric) -> Iterator[str]:
    for kind in ("HELP", "TYPE"):
        if kind in metric.descriptions:
            yield f"# {kind} {name} {metric.descriptions[kind]}"
    yield from metric.samples
