"""What state depends on beside the input: the options of the engine, and what computes."""

import platform
from hashlib import blake2b
from importlib.metadata import version

import msgspec
from llvmlite.binding import get_host_cpu_name

from worker.core.options import EngineOptions
from worker.core.snapshot import FORMAT

_LIBRARIES = ("msgspec", "numba", "numpy", "river", "scikit-learn", "scipy")
"""Those whose arithmetic ends up in state. `llvmlite` comes with numba."""


def fingerprint(options: EngineOptions, predictions_topic: str) -> str:
    """Return what must be equal for stored state to mean the same: format, options, and the name in the evidence.

    The options of alerts are left out: they say what becomes of raised conditions, and any may come next.
    """
    named = msgspec.to_builtins(options)
    del named["alerts"]
    return _hash(f"{FORMAT} {predictions_topic} {msgspec.json.encode(named).decode()}")


def policy(options: EngineOptions) -> str:
    """Return what must be equal for a journal to mean the same beside that: the options of alerts."""
    return _hash(msgspec.json.encode(options.alerts).decode())


def options_text(options: EngineOptions) -> str:
    """Return the options as JSON."""
    return msgspec.json.encode(options).decode()


def environment() -> str:
    """Return what must be equal for a replay to give the same bits for certain: libraries, Python, CPU."""
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    machine = [platform.python_version(), platform.machine(), get_host_cpu_name()]
    return _hash(" ".join([*libraries, *machine]))


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
