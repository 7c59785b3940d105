"""Targets in the configuration: what is refused, where secrets come from, and that they do not show."""

from pathlib import Path

import pytest

from worker import cli
from worker.notify.selection import SelectionError, selected
from worker.notify_settings import TargetSettings, endpoint, origin_of
from worker.settings import Settings, SettingsError, describe, load_settings, with_secrets

HOOK = """
[[notify.targets]]
name = "on-call"
kind = "slack"
url = "https://hooks.test/T0/sEcReT"
"""


def _load(text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "modelvigil.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ or {}, {})


def test_targets_are_tables_of_their_own(tmp_path: Path) -> None:
    """With defaults that send everything."""
    (target,) = _load(HOOK, tmp_path).notify.targets
    assert (target.name, target.models, target.severity_min) == ("on-call", ("*",), "info")
    assert Settings().notify.targets == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("url_file = '/f'", r"`on-call`: url and url_file are both given"),
        ("template = '$modl'", r"`on-call`: template: \$modl is not a field; fields are alert_id, "),
        ("template = 'costs $ 5'", r"`on-call`: template has a \$ that is no field"),
        ("template = '${model_id.__class__}'", r"`on-call`: template has a \$ that is no field"),
        ("headers = { Host = 'x' }", r"`on-call`: header Host is set by modelvigil"),
        ("headers = { 'X Y' = 'x' }", r"`on-call`: header 'X Y' is not allowed"),
        ('headers = { X = "a\\r\\nY: b" }', r"`on-call`: header 'X' is not allowed"),
        ("headers = { authorization = 'x' }\nbearer_token = 'x'", r"both given"),
        ("retry_ms = 60000\nretry_max_ms = 10", r"retry_ms must not be larger"),
        ("severity_min = 'bad'", r"severity_min"),
        ("sevrity_min = 'info'", r"unknown field `sevrity_min`"),
        (HOOK, r"the name on-call is used twice"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(line: str, message: str, tmp_path: Path) -> None:
    """When the configuration is read, not when the first alert is."""
    with pytest.raises(SettingsError, match=message) as caught:
        _load(HOOK + line, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "hooks.test/x", "ftp://h/x", "https:///x", "https://user:sEcReT@h/", "http://h/a b", "http://[::1/x"]
)
def test_addresses_that_cannot_be_used_are_refused_without_being_told(url: str, tmp_path: Path) -> None:
    """They may be secret."""
    with pytest.raises(SettingsError, match="`on-call`: url") as caught:
        _load(HOOK.replace("https://hooks.test/T0/sEcReT", url), tmp_path)
    assert "sEcReT" not in str(caught.value)


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    """Files are read when they are needed: a worker with the same configuration need not have them."""
    (tmp_path / "secret").write_text("hush\n", encoding="utf-8")
    text = HOOK.replace("url =", "secret_file = 'is replaced'\nurl =")
    environ = {
        "MODELVIGIL_NOTIFY_ON_CALL_URL": "https://other.test/x",
        "MODELVIGIL_NOTIFY_ON_CALL_SECRET_FILE": str(tmp_path / "secret"),
        "MODELVIGIL_NOTIFY_ON_CALL_BEARER_TOKEN": "tok-en",
        "MODELVIGIL_NOTIFY_SERVICE_HOST": "10.0.0.1",
    }
    settings = _load(text, tmp_path, environ)
    (target,) = with_secrets(settings).notify.targets
    assert (target.url, target.secret, target.bearer_token) == ("https://other.test/x", "hush", "tok-en")
    (tmp_path / "secret").unlink()
    with pytest.raises(SettingsError, match=r"secret_file of notify\.targets `on-call` cannot be read"):
        with_secrets(settings)


def test_where_pages_are_can_come_from_the_environment_whatever_targets_are_called(tmp_path: Path) -> None:
    """A target `ops` has variables that look much the same."""
    environ = {
        "MODELVIGIL_NOTIFY_OPS_LISTEN": "0.0.0.0",  # noqa: S104 - as containers have it
        "MODELVIGIL_NOTIFY_OPS_PORT": "9464",
        "MODELVIGIL_NOTIFY_OPS_URL": "https://hooks.test/sEcReT",
    }
    notify = _load(HOOK.replace("on-call", "ops"), tmp_path, environ).notify
    assert (notify.ops_listen, notify.ops_port) == ("0.0.0.0", 9464)  # noqa: S104 - as above
    assert notify.targets[0].url.endswith("sEcReT")
    assert Settings().notify.ops_listen == "127.0.0.1"
    with pytest.raises(SettingsError, match="MODELVIGIL_NOTIFY_OPS_PORT must be a number"):
        _load(HOOK, tmp_path, {"MODELVIGIL_NOTIFY_OPS_PORT": "x"})
    with pytest.raises(SettingsError, match="did you mean MODELVIGIL_NOTIFY_OPS_LISTEN"):
        _load(HOOK, tmp_path, {"MODELVIGIL_NOTIFY_OPS_LISTENS": "::1"})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MODELVIGIL_NOTIFY_ONCALL_URL": "x"}, r"NOTIFY_ONCALL_URL is for a target that is not there: .* has on-call"),
        (
            {"MODELVIGIL_NOTIFY_ON_CALL_SECRET": "a", "MODELVIGIL_NOTIFY_ON_CALL_SECRET_FILE": "b"},
            r"secret is given twice",
        ),
        ({"MODELVIGIL_NOTIFY_ON_CALL_URL": "x"}, r"`on-call`: url must be http"),
    ],
)
def test_slips_in_the_environment_are_refused(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    """An unsigned message would be the consequence."""
    with pytest.raises(SettingsError, match=message):
        _load(HOOK, tmp_path, environ)


def test_what_a_file_brings_is_checked_too(tmp_path: Path) -> None:
    """A file with the wrong thing in it."""
    (tmp_path / "url").write_text("sEcReT", encoding="utf-8")
    text = HOOK.replace('url = "https://hooks.test/T0/sEcReT"', f"url_file = '{tmp_path / 'url'}'")
    with pytest.raises(SettingsError, match=r"`on-call`: url must be http") as caught:
        with_secrets(_load(text, tmp_path))
    assert "sEcReT" not in str(caught.value)


def test_nothing_that_opens_a_door_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither `repr`, nor `describe`, nor `check-config`: of an address only where it leads."""
    text = HOOK + "secret = 'hush'\nbearer_token = 'tok-en'\nheaders = { X-Org = 'seven' }\n"
    settings = _load(text, tmp_path)
    assert cli.main(["check-config", "--config", str(tmp_path / "modelvigil.toml")]) == 0
    for shown in (repr(settings), repr(describe(settings)), capsys.readouterr().out):
        assert "https://hooks.test/********" in shown
        assert "X-Org" in shown
        assert not any(hidden in shown for hidden in ("sEcReT", "hush", "tok-en", "seven"))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://h:9093", "http://h:9093/"),
        ("http://h/", "http://h/"),
        ("https://h/a/b", "https://h/********"),
        ("https://h/?key=a", "https://h/********"),
        ("http://[::1/x", "********"),
    ],
)
def test_an_address_is_shown_without_its_path(url: str, origin: str) -> None:
    """Scheme, host and port say where it leads."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["http://h:9093", "http://h:9093/", "http://h:9093/api/v2/alerts"])
def test_alertmanager_is_named_by_its_base(url: str) -> None:
    """The path is that of the API."""
    assert endpoint(TargetSettings(name="a", kind="alertmanager", url=url)) == "http://h:9093/api/v2/alerts"


def test_one_of_many_targets_can_be_chosen(tmp_path: Path) -> None:
    """And a slip says which there are."""
    settings = _load(HOOK + HOOK.replace("on-call", "other"), tmp_path)
    assert [target.name for target in selected(settings, ["other"]).notify.targets] == ["other"]
    assert selected(settings, []) == settings
    with pytest.raises(SelectionError, match=r"--target third: notify\.targets has on-call, other"):
        selected(settings, ["third"])


def test_the_examples_can_be_used() -> None:
    """The configuration that is delivered loads, and Alertmanager groups by situation."""
    folder = Path(__file__).parents[2] / "deploy" / "alertmanager"
    settings = load_settings(folder / "modelvigil.toml", {}, {})
    assert [target.kind for target in settings.notify.targets] == ["alertmanager", "slack", "webhook"]
    assert "group_by: [situation_id]" in (folder / "alertmanager.yml").read_text(encoding="utf-8")
