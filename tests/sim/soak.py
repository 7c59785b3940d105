"""Runs as many seeds as fit into a time: `python -m tests.sim.soak --seconds 600`. The last line is JSON.

`--seed N` runs one seed and tells its whole story.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tests.sim.driver import Outcome, run
from tests.sim.report import described, failure_report

_SEEDS = 2**31
_REPORTS_MAX = 10


@dataclass(slots=True)
class Total:
    """What all runs together found."""

    runs: int = 0
    failed_seeds: list[int] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    state_differences: int = 0
    commits: int = 0
    simulated_ms: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self.runs += 1
        if not outcome.ok:
            self.failed_seeds.append(outcome.scenario.seed)
        self.lost += outcome.findings.lost
        self.doubled += outcome.findings.doubled
        self.state_differences += outcome.findings.state_differences
        self.commits += outcome.commits
        self.simulated_ms += outcome.simulated_ms
        self.faults += outcome.faults
        self.ends += outcome.ends

    def as_json(self, seconds: float) -> str:
        """Return one line."""
        facts = {
            "runs": self.runs,
            "failed": len(self.failed_seeds),
            "failed_seeds": self.failed_seeds,
            "lost": self.lost,
            "doubled": self.doubled,
            "state_differences": self.state_differences,
            "commits": self.commits,
            "simulated_seconds": self.simulated_ms // 1000,
            "runs_per_second": round(self.runs / seconds, 1),
            "faults": {str(kind): count for kind, count in sorted(self.faults.items())},
            "ends": dict(sorted(self.ends.items())),
        }
        return orjson.dumps(facts).decode()


def main() -> int:
    """Run the command; return 1 if any run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--first", type=int, help="the first seed; by chance if it is not given")
    parser.add_argument("--seed", type=int, help="run this seed alone, with its trace")
    arguments = parser.parse_args()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if arguments.seed is not None:
        outcome = run(arguments.seed, traced=True)
        console.print(described(outcome), markup=False)
        return int(not outcome.ok)
    first = random.randrange(_SEEDS) if arguments.first is None else arguments.first
    began = time.monotonic()
    total = soak(first, arguments.seconds, console)
    sys.stdout.write(f"{total.as_json(time.monotonic() - began)}\n")
    return int(bool(total.failed_seeds))


def soak(first: int, seconds: float, console: Console) -> Total:
    """Run seeds from the first one on for so long; tell of each one that fails."""
    total, began = Total(), time.monotonic()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds)
        while (spent := time.monotonic() - began) < seconds:
            outcome = run(first + total.runs)
            total.add(outcome)
            if not outcome.ok and len(total.failed_seeds) <= _REPORTS_MAX:
                console.print(failure_report(outcome.scenario.seed), markup=False)
            shown = f"{total.runs} runs, {len(total.failed_seeds)} failed, {total.runs / max(spent, 0.1):.0f}/s"
            progress.update(task, completed=spent, description=shown)
    return total


if __name__ == "__main__":
    sys.exit(main())
