"""All that issue 11 asks to be measured, in parts; each renews its table in RESULTS.md.

    make bench                                         everything but `flat`, some 45 minutes; the last line is JSON
    python -m benchmarks.bench --only loops --rounds 3
    python -m benchmarks.bench --only latency --latency-rate 40000
    python -m benchmarks.bench --scale 0.02 --rounds 1 --keep-results       whether it runs at all

    loops       the worker against the null loop, the plain loop and micro-batches: see `loops.py`
    sizes       models per process, features per event: `sizes.py`
    processes   one process and two: `processes.py`
    memory      bytes per model: `memory.py`
    latency     from an event to its alert, at half of the rate that `loops` has just measured: `latency.py`
    start       until a worker is ready: `start.py`
    flat        memory over 50 million events: `memory.py`; some ten minutes

The machine must be quiet: broker and contestants share its cores. What a host's other guests took of them is told.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks import results
from benchmarks.rates import console
from benchmarks.results import Part

USUAL = ("loops", "sizes", "processes", "memory", "latency", "start")
PARTS = (*USUAL, "flat")
FLAT_EVENTS = 50_000_000


class Plan(NamedTuple):
    """How much is measured."""

    events: int
    rounds: int
    scale: float
    """Share of the usual amount, in the parts but `loops` and `start`."""
    latency_rate: int | None


Measured = dict[str, Part]
"""What the parts before have given."""


def _loops(plan: Plan, _done: Measured) -> Part:
    from benchmarks import loops  # noqa: PLC0415 - a part that is not asked for need not be loaded

    return loops.part(plan.events, plan.rounds)


def _sizes(plan: Plan, _done: Measured) -> Part:
    from benchmarks import sizes  # noqa: PLC0415 - as above

    return sizes.part(plan.scale)


def _processes(plan: Plan, _done: Measured) -> Part:
    from benchmarks import processes  # noqa: PLC0415 - as above

    return processes.part(round(plan.events * plan.scale), plan.rounds)


def _memory(plan: Plan, _done: Measured) -> Part:
    from benchmarks import memory  # noqa: PLC0415 - as above

    return memory.per_model_part(plan.scale)


def _flat(plan: Plan, _done: Measured) -> Part:
    from benchmarks import memory  # noqa: PLC0415 - as above

    return memory.flat_part(round(FLAT_EVENTS * plan.scale))


def _latency(plan: Plan, done: Measured) -> Part:
    from benchmarks import half_load  # noqa: PLC0415 - as above

    rate, whose = plan.latency_rate, "a rate that was asked for"
    if rate is None and "loops" in done:
        rate = int(str(done["loops"].figures["worker_eps"])) // 2
        whose = "half of what the worker reads as fast as it can"
    if rate is None:
        raise SystemExit("bench: latency is measured at half of what loops gives: add loops, or --latency-rate")
    return half_load.part(rate, whose, plan.rounds, plan.scale)


def _start(plan: Plan, _done: Measured) -> Part:
    from benchmarks import starting  # noqa: PLC0415 - as above

    return starting.part(plan.rounds)


MEASURES: dict[str, Callable[[Plan, Measured], Part]] = {
    "loops": _loops,
    "sizes": _sizes,
    "processes": _processes,
    "memory": _memory,
    "latency": _latency,
    "start": _start,
    "flat": _flat,
}


def parts(text: str) -> list[str]:
    """Read names of parts between commas; they come in the usual order, as one may need another one's figures."""
    asked = text.split(",")
    if unknown := set(asked) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in asked]


def measured(names: Sequence[str], plan: Plan, *, is_kept: bool) -> Measured:
    """Run the parts; each is in RESULTS.md as soon as it is done, unless the page is to be kept as it is."""
    done: Measured = {}
    for name in names:
        begun, cpu = time.monotonic(), results.CpuTimes.now()
        console.rule(name)
        text, figures = MEASURES[name](plan, done)
        stolen = results.CpuTimes.now().stolen_share(cpu)
        done[name] = Part(text, figures | {"cpu_stolen_share": stolen})
        console.print(text, markup=False)
        console.print(f"{name} took {time.monotonic() - begun:.0f} s. {results.stolen_text(stolen)}")
        if not is_kept:
            command = f"python -m benchmarks.bench {shlex.join(sys.argv[1:])}".rstrip()
            results.write(f"bench {name}", command, done[name], stolen_share=stolen)
    return done


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measures the worker against other loops, sizes, memory and latency.")
    parser.add_argument("--only", type=parts, default=list(USUAL), help=f"of {','.join(PARTS)}")
    parser.add_argument("--events", type=int, default=800_000, help="of loops and processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual amounts, in all parts but loops")
    parser.add_argument("--latency-rate", type=int, help="events/s, where loops is not measured")
    parser.add_argument("--keep-results", action="store_true", help="do not write RESULTS.md")
    arguments = parser.parse_args()
    plan = Plan(arguments.events, arguments.rounds, arguments.scale, arguments.latency_rate)
    done = measured(arguments.only, plan, is_kept=arguments.keep_results)
    print(json.dumps({name: part.figures for name, part in done.items()}))


if __name__ == "__main__":
    main()
