"""Puts the parts together: the folder for sockets, the lifeline, processes, pages, and the supervisor over them."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from worker.edges.ops_http import OpsServer, OpsServerError
from worker.edges.telemetry import configure_logging
from worker.edges.threads import threads_for
from worker.own_program import own_program
from worker.settings import Settings, SettingsError
from worker.supervisor.lifeline import Lifeline, hold_on
from worker.supervisor.member import Member
from worker.supervisor.pages import Pages, is_past_start, is_spare
from worker.supervisor.policy import ExitCodes
from worker.supervisor.supervising import Supervisor, Surroundings, noted_signals

_INSTANCE_ID_CHARACTERS_MAX = 100
_SOCKET_PATH_BYTES_MAX = 100
"""Of Unix sockets, macOS allows 103 bytes, Linux 107."""


def run_members(settings: Settings, processes: int, arguments: Sequence[str], codes: ExitCodes) -> int:
    """Run members of the group until a signal stops them; return the exit code of the whole.

    Args:
        settings: of all of them.
        processes: how many.
        arguments: of the command `run`, for each.
        codes: what exit codes mean.

    Raises:
        SettingsError: the settings do not fit several processes.
    """
    names = instance_ids(settings, processes)
    configure_logging(settings.worker.log_format, settings.worker.log_level, program="supervisor")
    log: Any = structlog.get_logger("modelvigil.supervisor")

    def start(number: int, socket: Path) -> "subprocess.Popen[bytes]":
        more = ["--supervised", f"{number}:{lifeline.fd}", "--set", f"ops.socket={json.dumps(str(socket))}"]
        if not settings.worker.engine_threads:
            more += ["--set", f"worker.engine_threads={threads_for(0, processes)}"]
        if names:
            more += ["--set", f"worker.instance_id={json.dumps(names[number])}"]
        return _started([*arguments, *more], lifeline.fd)

    members: list[Member] = []
    with noted_signals(members) as signals, _socket_folder() as folder, Lifeline() as lifeline:
        members += [Member(number, folder / f"{number}.sock", start) for number in range(processes)]
        around = Surroundings(is_past_start, is_spare, log)
        supervisor = Supervisor(members, codes, stop_s(settings), around)
        pages = Pages(supervisor.statuses, supervisor.beat_age_s).by_path()
        try:
            with OpsServer(settings.ops, pages, log.warning) as server:
                log.info("supervising", processes=processes, group=settings.kafka.group_id, url=server.url)
                code = supervisor.run(signals)
        except OpsServerError as error:
            raise SettingsError(str(error)) from error
    log.info("stopped", exit_code=code)
    return code


def join(supervised: str, settings: Settings) -> None:
    """Make a worker of this process that is one of several: `supervised` is NUMBER:FD, of the member and its lifeline.

    Its log lines get the number. Raises ValueError for anything else.
    """
    number, _, fd = supervised.partition(":")
    structlog.contextvars.bind_contextvars(process_number=int(number))
    hold_on(int(fd), stop_s(settings), Path(settings.ops.socket).parent)


def stop_s(settings: Settings) -> float:
    """Return how long a stop may take.

    Shards are stored for `handover_ms`, then comes the last commit; a loop that is silent for longer than the watchdog
    allows hangs.
    """
    return (settings.worker.handover_ms + settings.worker.watchdog_ms) / 1000


def instance_ids(settings: Settings, processes: int) -> Sequence[str]:
    """Return a name for each member, if this worker has one."""
    name = settings.worker.instance_id
    if not name:
        return []
    found = [f"{name}-{number}" for number in range(processes)]
    if len(found[-1]) > _INSTANCE_ID_CHARACTERS_MAX:
        raise SettingsError("worker.instance_id is too long for several processes, which add their number: shorten it")
    return found


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """Yield a folder that only this user can enter; it goes away with all that is in it."""
    try:
        longest = os.fsencode(Path(tempfile.gettempdir()) / "modelvigil-12345678" / "12.sock")
        where = "/tmp" if len(longest) > _SOCKET_PATH_BYTES_MAX else None  # noqa: S108 - mkdtemp's name below it cannot be guessed
        made = tempfile.TemporaryDirectory(prefix="modelvigil-", dir=where, ignore_cleanup_errors=True)
    except OSError as error:
        raise SettingsError(f"there is no folder for sockets: {error}; set TMPDIR to one that can be written") from None
    with made as folder:
        yield Path(folder)


def _started(arguments: Sequence[str], lifeline_fd: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own program
        [*own_program(), *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(lifeline_fd,),
        process_group=0,  # a Ctrl-C in the terminal is for us alone: two signals would cut a member's stop short
    )
