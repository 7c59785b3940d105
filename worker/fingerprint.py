"""What state depends on beside the input: the options of the engine, and what computes."""

import platform
from hashlib import blake2b
from importlib.metadata import version

import msgspec
from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]  # it comes with numba, without types

from worker.core.options import EngineOptions
from worker.core.snapshot import FORMAT

_LIBRARIES = ("msgspec", "numba", "numpy", "river", "scikit-learn", "scipy")
"""Those whose arithmetic ends up in state. `llvmlite` comes with numba."""


def fingerprint(options: EngineOptions, predictions_topic: str) -> str:
    """Return what must be equal for stored state to mean the same: format, options, and the name in the evidence."""
    text = f"{FORMAT} {predictions_topic} {options_text(options)}"
    return blake2b(text.encode(), digest_size=8).hexdigest()


def options_text(options: EngineOptions) -> str:
    """Return the options as JSON."""
    return msgspec.json.encode(options).decode()


def environment() -> str:
    """Return what must be equal for a replay to give the same bits for certain: libraries, Python, CPU."""
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    machine = [platform.python_version(), platform.machine(), get_host_cpu_name()]
    return blake2b(" ".join([*libraries, *machine]).encode(), digest_size=8).hexdigest()
