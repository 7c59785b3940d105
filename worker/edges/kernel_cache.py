"""What numba has compiled, kept in a folder from one start to the next: where that is, and whether it is all there.

To load all kernels takes a second of CPU; to compile them, a minute. A file beside them, the stamp, says that a process
has had all of them compiled, from which source, by which versions and for which CPU. Where it still holds, a start
loads nothing in advance: each kernel is loaded when it is first called, in some 10 ms.

Rule 1: nothing is compiled while events wait: it takes seconds for each kernel. A stamp that is missing, or differs in
        anything that numba asks before it uses what it has kept, means that all kernels are called once before the
        start goes on: those that are there are loaded, the others compiled.
Rule 2: numba does not see that a kernel which another module's kernel calls has changed, as it may in an upgrade. So
        what was compiled from other source, its own or that of what it imports, is removed first.
Rule 3: one process at a time compiles for a folder, the others wait for it and then find everything there. numba's own
        index of a kernel would lose entries of processes that write at the same time.
"""

import ast
import fcntl
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Self

import msgspec

from worker.core import kernels

PLACE_NEEDED = "set NUMBA_CACHE_DIR to a folder that this user may write to"
"""What to do where there is none."""

_STAMP = "modelvigil-kernels.json"
_KINDS = (".nbi", ".nbc")
"""numba's files: an index for each kernel, code for each kernel and types of arguments. Names begin with the module."""
_DIGEST_BYTES = 16


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said to be complete."""

    basis: str
    """A digest of everything that decides what is compiled."""
    sizes: dict[str, int]
    """Files and their bytes."""
    modules: dict[str, str]
    """Modules of kernels, and a digest of the source that their code depends on."""


def kernel_folder() -> str:
    """Return where numba will keep what it compiles; empty if it may write to none of its places: then it refuses.

    Loads no numba, so that it can be asked for before, and where numba has refused.
    """
    beside = _core() / "kernels" / "__pycache__"
    own, caches = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    places = [*([Path(own)] if own else []), beside, Path(caches) if caches else Path.home() / ".cache"]
    return next((str(place) for place in places if _is_writable(place)), "")


def _core() -> Path:
    """Return the folder of the core's source."""
    assert kernels.__file__ is not None
    return Path(kernels.__file__).parents[1]


def _is_compiled(name: str) -> bool:
    return name.endswith(_KINDS)


def _is_writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


