"""Looks at this machine: ports, folders, files of secrets. Changes nothing."""

import http.client
import os
import platform
import socket
from pathlib import Path
from typing import NamedTuple

from worker.doctor.facts import Machine, Port
from worker.edges.kernel_cache import kernel_folder
from worker.ops_settings import PORT
from worker.ports import ArtefactStoreError
from worker.settings import ARTEFACTS_FOLDER, Settings, SettingsError, with_secrets

_HEALTH_S = 1.0


class _Store(NamedTuple):
    why: str = ""
    tried: bool = True


def look(settings: Settings) -> Machine:
    """Return what there is."""
    store = _store(settings)
    return Machine(
        python=platform.python_version(),
        processors=_processors(),
        compiled_at=kernel_folder(),
        port=_port(settings),
        artefacts=store.why,
        artefacts_tried=store.tried,
        secrets=_secrets(settings),
    )


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _port(settings: Settings) -> Port:
    ops = settings.ops
    if ops.socket:
        folder = Path(ops.socket).absolute().parent
        return (
            Port("free") if _writable(folder) and folder.exists() else Port("impossible", f"{folder}: no such folder")
        )
    if ops.port == 0:
        return Port("free")
    port = ops.port if ops.port > 0 else PORT
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            ops.listen, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As a server does: what has just been closed is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno is None or isinstance(error, socket.gaierror | PermissionError):
            return Port("impossible", f"{ops.listen}:{port}: {error.strerror}")
        return Port("served" if _is_ours(ops.listen, port) else "taken", f"port {port}")
    return Port("free")


def _is_ours(host: str, port: int) -> bool:
    """Tell whether a worker serves there already."""
    connection = http.client.HTTPConnection("127.0.0.1" if host in {"", "0.0.0.0", "::"} else host, port, _HEALTH_S)  # noqa: S104 - compared, not bound to
    try:
        connection.request("GET", "/metrics")
        return b"modelvigil_" in connection.getresponse().read(1_000_000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _store(settings: Settings) -> _Store:
    url, maintenance = settings.artefacts.url, settings.engine.maintenance
    if not url or not (maintenance.enabled or any(own.enabled for own in maintenance.models)):
        return _Store()
    if "://" not in url:
        # The default folder is left out where it cannot be written to, and the worker says so.
        return _Store() if url == ARTEFACTS_FOLDER or _writable(Path(url)) else _Store(f"{url} cannot be written to")
    # fsspec takes 0.1 s to load.
    from worker.edges.artefacts import ArtefactStore  # noqa: PLC0415 - see above

    try:
        ArtefactStore(url, settings.artefacts.options).listed()
    except ArtefactStoreError as error:
        return _Store(" ".join(str(error).split()))
    return _Store(tried=False)


def _secrets(settings: Settings) -> str:
    try:
        with_secrets(settings)
    except SettingsError as error:
        return str(error)
    return ""
