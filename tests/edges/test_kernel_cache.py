"""The cache of compiled kernels: nothing is compiled while events wait, and nothing stale is used."""

import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numba
import pytest
from llvmlite import binding

from worker import app
from worker.cli_options import ExitCode, Failure, explained
from worker.cluster import ClusterIdentity
from worker.core import kernels
from worker.edges import kernel_cache
from worker.edges.kernel_cache import KernelCache
from worker.settings import load_settings

_SOURCE = {
    "leaf": "X = 1",
    "caller": "from worker.core.kernels.leaf import X",
    "callers_caller": "from worker.core.kernels import caller",
    "other": "import numba",
}


class Corner:
    """Source of some modules of kernels, a folder for what is compiled of them, and a compiler that counts."""

    def __init__(self, root: Path) -> None:
        self.core, self.folder = root / "core", root / "compiled"
        (self.core / "kernels").mkdir(parents=True)
        self.folder.mkdir()
        for name, source in _SOURCE.items():
            self.write(name, source)
        (self.core / "engine.py").write_text("")
        self.compiled: list[set[str]] = []
        self.said: list[str] = []

    def write(self, module: str, source: str) -> None:
        """Write a module of kernels."""
        (self.core / "kernels" / f"{module}.py").write_text(source)

    def compile_all(self) -> None:
        """Write what is missing, as numba does, and note what that was."""
        missing = {name for name in _SOURCE if not (self.folder / f"{name}.f-1.py311.nbi").exists()}
        for name in missing:
            (self.folder / f"{name}.f-1.py311.nbi").write_text("index")
            (self.folder / f"{name}.f-1.py311.1.nbc").write_text("code")
        self.compiled.append(missing)

    def start(self) -> None:
        """Do what a start does."""
        KernelCache(self.folder, self.core).complete(self.compile_all, self.said.append)

    def is_complete(self) -> bool:
        """Ask anew, as another process would."""
        return KernelCache(self.folder, self.core).is_complete()


@pytest.fixture
def corner(tmp_path: Path) -> Corner:
    """A corner where nothing is compiled yet."""
    return Corner(tmp_path)


def test_only_the_first_start_compiles(corner: Corner) -> None:
    """It says what it does, where, and how often; the next ones say and do nothing."""
    assert not corner.is_complete()
    corner.start()
    assert corner.compiled == [set(_SOURCE)]
    assert len(corner.said) == 1
    assert str(corner.folder) in corner.said[0]
    corner.start()
    assert len(corner.compiled) == len(corner.said) == 1


def _edit_core(corner: Corner) -> None:
    (corner.core / "engine.py").write_text("another type of arguments")


def _lose_code(corner: Corner) -> None:
    (corner.folder / "leaf.f-1.py311.1.nbc").unlink()


def _cut_index(corner: Corner) -> None:
    (corner.folder / "leaf.f-1.py311.nbi").write_text("in")


def _spoil_stamp(corner: Corner) -> None:
    (stamp,) = corner.folder.glob("*.json")
    stamp.write_bytes(stamp.read_bytes()[:-9])


@pytest.mark.parametrize("change", [_edit_core, _lose_code, _cut_index, _spoil_stamp])
def test_any_change_makes_a_start_call_every_kernel(corner: Corner, change: Callable[[Corner], None]) -> None:
    """Before it goes on; after that the stamp holds again."""
    corner.start()
    change(corner)
    corner.start()
    assert len(corner.compiled) == 2
    assert corner.is_complete()


@pytest.mark.parametrize("name", ["NUMBA_OPT", "NUMBA_CPU_NAME"])
def test_other_settings_of_numba_are_other_code(corner: Corner, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What was compiled under others is not what would be used; where it is kept makes no difference."""
    corner.start()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")
    assert corner.is_complete()
    monkeypatch.setenv(name, "1")
    assert not corner.is_complete()


def test_code_for_a_cpu_that_is_named_is_used_on_others(corner: Corner, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is in the container image, which is built elsewhere; without a name the CPU counts."""
    corner.start()
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "another")
    assert not corner.is_complete()
    monkeypatch.setattr(numba.config, "CPU_NAME", "x86-64-v3")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    corner.start()
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "a third one")
    assert corner.is_complete()


def test_code_that_calls_changed_code_is_compiled_anew(corner: Corner) -> None:
    """Numba would use it: the source of the caller is the same."""
    corner.start()
    corner.write("leaf", "X = 2")
    corner.start()
    assert corner.compiled[1:] == [{"leaf", "caller", "callers_caller"}]


