"""Servers from Debian's packages, without root and without a daemon: those on the PATH, or else unpacked, once.

    prometheus = installed("prometheus")
    subprocess.Popen([prometheus.program("prometheus"), ...], env={**os.environ, **prometheus.environment})

What a package needs and the machine lacks is unpacked beside it, into one folder of the user's cache. Its record is
written before the folder gets its name: a fetch that was cut short is not taken for a complete one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CACHE = Path.home() / ".cache" / "modelvigil" / "debian"
_RECORD = "record.json"
_FOLDERS_OF_PROGRAMS = ("usr/bin", "usr/sbin", "bin", "sbin")
_PROGRAMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "prometheus": (("prometheus",), ("promtool",)),
    "prometheus-alertmanager": (("prometheus-alertmanager", "alertmanager"),),
}
"""By package, its programs under all names that they have; only such packages are looked for on the PATH."""
_FETCH_SECONDS_MAX = 100


class DebianError(RuntimeError):
    """A server cannot be had here; the message says why and what to install."""


class Installed(NamedTuple):
    """Where packages are. `root` stands for `/` of the machine that they would be installed on."""

    root: Path
    environment: Mapping[str, str]
    """What their programs need in addition to that of this process."""

    def program(self, *names: str) -> Path:
        """Return a program, by the first of its names that is there. Raises DebianError."""
        for name in names:
            for folder in _FOLDERS_OF_PROGRAMS:
                if (self.root / folder / name).is_file():
                    return self.root / folder / name
            if self.root == Path("/") and (found := shutil.which(name)):
                return Path(found)
        raise DebianError(f"none of {', '.join(names)} is in {self.root}")

    def libraries(self, name: str) -> Path:
        """Return a folder below the libraries, for example that of rsyslog's modules. Raises DebianError."""
        for folder in ("usr/lib", "lib"):
            for found in sorted((self.root / folder).glob(f"*-linux-*/{name}")):
                return found
        raise DebianError(f"there is no library folder {name} in {self.root}")


def installed(*packages: str, say: Callable[[str], None] | None = None, cache: Path = CACHE) -> Installed:
    """Return where the packages are; fetch them if need be, which takes seconds and happens once.

    Raises:
        DebianError: they are not there and cannot be fetched.
    """
    if all(package in _PROGRAMS and _on_path(_PROGRAMS[package]) for package in packages):
        return Installed(Path("/"), {})
    for tool in ("apt-get", "dpkg-deb", "dpkg-query"):
        if shutil.which(tool) is None:
            raise DebianError(f"{_missing(packages)}: this is no Debian ({tool} is missing), so install them yourself")
    if not _not_installed(packages):
        return Installed(Path("/"), {})
    folder = cache / f"{_release()}-{'-'.join(sorted(packages))}"
    if not _is_complete(folder):
        _fetch(packages, folder, say or _to_standard_error)
    libraries = os.pathsep.join(map(str, _library_folders(folder)))
    return Installed(folder, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def _missing(packages: Iterable[str]) -> str:
    return f"{' and '.join(packages)} cannot be found"


def _to_standard_error(message: str) -> None:
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"{message}\n")


def _on_path(programs: Sequence[Sequence[str]]) -> bool:
    return all(any(shutil.which(name) for name in names) for names in programs)


def _not_installed(packages: Iterable[str]) -> list[str]:
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages]
    answer = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    there = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in there]


def _release() -> str:
    """Name what decides which packages fit: the distribution, its version, and the machine's architecture."""
    told = dict(
        re.findall(r"^(\w+)=\"?([^\"\n]*)\"?$", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    )
    return f"{told.get('ID', 'debian')}{told.get('VERSION_ID', '')}-{os.uname().machine}"


def _is_complete(folder: Path) -> bool:
    """Whether all files of the record are there, with their sizes."""
    try:
        sizes: dict[str, int] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _library_folders(folder: Path) -> list[Path]:
    return sorted({found.parent for each in ("usr/lib", "lib") for found in (folder / each).glob("*-linux-*/*.so*")})


def _fetch(packages: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as temporary:
        archives, unpacked = Path(temporary, "archives"), Path(temporary, "unpacked")
        archives.mkdir()
        unpacked.mkdir()
        wanted = _wanted(packages, say)
        say(f"Fetching {' and '.join(packages)} from Debian ({len(wanted)} packages, only this once) ...")
        _run(["apt-get", "download", "-o", "APT::Sandbox::User=root", *wanted], packages, archives)
        for archive in sorted(archives.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(archive), str(unpacked)], packages, archives)
        files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
        sizes = {str(path.relative_to(unpacked)): path.stat().st_size for path in files}
        record = {"archives": sorted(path.name for path in archives.iterdir()), "sizes": sizes}
        (unpacked / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        _take_over(unpacked, folder)


def _take_over(unpacked: Path, folder: Path) -> None:
    """Give the folder its name, unless another process was faster."""
    if folder.exists() and not _is_complete(folder):
        folder.rename(unpacked.with_name("damaged"))
    try:
        unpacked.rename(folder)
    except OSError:
        if not _is_complete(folder):
            raise


def _wanted(packages: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Return what an installation would add to this machine, as apt resolves it."""
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", "-o", "Debug::NoLocking=1", *packages]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and os.geteuid() == 0:
        say("Asking Debian for its list of packages ...")
        _run(["apt-get", "update", "--quiet"], packages, Path("/"))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DebianError(f"{_missing(packages)}: {_reason(done.stderr)}; as root: apt-get update")
    return re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE)


def _run(command: Sequence[str], packages: Sequence[str], folder: Path) -> None:
    """Run a step of a fetch in a folder. Raises DebianError with what the program says."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=_FETCH_SECONDS_MAX)
    except subprocess.CalledProcessError as error:
        reason = _reason(error.stderr)
    except subprocess.TimeoutExpired:
        reason = f"{command[0]} took longer than {_FETCH_SECONDS_MAX} s"
    else:
        return
    install = f"apt-get install --no-install-recommends {' '.join(packages)}"
    raise DebianError(f"{_missing(packages)}, and not be fetched: {reason}; try again with a network, or {install}")


def _reason(stderr: str) -> str:
    lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
    return lines[0] if lines else (stderr.strip().splitlines() or ["no reason given"])[-1]
