"""RESULTS.md: generated parts between marks, beside what is written by hand; and what they were measured with."""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import confluent_kafka

from worker.edges.broker.jars import KAFKA_VERSION

RESULTS = Path(__file__).with_name("RESULTS.md")
_LIBRARIES = ("numpy", "numba", "scikit-learn", "river", "confluent-kafka")


class Spread(NamedTuple):
    """Least, middle and largest of several figures."""

    minimum: float
    median: float
    maximum: float


class Part(NamedTuple):
    """What one part of the benchmark gave: text for people, figures for programs."""

    text: str
    figures: dict[str, object]


def spread(values: Iterable[float]) -> Spread:
    """Return minimum, median and maximum."""
    found = sorted(values)
    return Spread(found[0], median(found), found[-1])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def processor() -> str:
    """Return the name of the CPU, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def measured_with() -> str:
    """Return the date, the machine and the versions, as a sentence."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores ({processor()}) shared with the broker; "
        f"Python {platform.python_version()}, {libraries}, librdkafka {confluent_kafka.libversion()[0]}, "
        f"Apache Kafka {KAFKA_VERSION}."
    )


class CpuTimes(NamedTuple):
    """Of all cores since the start of the machine, in ticks; zeros where the system does not tell."""

    total: int
    stolen: int
    """By other guests of the host, while something here wanted to run."""

    @classmethod
    def now(cls) -> "CpuTimes":
        """Look at what Linux tells."""
        try:
            first, *_ = Path("/proc/stat").read_text(encoding="ascii").splitlines()
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
            ticks = [int(each) for each in first.split()[1:9]]
            return cls(sum(ticks), ticks[7])
        except (OSError, ValueError, IndexError):
            return cls(0, 0)

    def stolen_share(self, before: "CpuTimes") -> float | None:
        """Return which share of the CPU other guests took since an earlier look; None where that is not known."""
        passed = self.total - before.total
        return (self.stolen - before.stolen) / passed if passed > 0 else None


def stolen_text(share: float | None) -> str:
    """Return it as a sentence; nothing where it is not known."""
    return "" if share is None else f"Other guests of the host took {share:.1%} of the CPU."


def write(name: str, command: str, part: Part, *, stolen_share: float | None = None) -> None:
    """Put a part between its marks; the rest of the page stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = RESULTS.read_text(encoding="utf-8")
    head, begun, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"{RESULTS.name} has no marks for {name}")
    text = f"`{command}`, {measured_with()} {stolen_text(stolen_share)}".rstrip() + f"\n\n{part.text}"
    RESULTS.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
