"""Every fault story on real Kafka, then simulated runs until the time is over: `python -m tests.soak --seconds 600`.

With `--only broker` it tells those stories alone that have this in their names, again and again.

Ends with a table of what happened and one line of JSON. The exit code is 1 if anything was lost, doubled or different.
"""

import argparse
import json
import random
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.e2e.faults.node import QUICK_FAILOVER
from tests.e2e.stories.broker_plays import BROKER_PLAYS
from tests.e2e.stories.performance import Result, perform_play
from tests.e2e.stories.plays import PLAYS
from tests.sim.soak import Total
from tests.sim.soak import soak as simulate
from worker.edges.broker import LocalBroker

_STORIES_SHARE = 0.75
"""Of the time that stories may begin in; the simulation gets the rest, and at least `_SIMULATION_S_MIN`."""
_SIMULATION_S_MIN = 60.0

console = Console(stderr=True)


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    runs: int
    faults: int
    outputs: int
    lost: int
    doubled: int
    state_differences: int
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.lost or self.doubled or self.state_differences or self.failure)


def stories(servers: str) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Yield every story, ready to be told."""
    for name, play in PLAYS.items():
        yield name, partial(perform_play, play, servers, _prefix())
    for name, broken in BROKER_PLAYS.items():
        yield name, partial(broken, _prefix())


def chosen(servers: str, only: str) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Yield every story once, or some of them without end."""
    while True:
        found = [(name, story) for name, story in stories(servers) if only in name]
        if not found:
            raise SystemExit(f"no story has {only!r} in its name: {', '.join([*PLAYS, *BROKER_PLAYS])}")
        yield from found
        if not only:
            return


def tell(name: str, story: Callable[[], Result]) -> Row:
    """Run one story."""
    begun = time.monotonic()
    try:
        result = story()
    except Exception as error:  # noqa: BLE001 - the others shall be told all the same
        traceback.print_exception(error)
        return Row(name, 1, 0, 0, 0, 0, 0, f"{type(error).__name__}: {str(error)[:200]}")
    verdict = result.verdict
    for problem in verdict.problems:
        console.print(f"  [red]{problem}")
    row = Row(name, 1, result.tally.faults, verdict.outputs, verdict.lost, verdict.doubled, verdict.state_differences)
    sign = "ok" if row.ok else "WRONG"
    console.print(f"{sign}: {name}, {result.sent:,} records, {time.monotonic() - begun:.0f} s, exits {result.restarts}")
    return row if not verdict.problems else row._replace(failure=verdict.problems[0])


def simulated(total: Total) -> Row:
    """Return the line of all simulated runs."""
    failure = f"seeds {total.failed_seeds[:5]}" if total.failed_seeds else ""
    faults = sum(total.faults.values())
    return Row(
        "simulated runs", total.runs, faults, total.commits, total.lost, total.doubled, total.state_differences, failure
    )


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(
        "fault", "runs", "faults", "outputs*", "lost", "doubled", "state diff.", "", caption="* simulated: commits"
    )
    for row in rows:
        numbers = (f"{value:,}" for value in row[1:7])
        table.add_row(row.fault, *numbers, row.failure or "ok", style=None if row.ok else "red")
    Console().print(table)


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description="Breaks everything on purpose, for a while.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", default="", help="only stories with this in their names, and no simulation")
    options = parser.parse_args()
    seconds, only = options.seconds, options.only
    begun = time.monotonic()
    rows, untold = [], []
    with LocalBroker(properties=QUICK_FAILOVER, say=console.print) as broker:
        for name, story in chosen(broker.bootstrap_servers, only):
            if time.monotonic() - begun < seconds * _STORIES_SHARE:
                console.print(f"{name} ...")
                rows.append(tell(name, story))
            elif only:
                break
            else:
                untold.append(name)
    total = Total()
    if not only:
        left = max(_SIMULATION_S_MIN, seconds - (time.monotonic() - begun))
        total = simulate(random.randrange(2**31), left, console)
        rows.append(simulated(total))
    show(rows)
    if untold:
        console.print(f"not told, because the time was over: {', '.join(untold)}")
    figures = {
        "runs": sum(row.runs for row in rows),
        "lost": sum(row.lost for row in rows),
        "doubled": sum(row.doubled for row in rows),
        "state_differences": sum(row.state_differences for row in rows),
        "failed": sum(not row.ok for row in rows),
        "faults": sum(row.faults for row in rows),
        "simulated_runs": total.runs,
        "untold": untold,
        "seconds": round(time.monotonic() - begun),
    }
    print(json.dumps(figures))  # noqa: T201 - the last line is for programs
    return int(any(not row.ok for row in rows))


def _prefix() -> str:
    return f"soak-{uuid.uuid4().hex[:8]}-"


if __name__ == "__main__":
    sys.exit(main())
