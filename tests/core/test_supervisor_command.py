"""What members are started with, and what process 1 of a container does for them."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker import cli
from worker.settings import Settings, SettingsError, load_settings
from worker.supervisor import group
from worker.supervisor.policy import ExitCodes


def test_members_get_the_options_that_were_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each option reaches the members as it was said, but the number of processes."""
    given: list[Sequence[str]] = []

    def run_members(settings: Settings, processes: int, arguments: Sequence[str], codes: ExitCodes) -> int:
        assert settings.worker.fetch_records_max == 7
        assert processes == 3
        assert codes.hopeless | codes.decision <= set(codes.by_severity)
        given.append(arguments)
        return 4

    monkeypatch.setattr(group, "run_members", run_members)
    config = tmp_path / "my config.toml"
    config.write_text("[worker]\nfetch_records_max = 7\n")
    options = ["--config", str(config), "--set", 'topics.labels="a-b"', "--set"]
    options += ["engine.alert_rate=0.01", "--on-missing-state", "fresh", "--group-id=g"]
    assert cli.main(["run", *options, "--processes", "3"]) == 4
    assert given[0][0] == "run"
    assert sorted(given[0][1:]) == sorted(
        [
            f"--config={config}",
            '--set=topics.labels="a-b"',
            "--set=engine.alert_rate=0.01",
            "--on-missing-state=fresh",
            "--group-id=g",
        ]
    )


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--processes 1` is as if it had not been said: the worker itself, here one without a broker."""
    monkeypatch.setattr(group, "run_members", lambda *_: pytest.fail("not one process"))
    monkeypatch.setattr("worker.app.run_worker", lambda _: 0)
    assert cli.main(["run", "--processes", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_each_member_has_a_name_of_its_own() -> None:
    """Names follow that of the worker, so that a restarted member finds its place; one that is too long is refused."""
    named = load_settings(None, {}, {"worker.instance_id": "pod-3", "worker.static_membership": True})
    assert group.instance_ids(named, 3) == ["pod-3-0", "pod-3-1", "pod-3-2"]
    assert group.instance_ids(load_settings(None, {}, {}), 3) == []
    with pytest.raises(SettingsError, match="shorten"):
        group.instance_ids(load_settings(None, {}, {"worker.instance_id": "a" * 99}), 2)


def test_a_machine_without_a_folder_for_sockets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container whose root file system is read-only: one sentence that says what to do."""

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert cli.main(["run", "--processes", "2", "--set", "ops.port=0"]) == 3
    assert "set TMPDIR" in capsys.readouterr().err


def test_the_supervisor_is_light() -> None:
    """It loads nothing that computes or talks to Kafka: it is there for as long as its members are."""
    heavy = "{'numpy', 'numba', 'sklearn', 'river', 'scipy', 'confluent_kafka'}"
    code = f"import sys, worker.cli, worker.supervisor.group; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(sys.platform != "linux", reason="containers")
def test_process_1_leaves_no_zombies() -> None:
    """What a killed member has left behind is reaped; members are left to who waits for them."""
    code = (
        "import os, time\n"
        "from worker.supervisor.supervising import reap_orphans\n"
        "reap_orphans(set())\n"
        "member = os.spawnlp(os.P_NOWAIT, 'true', 'true')\n"
        "os.waitid(os.P_PID, member, os.WEXITED | os.WNOWAIT)\n"
        "reap_orphans({member})\n"
        "os.waitid(os.P_PID, member, os.WEXITED | os.WNOWAIT)\n"
        "reap_orphans(set())\n"
        "try:\n"
        "    os.waitpid(member, 0)\n"
        "except ChildProcessError:\n"
        "    print('reaped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "reaped\n"
