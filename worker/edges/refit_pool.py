"""Fits models beside the path of events: forests in a thread, all else in processes of their own.

Rule 1: forests are grown by a compiled kernel in some milliseconds, and hold no interpreter lock meanwhile: one thread
        is enough for them. What scikit-learn fits holds that lock, and it takes more than a second to load.
Rule 2: what crosses to the child and back is bytes of our own formats; nothing is unpickled that describes a model.
Rule 3: a request determines its model, so a fit that died with its process is simply asked for again.
Rule 4: no child outlives this process, however it ends: each watches its parent and goes when it is gone.
Rule 5: the threads of the engine ask at the same time; who does, and who is told, holds a lock.
Rule 6: the fits of challengers take up to seconds, and never stand in the way of a detector's, for which events may be
        waiting: they have one process of their own, which yields to all others, and begins with the first of them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import count
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from queue import PriorityQueue
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

import msgspec
import numpy as np

from worker.core.detectors.forest_fit import fit_request
from worker.core.detectors.refit import FittedModel, ForestRequest, RefitRequest, RefitTicket, SvmRequest
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.maintenance.challengers import BoostedRequest, FitRequest, LinearRequest
from worker.core.maintenance.halving import HalvingRequest

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_ATTEMPTS_MAX = 3
_NICENESS = 5
"""Events come before refits when the cores are short."""
_NICENESS_OF_CHALLENGERS = 10
"""And refits of detectors before those of challengers."""

_CHALLENGERS: dict[str, type[BoostedRequest] | type[LinearRequest] | type[HalvingRequest]] = {
    "linear": LinearRequest,
    "boosted": BoostedRequest,
    "halving": HalvingRequest,
}
_URGENCY = {kind: place for place, kind in enumerate(_CHALLENGERS)}
"""What takes less time goes first: a search of options may take as long as twenty fits."""

_Fitted = TypeVar("_Fitted")


class RefitFailedError(Exception):
    """A fit did not come back; the message says what was tried."""


class _SvmPayload(msgspec.Struct, array_like=True, frozen=True):
    """A request as it crosses: rows are float32, little-endian, row by row."""

    rows: bytes
    features: int
    nu: float
    gamma_factor: float


class _Reply(msgspec.Struct, array_like=True, frozen=True):
    """What comes back of a fit."""

    fitted: bytes
    cpu_s: float
    refusal: str | None = None
    """Why the request cannot be answered, if so."""


class ProcessRefitPool:
    """Implements `ports.RefitPool` and `ports.ChallengerPool`."""

    def __init__(
        self,
        processes: int,
        waited: Callable[[float], None] = lambda _: None,
        fitted: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Take the number of processes that fit one-class SVMs, and whom to tell seconds.

        Those for which events waited, and those of CPU that the fit of a detector took.
        """
        self._processes = processes
        self.waited = waited
        self.fitted = fitted
        self._cpu_s: dict[str, float] = {}
        self._children_cpu_s = 0.0
        self._counting = threading.Lock()
        self._starting = threading.Lock()
        self._fitting = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "forests")
        self._executor: ProcessPoolExecutor | None = None
        self._challengers = _ChallengerLane(self.count_in_child)

    def submit(self, request: RefitRequest) -> RefitTicket:
        """Start a fit; never waits."""
        if isinstance(request, SvmRequest):
            return _SvmTicket(self, _packed(request))
        request = request._replace(rows=request.rows.copy())
        return _ForestTicket(self, request, self._thread.submit(_fit_forest, request))

    def fit_challenger(self, request: FitRequest[_Fitted]) -> "_ChallengerTicket[_Fitted]":
        """Start a fit as soon as the process of challengers is free; never waits."""
        return _ChallengerTicket(self, self._challengers.start(request.kind, request.to_bytes()), request.fitted_from)

    @property
    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of all fits so far, by kind, wherever they were done; each counts when it is done."""
        with self._counting:
            return dict(self._cpu_s)

    @property
    def challenger_cpu_s(self) -> float:
        """CPU seconds of all fits of challengers so far, searches of options too; it never falls."""
        cpu_s = self.cpu_s
        return sum(cpu_s.get(kind, 0.0) for kind in _CHALLENGERS)

    @property
    def challenger_children_cpu_s(self) -> float:
        """The part of `challenger_cpu_s` that was not spent in this process."""
        with self._counting:
            return self._children_cpu_s

    def count(self, kind: str, cpu_s: float) -> None:
        """Add the CPU seconds of a fit."""
        with self._counting:
            self._cpu_s[kind] = self._cpu_s.get(kind, 0.0) + cpu_s

    def count_in_child(self, kind: str, cpu_s: float) -> None:
        """Add the CPU seconds of a challenger's fit in its own process."""
        self.count(kind, cpu_s)
        with self._counting:
            self._children_cpu_s += cpu_s

    def warm(self) -> None:
        """Start the processes of SVMs and let them import scikit-learn: the first fit does not wait for it."""
        for _ in range(self._processes):
            self.start(b"")

    def close(self) -> None:
        """Stop; a detector's fit under way is waited for, a challenger's is given up."""
        self._challengers.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, payload: bytes) -> "Future[bytes]":
        """Start the fit of an SVM; on new processes if there are none, or the old ones have died."""
        with self._starting:
            if self._executor is not None:
                with suppress(BrokenProcessPool):
                    return self._executor.submit(_fit_svm, payload)
            # `spawn`: a fork would copy librdkafka's threads half-way.
            spawn = get_context("spawn")
            self._executor = ProcessPoolExecutor(self._processes, mp_context=spawn, initializer=_prepare_child)
            return self._executor.submit(_fit_svm, payload)

    def fit_here(self, fit: Callable[[], _Fitted]) -> _Fitted:
        """Fit in this process: one at a time, because how many threads BLAS uses is the same for all of them.

        Two fits, the first of which puts that back while the second one goes on, would differ from run to run.
        """
        with self._fitting:
            return fit()

    def tell_waited(self, seconds: float) -> None:
        """Say that events waited."""
        with self._counting:
            self.waited(seconds)

    def tell_fitted(self, cpu_s: float) -> None:
        """Say what a detector's fit took."""
        with self._counting:
            self.fitted(cpu_s)

    def tell_detector(self, kind: str, cpu_s: float, begun: float) -> None:
        """Count the fit of a detector, for which events have waited since then."""
        self.count(kind, cpu_s)
        self.tell_fitted(cpu_s)
        self.tell_waited(time.monotonic() - begun)


