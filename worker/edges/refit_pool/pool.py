"""The pool: starts fits, and gives out tickets for what becomes of them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Generic, Self, TypeVar

import msgspec

from worker.core.detectors.forest_fit import fit_request
from worker.core.detectors.refit import FittedModel, ForestRequest, RefitRequest, RefitTicket, SvmRequest
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.maintenance.challengers import FitRequest
from worker.edges.refit_pool.challenger_lane import ATTEMPTS_MAX, ChallengerLane, Job, RefitFailedError
from worker.edges.refit_pool.children import CHALLENGERS, Reply, answered, fit_packed_svm, packed, prepare_child

_Fitted = TypeVar("_Fitted")


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
        self._challengers = ChallengerLane(self.count_in_child)

    def submit(self, request: RefitRequest) -> RefitTicket:
        """Start a fit; never waits."""
        if isinstance(request, SvmRequest):
            return _SvmTicket(self, packed(request))
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
        return sum(cpu_s.get(kind, 0.0) for kind in CHALLENGERS)

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
                    return self._executor.submit(fit_packed_svm, payload)
            # `spawn`: a fork would copy librdkafka's threads half-way.
            spawn = get_context("spawn")
            self._executor = ProcessPoolExecutor(self._processes, mp_context=spawn, initializer=prepare_child)
            return self._executor.submit(fit_packed_svm, payload)

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
        fitted = pool.fit_here(lambda: fit_packed_svm(payload)) if self._future.cancel() else self._awaited()
        reply = msgspec.msgpack.decode(fitted, type=Reply)
        pool.tell_detector("svm", reply.cpu_s, begun)
        return SvmArrays.from_bytes(reply.fitted)

    def _awaited(self) -> bytes:
        """Wait; a fit whose process died is started again."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return self._future.result()
            except BrokenProcessPool:
                self._future = self._pool.start(self._payload)
        raise RefitFailedError(
            f"the refit process died {ATTEMPTS_MAX} times in a row: is there enough memory? See the system's log."
        )


class _ChallengerTicket(Generic[_Fitted]):
    """A challenger's fit: waiting, under way or done."""

    __slots__ = ("_fitted_from", "_job", "_pool")

    def __init__(self, pool: ProcessRefitPool, job: Job, fitted_from: Callable[[bytes], _Fitted]) -> None:
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
            reply = self._pool.fit_here(lambda: answered(kind, payload))
            self._pool.count(kind, reply.cpu_s)
        else:
            reply = future.result()
        self._pool.tell_waited(time.monotonic() - begun)
        if reply.refusal is not None:
            raise ValueError(reply.refusal)
        return self._fitted_from(reply.fitted)


def _fit_forest(request: ForestRequest) -> tuple[FittedModel, float]:
    """Return the forest that is asked for, and its CPU seconds."""
    begun_s = time.thread_time()
    return fit_request(request), time.thread_time() - begun_s
