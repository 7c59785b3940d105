"""What the processes do that fit beside the path of events: one-class SVMs, and challengers.

scikit-learn takes more than a second to load, and only these need it.
"""

import os
import signal
import threading
import time
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from worker.core.detectors.refit import SvmRequest
from worker.core.maintenance.challengers import BoostedRequest, LinearRequest
from worker.core.maintenance.halving import HalvingRequest

_NICENESS = 5
"""Events come before refits when the cores are short."""
_NICENESS_OF_CHALLENGERS = 10
"""And refits of detectors before those of challengers."""

CHALLENGERS: dict[str, type[BoostedRequest] | type[LinearRequest] | type[HalvingRequest]] = {
    "linear": LinearRequest,
    "boosted": BoostedRequest,
    "halving": HalvingRequest,
}
"""By urgency: what takes less time goes first; a search of options may take as long as twenty fits."""


class SvmPayload(msgspec.Struct, array_like=True, frozen=True):
    """A request as it crosses: rows are float32, little-endian, row by row."""

    rows: bytes
    features: int
    nu: float
    gamma_factor: float


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """What comes back of a fit."""

    fitted: bytes
    cpu_s: float
    refusal: str | None = None
    """Why the request cannot be answered, if so."""


def answer_challengers(pipe: Connection) -> None:
    """Fit what comes through a pipe, until it breaks."""
    # A stop that is sent to all processes ends this one at once: nothing waits for it that is not asked for again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stand_back(_NICENESS_OF_CHALLENGERS)
    while True:
        try:
            kind, payload = msgspec.msgpack.decode(pipe.recv_bytes(), type=tuple[str, bytes])
            pipe.send_bytes(msgspec.msgpack.encode(answered(kind, payload)))
        except (EOFError, OSError):
            return


def answered(kind: str, payload: bytes) -> Reply:
    """Fit what a challenger's request describes, in this thread."""
    # So that loading scikit-learn is not taken for a fit.
    from worker.core.maintenance import halving_fit  # noqa: F401, PLC0415 - see above; only these processes need it

    begun_s = time.thread_time()
    try:
        fitted, refusal = CHALLENGERS[kind].from_bytes(payload).fit().to_bytes(), None
    except ValueError as error:
        fitted, refusal = b"", str(error)
    return Reply(fitted, time.thread_time() - begun_s, refusal)


def packed(request: SvmRequest) -> bytes:
    """Return a request as the bytes that cross."""
    rows = np.ascontiguousarray(request.rows, dtype="<f4")
    return msgspec.msgpack.encode(SvmPayload(rows.tobytes(), rows.shape[1], request.nu, request.gamma_factor))


def prepare_child() -> None:
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


def fit_packed_svm(payload: bytes) -> bytes:
    """Return the `Reply` to what a payload describes. An empty one only loads what a fit needs."""
    # scikit-learn takes a second to load, and only these processes need it.
    from worker.core.detectors.svm_fit import fit_svm  # noqa: PLC0415 - see above

    if not payload:
        return b""
    begun_s = time.thread_time()
    wanted = msgspec.msgpack.decode(payload, type=SvmPayload)
    rows = np.frombuffer(wanted.rows, dtype="<f4").reshape(-1, wanted.features)
    fitted = fit_svm(rows, nu=wanted.nu, gamma_factor=wanted.gamma_factor).to_bytes()
    return msgspec.msgpack.encode(Reply(fitted, time.thread_time() - begun_s))