class _ForestTicket:
    """A forest that is grown in another thread."""

    __slots__ = ("_future", "_pool", "_request")

    def __init__(
        self, pool: ProcessRefitPool, request: ForestRequest, future: "Future[tuple[FittedModel, float]]"
    ) -> None:
        self._pool = pool
        self._request = request
        self._future = future

    def result(self) -> FittedModel:
        """Return the forest: wait for one that is being grown, and grow here what still waits in the queue."""
        begun = time.monotonic()
        forest, cpu_s = _fit_forest(self._request) if self._future.cancel() else self._future.result()
        self._pool.tell_detector("forest", cpu_s, begun)
        return forest


class _SvmTicket:
    """A fit under way in another process."""

    __slots__ = ("_future", "_payload", "_pool")

    def __init__(self, pool: ProcessRefitPool, payload: bytes) -> None:
        self._pool = pool
        self._payload = payload
        self._future = pool.start(payload)

    def result(self) -> FittedModel:
        """Return the model: wait for a fit under way, and do here what still waits in the queue (the same bytes)."""
        begun = time.monotonic()
        pool, payload = self._pool, self._payload
        fitted = pool.fit_here(lambda: _fit_svm(payload)) if self._future.cancel() else self._awaited()
        reply = msgspec.msgpack.decode(fitted, type=_Reply)
        pool.tell_detector("svm", reply.cpu_s, begun)
        return SvmArrays.from_bytes(reply.fitted)

    def _awaited(self) -> bytes:
        """Wait; a fit whose process died is started again."""
        for _ in range(_ATTEMPTS_MAX):
            try:
                return self._future.result()
            except BrokenProcessPool:
                self._future = self._pool.start(self._payload)
        raise RefitFailedError(
            f"the refit process died {_ATTEMPTS_MAX} times in a row: is there enough memory? See the system's log."
        )


# -------------------------------------------------------------------------------------------------------- challengers


class _Job(NamedTuple):
    """A fit that waits for the process of challengers, or is under way in it."""

    kind: str
    payload: bytes
    reply: "Future[_Reply]"


class _ChallengerTicket(Generic[_Fitted]):
    """A challenger's fit: waiting, under way or done."""

    __slots__ = ("_fitted_from", "_job", "_pool")

    def __init__(self, pool: ProcessRefitPool, job: _Job, fitted_from: Callable[[bytes], _Fitted]) -> None:
        self._pool = pool
        self._job = job
        self._fitted_from = fitted_from

    def result(self) -> _Fitted:
        """Return what was fitted: wait for a fit under way, and do here what still waits (the same bytes).

        Raises ValueError if the request is beyond the limits of what it asks for.
        """
        begun = time.monotonic()
        kind, payload, future = self._job
        if future.cancel():
            reply = self._pool.fit_here(lambda: _answered(kind, payload))
            self._pool.count(kind, reply.cpu_s)
        else:
            reply = future.result()
        self._pool.tell_waited(time.monotonic() - begun)
        if reply.refusal is not None:
            raise ValueError(reply.refusal)
        return self._fitted_from(reply.fitted)


