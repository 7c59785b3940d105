"""Tells of a run that failed: what was wrong, and how it came to that."""

import traceback

from tests.sim.driver import Outcome, run

_TRACE_LINES_MAX = 60


def failure_report(seed: int) -> str:
    """Run a seed again, with a trace, and describe what is wrong with it; empty if nothing is."""
    outcome = run(seed, traced=True)
    return "" if outcome.ok else described(outcome)


def described(outcome: Outcome) -> str:
    """Describe a traced run."""
    lines = [
        f"seed {outcome.scenario.seed}: reproduce with `python -m tests.sim.soak --seed {outcome.scenario.seed}`",
        *(f"  wrong: {problem}" for problem in outcome.findings.problems),
        f"  {outcome.scenario}",
    ]
    if outcome.failure is not None:
        frames = traceback.extract_tb(outcome.failure.__traceback__)
        lines += [f"  {frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-6:]]
    shown = outcome.trace[-_TRACE_LINES_MAX:]
    if len(shown) < len(outcome.trace):
        lines.append(f"  ... {len(outcome.trace) - len(shown)} lines before")
    return "\n".join([*lines, *(f"  {line}" for line in shown)])
