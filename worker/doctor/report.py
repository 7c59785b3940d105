"""All findings together: as a table for people, as one JSON document for programs."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from rich import box
from rich.table import Table
from rich.text import Text

from worker.doctor.findings import Area, Finding, Status

WIDTH = 160
"""Where the terminal does not say how wide it is."""
_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.ERROR: "bold red", Status.UNKNOWN: "dim"}


class Report(Struct, frozen=True):
    """What `doctor` tells."""

    version: str
    group: str
    bootstrap_servers: str
    looked_ms: int
    status: Status
    """The worst there is; `unknown` alone counts as `ok`."""
    findings: list[Finding]


def worst(findings: Sequence[Finding]) -> Status:
    """Return the worst status of all."""
    there = {finding.status for finding in findings}
    return next((each for each in (Status.ERROR, Status.WARNING) if each in there), Status.OK)


def blamed(findings: Sequence[Finding]) -> Area | None:
    """Return the area of the first error, in the order of areas: what comes later may follow from it."""
    wrong = {finding.area for finding in findings if finding.status is Status.ERROR}
    return next((area for area in Area if area in wrong), None)


def table(report: Report) -> Table:
    """Return a row for each finding."""
    rows = Table("", "about", "what", "what to do", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in report.findings:
        rows.add_row(
            Text(finding.status, style=_STYLES[finding.status]),
            finding.area,
            # As text: names of topics may look like markup.
            Text(_shown(finding.message), overflow="fold"),
            Text(_shown(finding.advice), overflow="fold"),
        )
    return rows


def summary(report: Report) -> Iterator[str]:
    """Yield the last lines."""
    counts = {status: sum(finding.status is status for finding in report.findings) for status in Status}
    parts = [
        f"{count} {status}{'s' if count > 1 and status in {Status.ERROR, Status.WARNING} else ''}"
        for status, count in counts.items()
        if count
    ]
    yield ", ".join(parts)


def _shown(text: str) -> str:
    """Leave out what would drive the terminal: names and values come from records."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
