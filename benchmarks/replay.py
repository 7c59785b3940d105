"""Does a replay of the demo, with the configuration of its worker, tell what was published?

    python -m benchmarks.replay [--seconds 45]

Runs the demo on a local Kafka, keeps its topics, and replays them. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from worker.edges.broker import LocalBroker

console = Console(stderr=True)


def main() -> int:
    """Run the demo and replay it; return 1 if an incident is on one side only."""
    parser = argparse.ArgumentParser(description="A replay of the demo against what it published.")
    parser.add_argument("--seconds", type=float, default=45.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, LocalBroker(say=console.print) as broker:
        config = Path(folder) / "demo.toml"
        worker = [sys.executable, "-m", "worker"]
        demo = [*worker, "demo", "--seconds", str(seconds), "--bootstrap-servers", broker.bootstrap_servers]
        subprocess.run([*demo, "--keep", str(config)], check=True, stdout=sys.stderr)
        replay = [*worker, "replay", "--config", str(config), "--fail-on-difference"]
        done = subprocess.run([*replay, "--json"], check=False, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    names = ("published", "replayed", "differences", "shifted", "other_severity")
    figures = {"seconds": seconds, "played": found["played"], **{name: found[name] for name in names}}
    sys.stdout.write(json.dumps(figures) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
