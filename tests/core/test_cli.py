"""The command line: help for a person, one line for every failure, a code for every kind."""

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from worker import __version__, cli
from worker.cli_options import MEANING, ExitCode, Failure

COMMANDS = [
    [],
    ["run"],
    ["demo"],
    ["topics"],
    ["topics", "create"],
    ["topics", "check"],
    ["state"],
    ["state", "inspect"],
    ["state", "export"],
    ["state", "import"],
    ["state", "reset"],
    ["feedback"],
    ["feedback", "silence"],
    ["feedback", "true-positive"],
    ["feedback", "false-positive"],
    ["feedback", "ignore-like-this"],
    ["feedback", "undo"],
    ["feedback", "list"],
    ["notify"],
    ["replay"],
    ["schemas"],
    ["check-config"],
    ["compile-kernels"],
]
GROUPS = [["topics"], ["state"], ["feedback"]]
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has exported is not part of these tests."""
    for name in ("MODELVIGIL_BOOTSTRAP_SERVERS", "MODELVIGIL_GROUP_ID", "DEMO_SECONDS"):
        monkeypatch.delenv(name, raising=False)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that fails; return its code and its one line."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("modelvigil: ")
    return code, captured.err.removeprefix("modelvigil: ").rstrip("\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_for_a_person(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command says what it does, how it is used and how it ends."""
    assert cli.main([*command, "--help"]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: {' '.join(['modelvigil', *command])} ")
    assert r"\b" not in text
    if command not in ([], *GROUPS):
        assert re.search(rf"^  Examples?:\n +modelvigil {' '.join(command)}\b", text, re.MULTILINE)
    if command not in GROUPS:
        assert "Exit codes:" in text
        assert re.search(r"^ +0  Done", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", [[], *GROUPS], ids=" ".join)
def test_a_bare_group_shows_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who types the name alone wants to know what there is."""
    assert cli.main(command) == ExitCode.DONE
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is that of the package."""
    assert cli.main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"modelvigil {__version__}\n"


def test_every_exit_code_has_a_sentence_and_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The list in `modelvigil --help` is complete."""
    assert MEANING.keys() == set(ExitCode)
    cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{code.value:>3}  {MEANING[code]}" in text for code in ExitCode)


def test_help_starts_without_the_heavy_packages() -> None:
    """`--help` answers at once: compilers, scikit-learn and Kafka are not imported for it."""
    heavy = "{'numba', 'numpy', 'river', 'sklearn', 'confluent_kafka', 'msgspec', 'rich'}"
    script = (
        "import sys; from worker.cli import main\n"
        f"main(['run', '--help']); sys.exit(', '.join({heavy} & sys.modules.keys()))"
    )
    began_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert time.perf_counter() - began_s < 2.0  # 0.1 s on a quiet machine


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["rum"], ExitCode.USAGE, "Did you mean 'run'"),
        (["run", "--bootstrap-server", "x"], ExitCode.USAGE, "Did you mean '--bootstrap-servers'"),
        (["run", "--config"], ExitCode.USAGE, "requires an argument"),
        (["run", "extra"], ExitCode.USAGE, "unexpected extra argument"),
        (["demo", "--keep", "demo.toml"], ExitCode.USAGE, "--keep needs --bootstrap-servers"),
        (["demo", "--produce-only"], ExitCode.USAGE, "--produce-only needs --bootstrap-servers"),
        (["run", "--set", "alert_rate=0.1"], ExitCode.USAGE, "write NAME=VALUE"),
        (["run", "--set", "engine.alert_rate"], ExitCode.USAGE, "write NAME=VALUE"),
        (["run", "--set", "kafka.properties.ssl.ca.location=x"], ExitCode.USAGE, "MODELVIGIL_KAFKA_SSL_CA_LOCATION"),
        (["topics", "create", "--partitions", "0"], ExitCode.USAGE, "--partitions"),
        (["state", "export"], ExitCode.USAGE, "Missing option '--file'"),
        (["state", "import", "--file", "x", "--at", "noon"], ExitCode.USAGE, "'committed', 'earliest', 'latest'"),
        (["state", "reset", "--partition", "-1"], ExitCode.USAGE, "x>=0"),
        (["state", "inspet"], ExitCode.USAGE, "Did you mean 'inspect'"),
        (["demo", "--seconds", "3"], ExitCode.USAGE, "x>=20"),
        (["run", "--config", "/nowhere/at.toml"], ExitCode.CONFIGURATION, "/nowhere/at.toml cannot be read"),
        (["run", "--set", "engine.alert_rte=0.1"], ExitCode.CONFIGURATION, "did you mean engine.alert_rate?"),
        (["run", "--set", "engine.alert_rate=0,1"], ExitCode.CONFIGURATION, "engine.alert_rate: expected `float`"),
        (["run", "--set", "engine.alert_rate=7"], ExitCode.CONFIGURATION, "engine.alert_rate"),
        (["check-config", "--set", "kafka.propertis.x=1"], ExitCode.CONFIGURATION, "kafka.propertis is not a known"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_a_user_does_wrong_is_one_line(
    arguments: list[str], code: ExitCode, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the mistake and says what to do; the code tells the kind."""
    got_code, line = failure(capsys, *arguments)
    assert got_code == code
    assert text in line


def test_an_unreachable_broker_is_one_line() -> None:
    """Nobody listens at this address: the line names it, and says what to check."""
    commands = (["run"], ["topics", "check"], ["topics", "create"], ["state", "inspect"], ["demo"])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "worker", *command, "--bootstrap-servers", NOBODY],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    for command, process in zip(commands, processes, strict=True):
        _, text = process.communicate(timeout=90)
        assert process.returncode == ExitCode.UNREACHABLE, text
        assert "Traceback" not in text
        *log, line = text.splitlines()
        assert line.startswith(f"modelvigil: Kafka at {NOBODY} did not answer")
        assert command == ["run"] or not log, "only a worker keeps a log"


def test_a_property_that_kafka_does_not_know_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that librdkafka does not know is refused, and the line names it."""
    monkeypatch.setenv("MODELVIGIL_KAFKA_NONSENSE", "1")
    code, line = failure(capsys, "topics", "check")
    assert code == ExitCode.CONFIGURATION
    assert "nonsense" in line


def test_an_unreadable_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken TOML is told with its place."""
    config = tmp_path / "broken.toml"
    config.write_text("[engine\nalert_rate = 0.1\n")
    code, line = failure(capsys, "check-config", "--config", str(config))
    assert code == ExitCode.CONFIGURATION
    assert "broken.toml is not valid TOML" in line
    assert "line 1" in line


def test_options_win_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The later source wins, and what only one of them says is kept."""
    config = tmp_path / "modelvigil.toml"
    config.write_text('kafka = {bootstrap_servers = "file:1", group_id = "file"}\nworker.fetch_records_max = 7\n')
    monkeypatch.setenv("MODELVIGIL_BOOTSTRAP_SERVERS", "environment:1")
    monkeypatch.setenv("MODELVIGIL_GROUP_ID", "environment")
    assert cli.main(["check-config", "--config", str(config), "--group-id", "option"]) == ExitCode.DONE
    settings = tomllib.loads(capsys.readouterr().out)
    assert settings["kafka"]["bootstrap_servers"] == "environment:1"
    assert settings["kafka"]["group_id"] == "option"
    assert settings["worker"]["fetch_records_max"] == 7


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.alert_rate=0.25", 0.25),
        ("engine.alert_rate= 0.25 ", 0.25),
        ("worker.start_at=latest", "latest"),
        ('worker.start_at="latest"', "latest"),
        ("engine.incident.quiet_ms=1_000", 1000),
    ],
)
def test_set_takes_toml_values(override: str, expected: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A value is read as TOML, and as text where it is not TOML."""
    assert cli.main(["check-config", "--set", override]) == ExitCode.DONE
    value = tomllib.loads(capsys.readouterr().out)
    for key in override.partition("=")[0].split("."):
        value = value[key]
    assert value == expected


def test_printed_configuration_is_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `check-config` prints can be read back, and prints the same again; secrets are masked."""
    monkeypatch.setenv("MODELVIGIL_KAFKA_SSL_CA_LOCATION", "/some/ca.pem")
    monkeypatch.setenv("MODELVIGIL_KAFKA_SASL_PASSWORD", "hunter2")
    assert cli.main(["check-config", "--set", "engine.seed=3"]) == ExitCode.DONE
    first = capsys.readouterr().out
    assert "hunter2" not in first
    monkeypatch.delenv("MODELVIGIL_KAFKA_SSL_CA_LOCATION")
    monkeypatch.delenv("MODELVIGIL_KAFKA_SASL_PASSWORD")
    config = tmp_path / "printed.toml"
    config.write_text(first)
    assert cli.main(["check-config", "--config", str(config)]) == ExitCode.DONE
    assert capsys.readouterr().out == first
    assert 'kafka.properties."ssl.ca.location" = "/some/ca.pem"' in first


def test_schemas_are_written_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes what `worker.schemas` renders."""
    folder = tmp_path / "contracts"
    assert cli.main(["schemas", "--directory", str(folder)]) == ExitCode.DONE
    assert (folder / "alerts.schema.json").exists()
    assert (folder / "examples" / "alerts.json").exists()
    assert str(folder) in capsys.readouterr().out


def test_schemas_into_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that cannot be made is the user's to choose anew."""
    (tmp_path / "file").write_text("")
    code, line = failure(capsys, "schemas", "--directory", str(tmp_path / "file" / "below"))
    assert code == ExitCode.USAGE
    assert "cannot be written" in line


def test_a_bug_shows_its_traceback_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is nobody's fault but ours is told in full, for the report."""

    def broken(**_: object) -> None:
        raise AssertionError("two and two are five")

    monkeypatch.setattr("worker.cli.load", broken)
    assert cli.main(["check-config"]) == ExitCode.BUG
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("modelvigil: this is a bug")


def test_a_log_tail_goes_above_the_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Quoted log lines stay lines; the rest of the message is one line, the last."""

    def failing(**_: object) -> None:
        raise Failure(ExitCode.LOCAL_KAFKA, "it ended:\n  | first\n  | second\ntry again")

    monkeypatch.setattr("worker.cli.load", failing)
    assert cli.main(["check-config"]) == ExitCode.LOCAL_KAFKA
    assert capsys.readouterr().err == "  | first\n  | second\nmodelvigil: it ended: try again\n"


def test_ctrl_c_is_not_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupt during the set-up ends with one word and the usual code."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.cli.load", interrupted)
    assert cli.main(["check-config"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1] == "modelvigil: interrupted"
