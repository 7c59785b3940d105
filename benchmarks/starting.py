"""The table of `start.py`: how long `modelvigil run` takes until it is ready, and what a start costs."""

import json
import subprocess

from benchmarks.rates import console, program
from benchmarks.results import Part, table

AIM_S = 3
TEXTS = {
    "ready_s_min": "ready, s: minimum",
    "ready_s": f"ready, s: median (aim < {AIM_S})",
    "ready_s_max": "ready, s: maximum",
    "cpu_s": "CPU seconds of the process until ready, median",
    "children_cpu_s": "CPU seconds of its children until then, median",
    "first_events_s": "the first 2,000 events committed, s after they were sent, median",
    "with_events_cpu_s": "CPU seconds until after these and the stop, all processes, median",
    "cold_ready_s": "ready with no kernel compiled, s",
    "cold_cpu_s": "CPU seconds of that",
}


def part(starts: int) -> Part:
    """Measure so many starts with compiled kernels, and one without."""
    with console.status("starts of the worker; the first one compiles everything"):
        command = program("benchmarks.start", "--starts", str(starts))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    rows = [(text, str(figures[name])) for name, text in TEXTS.items() if name in figures]
    text = f"{starts} starts of `modelvigil run` on a local Kafka, from the process made to `/readyz` saying 200.\n\n"
    return Part(text + table(("", ""), rows), figures)
