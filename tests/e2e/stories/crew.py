"""Worker processes of one deployment, started, killed, paused and watched over as a supervisor would."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.harness import Deployment

QUICK = {"MODELVIGIL_KAFKA_SESSION_TIMEOUT_MS": "3000", "MODELVIGIL_KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
SETTINGS = (
    "worker.transaction_timeout_ms=5000",
    "worker.watchdog_ms=35000",
    "worker.snapshot_interval_ms=700",
    "worker.snapshot_time_share=1.0",
    "worker.fetch_records_max=400",
)
_STOP_MAX_S = 40.0
_LOOK_S = 0.1


class Crew:
    """All workers of a story. As a context manager it ends them all.

    Args:
        deployment: topics and group.
        folder: for their logs.
        environment: beside the usual one; by default sessions are short.
        settings: beside those above, as NAME=VALUE.
    """

    def __init__(
        self,
        deployment: Deployment,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        settings: tuple[str, ...] = (),
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._environment = {**os.environ, **(QUICK if environment is None else environment)}
        self._settings = (*SETTINGS, *settings)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watched: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self.restarts: list[tuple[str, int]] = []
        """Workers that ended by themselves and were started again, with their exit codes."""

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._watching.join()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def start(self, name: str, *settings: str, step: str = "", count: int = 1, how: str = "SIGKILL") -> None:
        """Start a worker; with a step it gets a signal there. One without a step is started again when it ends."""
        arguments = self._deployment.command("run")[3:]
        for setting in (*self._settings, *settings):
            arguments += ["--set", setting]
        faulty = ["-m", "tests.e2e.faults.faulty_worker", "--step", step, "--count", str(count), "--signal", how, "--"]
        program = [sys.executable, *(faulty if step else ["-m", "worker"]), *arguments]
        with self._lock, (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(program, stderr=log, env=self._environment)
            if not step:
                self._watched.add(name)

    def start_asleep(self, name: str, step: str, count: int) -> None:
        """Start a worker that will stop itself at a step, with SIGSTOP."""
        self.start(name, step=step, count=count, how="SIGSTOP")

    def kill(self, name: str) -> None:
        """Kill -9 a worker."""
        self._unwatch(name)
        self._processes[name].kill()
        self._processes[name].wait()

    def pause(self, name: str) -> None:
        """Stop a worker where it is."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let it go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    def stop(self, name: str) -> int:
        """Stop a worker as a supervisor does, and return its exit code."""
        self._unwatch(name)
        self._processes[name].terminate()
        return self._processes[name].wait(_STOP_MAX_S)

    def wait(self, name: str, seconds_max: float) -> int | None:
        """Wait until a worker ends; None if it does not."""
        try:
            return self._processes[name].wait(seconds_max)
        except subprocess.TimeoutExpired:
            return None

    def stop_all(self) -> dict[str, int]:
        """Stop all that run, and return their exit codes."""
        running = [name for name, process in self._processes.items() if process.poll() is None]
        for name in running:
            self._unwatch(name)
            self._processes[name].terminate()
        return {name: self._processes[name].wait(_STOP_MAX_S) for name in running}

    def log(self, name: str) -> str:
        """Return what a worker has said."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def tails(self, lines: int = 40) -> str:
        """Return the last lines of every worker's log, for a failure."""
        parts = [f"restarts: {self.restarts}"]
        for path in sorted(self._folder.glob("*.log")):
            said = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            parts += [f"--- {path.stem}", *(line[:400] for line in said)]
        return "\n".join(parts)

    def wait_until_said(self, name: str, what: str, times: int = 1, seconds_max: float = 40.0) -> None:
        """Wait until a worker has said something so many times."""
        end = time.monotonic() + seconds_max
        while self.log(name).count(what) < times:
            assert time.monotonic() < end, (
                f"{name} has not said {what!r} {times} times; its log:\n{self.log(name)[-3000:]}"
            )
            time.sleep(_LOOK_S)

    def _unwatch(self, name: str) -> None:
        with self._lock:
            self._watched.discard(name)

    def _watch(self) -> None:
        """Start again what ended: the restart path is the recovery path."""
        while not self._over.wait(_LOOK_S):
            with self._lock:
                ended = [name for name in self._watched if self._processes[name].poll() is not None]
            for name in ended:
                self.restarts.append((name, int(self._processes[name].returncode)))
                self.start(name)
