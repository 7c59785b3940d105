"""The fits of challengers: they wait for one process, which does one after the other."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import PriorityQueue
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from worker.edges.refit_pool.children import CHALLENGERS, Reply, answer_challengers

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

ATTEMPTS_MAX = 3
_URGENCY = {kind: place for place, kind in enumerate(CHALLENGERS)}


class RefitFailedError(Exception):
    """A fit did not come back; the message says what was tried."""


class Job(NamedTuple):
    """A fit that waits for the process of challengers, or is under way in it."""

    kind: str
    payload: bytes
    reply: "Future[Reply]"


class ChallengerLane:
    """One process, one fit at a time; the rest waits here, where it can be taken back.

    An executor moves up to two fits beyond the one under way to where they cannot be cancelled any more: a takeover
    would wait for all three.
    """

    def __init__(self, count_cpu: Callable[[str, float], None]) -> None:
        self._count_cpu = count_cpu
        self._waiting: PriorityQueue[tuple[int, int, Job | None]] = PriorityQueue()
        self._arrivals = count()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._child: tuple[BaseProcess, Connection] | None = None

    def start(self, kind: str, payload: bytes) -> Job:
        """Put a fit into the queue."""
        job = Job(kind, payload, Future())
        self._waiting.put((_URGENCY[kind], next(self._arrivals), job))
        with self._beginning:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="challengers", daemon=True)
                self._thread.start()
        return job

    def close(self) -> None:
        """Stop at once: what is under way or waits is given up."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                # The thread that reads from it notices, and closes the pipe: nobody else may while it reads.
                self._child[0].kill()
        if self._thread is not None:
            self._waiting.put((-1, 0, None))
            self._thread.join()
        with self._lock:
            self._end_child()

    def _work(self) -> None:
        while True:
            _, _, job = self._waiting.get()
            if job is None:
                return
            if job.reply.set_running_or_notify_cancel():
                try:
                    reply = self._asked(job)
                except RefitFailedError as error:
                    job.reply.set_exception(error)
                else:
                    self._count_cpu(job.kind, reply.cpu_s)
                    job.reply.set_result(reply)

    def _asked(self, job: Job) -> Reply:
        """Ask the process; one that died is replaced and asked again."""
        question = msgspec.msgpack.encode((job.kind, job.payload))
        for _ in range(ATTEMPTS_MAX):
            try:
                pipe = self._pipe()
                pipe.send_bytes(question)
                return msgspec.msgpack.decode(pipe.recv_bytes(), type=Reply)
            except (EOFError, OSError):
                with self._lock:
                    self._end_child()
        raise RefitFailedError(
            f"the process of challengers died {ATTEMPTS_MAX} times in a row: is there enough memory? "
            "See the system's log."
        )

    def _pipe(self) -> Connection:
        """Return the way to the process, which is started if there is none."""
        with self._lock:
            if self._is_closed:
                raise RefitFailedError("the pool was closed while a challenger was fitted")
            if self._child is None:
                context = get_context("spawn")
                here, there = context.Pipe()
                process = context.Process(target=answer_challengers, args=(there,), name="challengers", daemon=True)
                process.start()
                # Without this end of the child's the pipe breaks when the child dies.
                there.close()
                self._child = process, here
            return self._child[1]

    def _end_child(self) -> None:
        """Kill the process, if there is one. The lock is held."""
        if self._child is not None:
            process, pipe = self._child
            self._child = None
            process.kill()
            process.join()
            pipe.close()