class KernelCache:
    """The folder of compiled kernels, and the stamp in it."""

    def __init__(self, folder: Path, core: Path) -> None:
        """Take the folder, and that of the source. Loads numba."""
        self.folder = folder
        self._core = core
        self._basis = _basis(core)

    @classmethod
    def of_this_program(cls) -> Self:
        """Return that of the kernels of this program, on this machine."""
        # A process that only asks where the folder is does without numba.
        from worker.core.kernels import scale  # noqa: PLC0415 - see above

        folder = scale.scale_rows.stats.cache_path
        assert folder is not None
        return cls(Path(folder), _core())

    def is_complete(self) -> bool:
        """Tell whether the stamp holds: a kernel that is called now is loaded, not compiled."""
        stamp = self._stamp()
        return stamp is not None and stamp.basis == self._basis and stamp.sizes.items() <= self._sizes().items()

    def complete(self, compile_all: Callable[[], None], say: Callable[[str], None]) -> None:
        """Return when the stamp holds: have everything compiled, or loaded, if it does not, and say so.

        If another process is about it, wait; what it has compiled is not even loaded then.
        """
        if self.is_complete():
            return
        say(f"compiling kernels that are missing in {self.folder}: a minute or two at the first start of a version")
        with self._only_one(partial(say, "waiting for another process, which compiles them already")):
            if self.is_complete():
                return
            modules = _module_digests(self._core / "kernels")
            self._remove_stale(modules)
            compile_all()
            if not self._write(_Stamp(self._basis, self._sizes(), modules)):
                say(f"{self.folder} cannot be written to: the next start will do so again")

    def _remove_stale(self, modules: dict[str, str]) -> None:
        """Remove what was compiled from other source, or from nobody knows which."""
        stamp = self._stamp()
        known = {} if stamp is None else stamp.modules
        stale = {name for name, digest in modules.items() if known.get(name) != digest}
        # Names, not files: a link into an image that is there no more goes, too.
        for place in self.folder.iterdir():
            if _is_compiled(place.name) and place.name.partition(".")[0] in stale:
                place.unlink(missing_ok=True)

    def _stamp(self) -> _Stamp | None:
        try:
            return msgspec.json.decode((self.folder / _STAMP).read_bytes(), type=_Stamp)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _write(self, stamp: _Stamp) -> bool:
        draft = self.folder / f"{_STAMP}.{os.getpid()}"
        try:
            draft.write_bytes(msgspec.json.encode(stamp))
            draft.replace(self.folder / _STAMP)
        except OSError:
            draft.unlink(missing_ok=True)
            return False
        return True

    def _sizes(self) -> dict[str, int]:
        sizes = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # A link into an image that is there no more, or what another process has just removed, is no file.
                with suppress(FileNotFoundError):
                    if _is_compiled(entry.name):
                        sizes[entry.name] = entry.stat().st_size
        return sizes

    @contextmanager
    def _only_one(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of the folder, which ends with its process; without one where the file system has none."""
        place = os.open(self.folder, os.O_RDONLY)
        try:
            _lock(place, waiting)
            yield
        finally:
            os.close(place)


def _lock(place: int, waiting: Callable[[], None]) -> None:
    # Some network file systems lock no folders: then two processes may do the same work.
    with suppress(OSError):
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(place, fcntl.LOCK_EX)


def _basis(core: Path) -> str:
    """Return a digest of what numba asks before it uses what it has kept, and of what decides which types there are.

    The first is the source of a kernel, the versions, and the CPU; the second is any part of the core. Files count by
    content: an image of a container does not keep their times.
    """
    import llvmlite  # noqa: PLC0415 - loaded by numba, see `of_this_program`
    import numba  # noqa: PLC0415 - as above
    import numpy as np  # noqa: PLC0415 - as above
    from llvmlite import binding  # noqa: PLC0415 - as above

    config = vars(numba.config)
    cpu, features = config["CPU_NAME"], config["CPU_FEATURES"]
    own = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"}
    asked = (
        (sys.version, platform.machine(), sys.platform),
        (numba.__version__, llvmlite.__version__, np.__version__),
        (binding.get_default_triple(), sorted(own.items())),
        # As numba asks: code for a CPU that is named is the same wherever it runs.
        cpu or binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten() if features is None else features,
    )
    return _digest(repr(asked).encode(), *(path.read_bytes() for path in sorted(core.rglob("*.py"))))


def _digest(*parts: bytes) -> str:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _module_digests(folder: Path) -> dict[str, str]:
    """Return a digest for each module of kernels: of its source, and of that of all it imports, directly or not."""
    source = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.py"))}
    imports = {name: _imported(content) & source.keys() for name, content in source.items()}
    return {name: _digest(*(source[each] for each in sorted(_reached(name, imports)))) for name in source}


def _imported(source: bytes) -> set[str]:
    """Return the last parts of all names that are imported, or imported from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {(node.module or "").rpartition(".")[2], *(each.name for each in node.names)}
        elif isinstance(node, ast.Import):
            names |= {each.name.rpartition(".")[2] for each in node.names}
    return names


def _reached(name: str, imports: dict[str, set[str]]) -> set[str]:
    """Return a module and all that it imports, directly or not."""
    reached, ahead = {name}, [name]
    while ahead:
        new = imports[ahead.pop()] - reached
        reached |= new
        ahead += new
    return reached