def test_links_into_an_image_that_is_gone_are_no_code(corner: Corner) -> None:
    """A volume outlives the image that had filled it with links: the next image starts, and clears them away."""
    corner.start()
    (corner.folder / "leaf.f-1.py311.nbi").unlink()
    (corner.folder / "leaf.f-1.py311.nbi").symlink_to("of an older image")
    corner.write("leaf", "X = 2")
    corner.start()
    assert "leaf" in corner.compiled[1]
    assert corner.is_complete()
    assert not (corner.folder / "leaf.f-1.py311.nbi").is_symlink()


def test_code_of_unknown_source_is_compiled_anew(corner: Corner) -> None:
    """An older version, which wrote no stamp, may have left it."""
    corner.compile_all()
    corner.start()
    assert corner.compiled[1:] == [set(_SOURCE)]


def test_one_process_compiles_and_the_others_wait(corner: Corner) -> None:
    """Whoever has waited finds everything there, and compiles nothing."""
    begun, may_end = threading.Event(), threading.Event()

    def slowly() -> None:
        begun.set()
        may_end.wait(20)
        corner.compile_all()

    first = threading.Thread(target=KernelCache(corner.folder, corner.core).complete, args=(slowly, corner.said.append))
    first.start()
    assert begun.wait(20)

    def say(text: str) -> None:
        corner.said.append(text)
        if "waiting" in text:
            may_end.set()

    KernelCache(corner.folder, corner.core).complete(corner.compile_all, say)
    first.join()
    assert corner.compiled == [set(_SOURCE)]
    assert may_end.is_set()


def test_a_stamp_that_cannot_be_written_is_told(corner: Corner) -> None:
    """The worker starts all the same, and so does the next one, after the same work."""
    (corner.folder / "modelvigil-kernels.json").mkdir()
    corner.start()
    assert "cannot be written" in corner.said[-1]
    assert not corner.is_complete()


def test_all_kernels_are_where_the_cache_looks() -> None:
    """The stamp is of one folder: what is compiled elsewhere in the core would be compiled while events wait."""
    assert kernels.__file__ is not None
    folder = Path(kernels.__file__).parent
    elsewhere = [path for path in folder.parent.rglob("*.py") if path.parent != folder]
    assert not [
        path for path in elsewhere if re.search(r"^\s*(import numba|from numba|@.*jit)", path.read_text(), re.MULTILINE)
    ]


@pytest.mark.timeout(600)  # where nobody has compiled anything before
def test_with_the_stamp_nothing_is_compiled() -> None:
    """In a new process every kernel comes from the cache, on its first call."""
    program = """
        from numba.core.dispatcher import Dispatcher
        from worker.core.warm_up import compile_kernels
        import gc
        compile_kernels()
        stats = [each.stats for each in gc.get_objects() if isinstance(each, Dispatcher)]
        ours = [each for each in stats if each.cache_path and "kernels" in each.cache_path]
        for counts in ([each.cache_hits for each in ours], [each.cache_misses for each in ours]):
            print(sum(sum(each.values()) for each in counts))
    """
    subprocess.run([sys.executable, "-m", "worker", "compile-kernels"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    hits, misses = map(int, done.stdout.split())
    assert hits > 50
    assert misses == 0


def test_kernels_are_there_before_the_group_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that compiles for a minute would be thrown out of the group, or make the others wait."""

    class Compiling(Exception):  # noqa: N818 - not an error, but a mark
        pass

    class Cache:
        @classmethod
        def of_this_program(cls) -> "Cache":
            return cls()

        def complete(self, *_: object) -> None:
            raise Compiling

    def connect(*_: object) -> None:
        raise AssertionError("connected before the kernels were there")

    monkeypatch.setattr(app, "KernelCache", Cache)
    monkeypatch.setattr(app, "connect", connect)
    monkeypatch.setattr(app, "refuse_missing_topics", lambda _: None)
    monkeypatch.setattr(app, "refuse_contradicting_topics", lambda _: None)
    monkeypatch.setattr(app, "identify", lambda _: ClusterIdentity("cluster", {}, {"feedback": 1}))
    settings = load_settings(None, {}, {"ops.port": 0, "artefacts.url": ""})
    with pytest.raises(Compiling):
        app.run_worker(settings)


@pytest.mark.parametrize("folder", ["", "/somewhere"])
def test_where_nothing_can_be_kept_a_line_says_so(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Numba refuses as soon as a kernel is imported; any other error stays what it is."""
    monkeypatch.setattr(kernel_cache, "kernel_folder", lambda: folder)
    with pytest.raises(RuntimeError if folder else Failure) as caught, explained():
        raise RuntimeError("cannot cache function 'scale_rows': no locator available")
    if isinstance(caught.value, Failure):
        assert caught.value.code == ExitCode.CONFIGURATION
        assert "NUMBA_CACHE_DIR" in caught.value.message
