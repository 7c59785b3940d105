"""How a process of ours starts another one of this program."""

import sys
from pathlib import Path

import worker


def own_program() -> list[str]:
    """Return the command to which arguments of `modelvigil` are added.

    With `-m` Python looks in the working directory first, and any folder called `worker` there would win. So `-P`
    forbids that, unless this process itself was started from the source tree.
    """
    package = Path(worker.__file__).resolve().parents[1]
    safe = [] if Path(sys.path[0] or ".").resolve() == package else ["-P"]
    return [sys.executable, *safe, "-m", "worker"]
