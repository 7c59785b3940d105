"""The production worker, taken down at a named step: `... -m tests.e2e.faults.faulty_worker --step begin -- run ...`.

What follows `--` is the command line of `modelvigil`. Only how its Kafka clients are built is changed.
"""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from unittest import mock

from tests.e2e.faults.steps import Cue, FaultyConnection
from worker.cli import main as modelvigil
from worker.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Run the worker and return its exit code, if it lives so long."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", required=True, help="a name of STEPS")
    parser.add_argument("--count", type=int, default=1, help="at which occurrence of it")
    parser.add_argument("--signal", default="SIGKILL", choices=("SIGKILL", "SIGSTOP"))
    parser.add_argument("command", nargs="+", help="run and its options")
    options = parser.parse_args(arguments)
    cue = Cue(options.step, options.count, signal.Signals[options.signal])

    from worker import app  # noqa: PLC0415 - heavy, and the child processes that import this module do not need it

    production = app.run_worker

    def run_faulty(settings: Settings) -> int:
        return production(settings, _faulty(settings, cue))

    # The command line looks the function up when it runs: everything else stays as users have it.
    with mock.patch.object(app, "run_worker", run_faulty):
        return modelvigil(options.command)


def _faulty(settings: Settings, cue: Cue) -> FaultyConnection:
    from worker.cluster import connect  # noqa: PLC0415 - as above

    usual = connect(settings)
    fields = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    return FaultyConnection(**fields, cue=cue, state_topic=settings.topics.state)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