class _ChallengerLane:
    """One process, one fit at a time; the rest waits here, where it can be taken back.

    An executor moves up to two fits beyond the one under way to where they cannot be cancelled any more: a takeover
    would wait for all three.
    """

    def __init__(self, count_cpu: Callable[[str, float], None]) -> None:
        self._count_cpu = count_cpu
        self._waiting: PriorityQueue[tuple[int, int, _Job | None]] = PriorityQueue()
        self._arrivals = count()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._child: tuple[BaseProcess, Connection] | None = None

    def start(self, kind: str, payload: bytes) -> _Job:
        """Put a fit into the queue."""
        job = _Job(kind, payload, Future())
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

    def _asked(self, job: _Job) -> _Reply:
        """Ask the process; one that died is replaced and asked again."""
        question = msgspec.msgpack.encode((job.kind, job.payload))
        for _ in range(_ATTEMPTS_MAX):
            try:
                pipe = self._pipe()
                pipe.send_bytes(question)
                return msgspec.msgpack.decode(pipe.recv_bytes(), type=_Reply)
            except (EOFError, OSError):
                with self._lock:
                    self._end_child()
        raise RefitFailedError(
            f"the process of challengers died {_ATTEMPTS_MAX} times in a row: is there enough memory? "
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
                process = context.Process(target=_answer_challengers, args=(there,), name="challengers", daemon=True)
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


def _answer_challengers(pipe: Connection) -> None:
    """Fit what comes through a pipe, until it breaks."""
    # A stop that is sent to all processes ends this one at once: nothing waits for it that is not asked for again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stand_back(_NICENESS_OF_CHALLENGERS)
    while True:
        try:
            kind, payload = msgspec.msgpack.decode(pipe.recv_bytes(), type=tuple[str, bytes])
            pipe.send_bytes(msgspec.msgpack.encode(_answered(kind, payload)))
        except (EOFError, OSError):
            return


def _answered(kind: str, payload: bytes) -> _Reply:
    """Fit what a challenger's request describes, in this thread."""
    # So that loading scikit-learn is not taken for a fit.
    from worker.core.maintenance import halving_fit  # noqa: F401, PLC0415 - see above; only these processes need it

    begun_s = time.thread_time()
    try:
        fitted, refusal = _CHALLENGERS[kind].from_bytes(payload).fit().to_bytes(), None
    except ValueError as error:
        fitted, refusal = b"", str(error)
    return _Reply(fitted, time.thread_time() - begun_s, refusal)


# ---------------------------------------------------------------------------------------------------------- detectors


def _packed(request: SvmRequest) -> bytes:
    """Return a request as the bytes that cross."""
    rows = np.ascontiguousarray(request.rows, dtype="<f4")
    return msgspec.msgpack.encode(_SvmPayload(rows.tobytes(), rows.shape[1], request.nu, request.gamma_factor))


def _prepare_child() -> None:
    """Make a good child: leave signals to the parent, stand back, and go when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _stand_back(_NICENESS)


def _stand_back(niceness: int) -> None:
    """Yield to what is more urgent, and go when the parent is gone."""
    if hasattr(os, "nice"):
        os.nice(niceness)
    threading.Thread(target=_leave_with_parent, name="leave-with-parent", daemon=True).start()


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(0)


def _fit_forest(request: ForestRequest) -> tuple[FittedModel, float]:
    """Return the forest that is asked for, and its CPU seconds."""
    begun_s = time.thread_time()
    return fit_request(request), time.thread_time() - begun_s


def _fit_svm(payload: bytes) -> bytes:
    """Return the `_Reply` to what a payload describes. An empty one only loads what a fit needs."""
    # scikit-learn takes a second to load, and only these processes need it.
    from worker.core.detectors.svm_fit import fit_svm  # noqa: PLC0415 - see above

    if not payload:
        return b""
    begun_s = time.thread_time()
    wanted = msgspec.msgpack.decode(payload, type=_SvmPayload)
    rows = np.frombuffer(wanted.rows, dtype="<f4").reshape(-1, wanted.features)
    fitted = fit_svm(rows, nu=wanted.nu, gamma_factor=wanted.gamma_factor).to_bytes()
    return msgspec.msgpack.encode(_Reply(fitted, time.thread_time() - begun_s))
