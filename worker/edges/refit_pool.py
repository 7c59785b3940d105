"""Fits models in processes of their own: a fit of a forest holds the interpreter lock for most of its 50 ms.

Rule 1: what crosses to the child and back is bytes of our own formats; nothing is unpickled that describes a model.
Rule 2: a request determines its model, so a fit that died with its process is simply asked for again.
Rule 3: no child outlives this process, however it ends: each watches its parent and goes when it is gone.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Self

import msgspec
import numpy as np

from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.refit import FittedModel, ForestRequest, RefitRequest, SvmRequest
from worker.core.detectors.svm_arrays import SvmArrays

_ATTEMPTS_MAX = 3
_NICENESS = 5
"""Events come before refits when the cores are short."""


class RefitFailedError(Exception):
    """A fit did not come back; the message says what was tried."""


class _ForestPayload(msgspec.Struct, array_like=True, frozen=True, tag="forest"):
    """A request as it crosses: rows are float32, little-endian, row by row."""

    rows: bytes
    features: int
    trees: int
    sample_rows: int
    seed: int


class _SvmPayload(msgspec.Struct, array_like=True, frozen=True, tag="svm"):
    """As above."""

    rows: bytes
    features: int
    nu: float
    gamma_factor: float


class ProcessRefitPool:
    """Implements `ports.RefitPool`."""

    def __init__(self, processes: int, waited: Callable[[float], None] = lambda _: None) -> None:
        """Take the number of processes, and whom to tell how many seconds events had to wait for a fit."""
        self._processes = processes
        self.waited = waited
        self._executor = self._start()

    def submit(self, request: RefitRequest) -> "_Ticket":
        """Start a fit; never waits."""
        return _Ticket(self, _packed(request), ForestArrays if isinstance(request, ForestRequest) else SvmArrays)

    def warm(self) -> None:
        """Start the processes and let them import scikit-learn, so that the first fit does not wait for it."""
        for _ in range(self._processes):
            self._executor.submit(_fit, b"")

    def close(self) -> None:
        """Stop; fits under way are not waited for longer than they take."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, payload: bytes) -> "Future[bytes]":
        """Start one fit, on new processes if the old ones have died."""
        try:
            return self._executor.submit(_fit, payload)
        except BrokenProcessPool:
            self._executor = self._start()
            return self._executor.submit(_fit, payload)

    def _start(self) -> ProcessPoolExecutor:
        # `spawn`: a fork would copy librdkafka's threads half-way.
        return ProcessPoolExecutor(self._processes, mp_context=get_context("spawn"), initializer=_prepare_child)


class _Ticket:
    """A fit under way in another process."""

    __slots__ = ("_future", "_kind", "_payload", "_pool")

    def __init__(self, pool: ProcessRefitPool, payload: bytes, kind: type[ForestArrays] | type[SvmArrays]) -> None:
        self._pool = pool
        self._payload = payload
        self._kind = kind
        self._future = pool.start(payload)

    def result(self) -> FittedModel:
        """Return the model: wait for a fit under way, and do here what still waits in the queue (the same bytes)."""
        begun = time.monotonic()
        reply = _fit(self._payload) if self._future.cancel() else self._payload_of_reply()
        model = self._kind.from_bytes(reply)
        self._pool.waited(time.monotonic() - begun)
        return model

    def _payload_of_reply(self) -> bytes:
        """Wait; a fit whose process died is started again."""
        for _ in range(_ATTEMPTS_MAX):
            try:
                return self._future.result()
            except BrokenProcessPool:
                self._future = self._pool.start(self._payload)
        raise RefitFailedError(
            f"the refit process died {_ATTEMPTS_MAX} times in a row: is there enough memory? See the system's log."
        )


def _packed(request: RefitRequest) -> bytes:
    """Return a request as the bytes that cross."""
    rows = np.ascontiguousarray(request.rows, dtype="<f4")
    crossing, features = rows.tobytes(), rows.shape[1]
    if isinstance(request, ForestRequest):
        payload = _ForestPayload(crossing, features, request.trees, request.sample_rows, request.seed)
        return msgspec.msgpack.encode(payload)
    return msgspec.msgpack.encode(_SvmPayload(crossing, features, request.nu, request.gamma_factor))


def _prepare_child() -> None:
    """Make a good child: leave signals to the parent, stand back, and go when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    threading.Thread(target=_leave_with_parent, name="leave-with-parent", daemon=True).start()


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(0)


def _fit(payload: bytes) -> bytes:
    """Fit what a payload describes. An empty one only loads what a fit needs."""
    # scikit-learn takes a second to load, and only these processes need it.
    from worker.core.detectors.forest_fit import fit_request  # noqa: PLC0415 - see above

    if not payload:
        return b""
    wanted = msgspec.msgpack.decode(payload, type=_ForestPayload | _SvmPayload)
    rows = np.frombuffer(wanted.rows, dtype="<f4").reshape(-1, wanted.features)
    if isinstance(wanted, _ForestPayload):
        return fit_request(ForestRequest(rows, wanted.trees, wanted.sample_rows, wanted.seed)).to_bytes()
    return fit_request(SvmRequest(rows, wanted.nu, wanted.gamma_factor)).to_bytes()
