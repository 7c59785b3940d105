"""Prometheus' and Alertmanager's own tools on our files, and where these programs come from."""

import subprocess
from pathlib import Path

import pytest

from tests.integrations.debian import DebianError, installed
from tests.integrations.servers import alertmanager_program
from tests.integrations.watched import DEPLOY

RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))


def promtool(*arguments: object) -> str:
    """Run promtool; return what it says. Fails when it does."""
    program = installed("prometheus").program("promtool")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_rules_and_configuration_are_accepted() -> None:
    """`promtool check rules` with all its lints, and `check config`, find nothing."""
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES).count("SUCCESS") == len(RULES)
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_unit_tests_of_rules_pass(path: Path) -> None:
    """Each alert fires when it should, with the words that a person reads, and not otherwise."""
    assert "SUCCESS" in promtool("test", "rules", path)


def test_a_rule_that_is_broken_is_noticed(tmp_path: Path) -> None:
    """The unit tests can fail: with another limit, one of them does."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    for path in RULES:
        text = path.read_text(encoding="utf-8").replace(
            "job:modelvigil_records_rejected:ratio_rate5m > 0.01", "job:x > 1"
        )
        (tmp_path / "rules" / path.name).write_text(text, encoding="utf-8")
    copy = tmp_path / "tests" / "worker.yml"
    copy.write_text((DEPLOY / "prometheus" / "tests" / "worker.yml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(AssertionError, match="ModelvigilDeadLetters"):
        promtool("test", "rules", copy)


def test_alertmanager_accepts_its_configuration() -> None:
    """`amtool check-config` finds nothing."""
    amtool = alertmanager_program().with_name("amtool")
    config = DEPLOY / "alertmanager" / "alertmanager.yml"
    done = subprocess.run([amtool, "check-config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_that_does_not_exist_is_told_in_one_line(tmp_path: Path) -> None:
    """What cannot be fetched is an error that says what to do, not a test that is skipped."""
    with pytest.raises(DebianError, match=r"^no-such-package cannot be found.*apt-get") as found:
        installed("no-such-package", say=lambda _: None, cache=tmp_path)
    assert "\n" not in str(found.value)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    """A file that was cut short is noticed by its size; a second look finds everything and fetches nothing."""
    said: list[str] = []
    first = installed("rsyslog-kafka", say=said.append, cache=tmp_path)
    if first.root == Path("/"):
        return  # this machine has it installed: nothing is fetched
    module = first.libraries("rsyslog") / "imkafka.so"
    whole = module.read_bytes()
    module.write_bytes(whole[:100])
    assert (installed("rsyslog-kafka", say=said.append, cache=tmp_path).libraries("rsyslog") / "imkafka.so") == module
    assert module.read_bytes() == whole
    assert len(said) == 2
    installed("rsyslog-kafka", say=said.append, cache=tmp_path)
    assert len(said) == 2
