"""The table of `start.py`: how long `modelvigil run` takes until it is ready."""

import json
import subprocess

from benchmarks.rates import console, program
from benchmarks.results import Part, table


def part() -> Part:
    """Run it, and show whatever it tells."""
    with console.status("starts of the worker"):
        done = subprocess.run(program("benchmarks.start"), check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return Part(table(("", ""), ((name, str(value)) for name, value in figures.items())), figures)
