"""The unit of systemd: its command, how it is stopped, and after which exit codes it is started again."""

import re
import shlex

from tests.deploy.shipped import DEPLOY, parse, stop_seconds
from worker.cli_options import ExitCode
from worker.settings import load_settings

UNIT = DEPLOY / "systemd" / "modelvigil.service"


def lines() -> list[tuple[str, str]]:
    """Return all settings of the unit; one can be there several times."""
    return re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def value(name: str) -> str:
    """Return the one value of a setting."""
    (found,) = [value for key, value in lines() if key == name]
    return found


def test_the_command_and_its_variables_are_known() -> None:
    """ExecStart parses, and the variables are settings: with the name of a machine it is a static member."""
    program, *words = shlex.split(value("ExecStart"))
    assert program == "/opt/modelvigil/bin/modelvigil"
    assert parse(words)["overrides"] == ("worker.static_membership=true",)
    environment = dict(
        text.replace("%H", "host.example.org").split("=", 1) for key, text in lines() if key == "Environment"
    )
    assert environment["NUMBA_CACHE_DIR"].startswith("%C/")
    settings = load_settings(None, environment, {"worker.static_membership": True})
    assert settings.worker.instance_id == "host.example.org"
    assert settings.artefacts.url.startswith("%S/")
    # Stopping and starting takes some 5 s beside the pause.
    assert int(settings.kafka.properties["session.timeout.ms"]) > 1_000 * (int(value("RestartSec")) + 10)


def test_it_is_started_again_unless_a_person_must_act() -> None:
    """What a restart cannot cure stays down; everything else comes back, and a stop may take as long as it needs."""
    assert value("Restart") == "on-failure"
    assert int(value("RestartForceExitStatus")) == ExitCode.RESTART
    stays_down = {ExitCode(int(code)) for code in value("RestartPreventExitStatus").split()}
    assert stays_down == {
        ExitCode.USAGE,
        ExitCode.CONFIGURATION,
        ExitCode.TOPICS,
        ExitCode.FENCED,
        ExitCode.STATE,
    }
    assert int(value("TimeoutStopSec")) > stop_seconds(load_settings(None, {}, {}))
    assert value("StartLimitIntervalSec") == "0"


def test_machine_code_can_be_loaded_and_little_else_is_allowed() -> None:
    """Kernels are compiled at run time, so memory may become executable; the rest of the system is out of reach."""
    names = dict(lines())
    assert "MemoryDenyWriteExecute" not in names
    assert names["ProtectSystem"] == "strict"
    assert names["DynamicUser"] == names["NoNewPrivileges"] == "yes"
    assert names["CapabilityBoundingSet"] == ""
