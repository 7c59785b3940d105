"""Where the time of the real worker goes: a flame graph of its main process while it reads a backlog from a Kafka.

    python -m benchmarks.profile --output benchmarks/profile-after.svg
    python -m benchmarks.profile --output X.svg --seconds 20 --gil           only samples that hold the GIL

py-spy looks at all threads of the process (`make setup` installs it; it may need root or CAP_SYS_PTRACE). Compiled
kernels have no frames: their time is that of the line that calls them. (py-spy's `--native` is not used: unwinding
takes so long that the worker runs at a quarter of its speed.) Threads that only wait in C may look busy. The worker is
looked at when it has committed a fifth of the events, so that the first fits are not in the picture. The last line is
JSON.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.events import create_topics, generate, publish
from benchmarks.rates import JVM, OTHERS, OUTPUTS, TOPIC, committed, console, running, watcher_of, worker_command
from worker.edges.broker import LocalBroker

GROUP = "profile"
SAMPLES_PER_SECOND = 250
WARM_SECONDS_MAX = 120.0
BYTES_MAX = 500_000


def py_spy() -> str:
    """Return the program; ends the benchmark where there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise SystemExit("profile: py-spy is missing; `make setup` installs it")
    return found


def recorded(pid: int, seconds: int, output: Path, more: list[str]) -> None:
    """Write the flame graph of a running process."""
    command = [py_spy(), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(SAMPLES_PER_SECOND)]
    command += ["--threads", "--format", "flamegraph", "--output", str(output), *more]
    subprocess.run(command, check=True, stdout=sys.stderr)
    # py-spy's title is its command line, with paths of this machine.
    picture = output.read_text(encoding="utf-8")
    output.write_text(picture.replace(shlex.join(command), "modelvigil reads a backlog"), encoding="utf-8")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="A flame graph of the worker while it reads a backlog.")
    parser.add_argument("--output", type=Path, required=True, help="an SVG file")
    parser.add_argument("--events", type=int, default=1_500_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--gil", action="store_true", help="only what holds the GIL")
    arguments = parser.parse_args()
    more = ["--gil"] * arguments.gil
    log = Path(tempfile.mkdtemp(prefix="modelvigil-profile-")) / "worker.log"
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        create_topics(servers, [TOPIC, *OUTPUTS, *OTHERS])
        with console.status(f"generating and publishing {arguments.events:,} events"):
            publish(servers, TOPIC, generate(arguments.events))
        watcher = watcher_of(servers, GROUP)
        limit = time.monotonic() + WARM_SECONDS_MAX
        with running(worker_command(servers, GROUP), log) as process:
            while (before := committed(watcher)) < arguments.events // 5:
                if time.monotonic() > limit or process.poll() is not None:
                    raise SystemExit(f"profile: the worker did not get far; its output is in {log}")
                time.sleep(0.1)
            recorded(process.pid, arguments.seconds, arguments.output, more)
            after = committed(watcher)
        watcher.close()
    size = arguments.output.stat().st_size
    if size > BYTES_MAX:
        console.print(f"{arguments.output} has {size:,} bytes: too large to keep (at most {BYTES_MAX:,})")
    is_done = after >= arguments.events
    if is_done:
        console.print("the worker had read everything before the end: take more --events")
    print(json.dumps({"output": str(arguments.output), "bytes": size, "events": after - before, "finished": is_done}))


if __name__ == "__main__":
    main()
