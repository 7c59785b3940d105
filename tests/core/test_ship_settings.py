"""The table `[elasticsearch]`: what is refused, where secrets come from, and that they do not show."""

import json
from pathlib import Path

import pytest

from worker import cli
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.settings import Settings, SettingsError, describe, load_settings, with_elasticsearch_secrets

HIDDEN = "sEcReT"


def _load(text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "modelvigil.toml"
    path.write_text(f"[elasticsearch]\n{text}", encoding="utf-8")
    return load_settings(path, environ or {}, {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("urls = []", "urls is empty"),
        ("urls = ['localhost:9200']", "urls: localhost:9200 must be http://host:port"),
        ("urls = ['ftp://h:1']", "must be http://host:port"),
        ("urls = ['http://h:1/?q=1']", "urls must have no query"),
        ("urls = ['http://[::1']", "one of them is no URL"),
        ("streams = []", "streams must name some of alerts, metrics"),
        ("streams = ['alerts', 'alerts']", "each once"),
        ("streams = ['scores']", "elasticsearch.streams"),
        ("password = 'p'\npassword_file = 'f'\nusername = 'u'", "password and password_file are both given"),
        ("password = 'p'", "password needs a username"),
        ("username = 'u'\napi_key = 'k'", "username and api_key are both given"),
        ("username = 'a:b'\npassword = 'p'", "username must not hold a colon"),
        ("api_key = 'a\\nb'", "api_key must be the encoded form"),
        ("namespace = 'A-b'", "elasticsearch.namespace"),
        ("retry_ms = 60000\nretry_max_ms = 10", "retry_ms must not be larger"),
        ("pasword = 'p'", "did you mean elasticsearch.password"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(line: str, message: str, tmp_path: Path) -> None:
    """When the configuration is read."""
    with pytest.raises(SettingsError, match=message) as caught:
        _load(line, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_address_with_a_password_is_refused_without_telling_it(tmp_path: Path) -> None:
    """Addresses are logged."""
    with pytest.raises(SettingsError, match="must not hold a user or a password") as caught:
        _load(f"urls = ['https://u:{HIDDEN}@h:9200']", tmp_path)
    assert HIDDEN not in str(caught.value)


def test_all_of_the_connection_can_come_from_the_environment(tmp_path: Path) -> None:
    """As containers want it; what Kubernetes adds for services is not taken for it."""
    environ = {
        "MODELVIGIL_ELASTICSEARCH_URLS": "http://a:9200, https://b:9200/es",
        "MODELVIGIL_ELASTICSEARCH_USERNAME": "u",
        "MODELVIGIL_ELASTICSEARCH_PASSWORD": HIDDEN,
        "MODELVIGIL_ELASTICSEARCH_OPS_LISTEN": "10.1.1.1",
        "MODELVIGIL_ELASTICSEARCH_OPS_PORT": "9464",
        "MODELVIGIL_OPS_PORT": "tcp://10.0.0.1:9464",
        "MODELVIGIL_ELASTICSEARCH_PORT": "tcp://10.0.0.1:9200",
        "MODELVIGIL_ELASTICSEARCH_SERVICE_HOST": "10.0.0.1",
        "MODELVIGIL_ELASTICSEARCH_SERVICE_PORT": "9200",
        "MODELVIGIL_ELASTICSEARCH_PORT_9200_TCP_ADDR": "10.0.0.1",
    }
    settings = _load("password_file = 'is replaced'\nusername = 'v'", tmp_path, environ)
    found = with_elasticsearch_secrets(settings).elasticsearch
    assert found.urls == ("http://a:9200", "https://b:9200/es")
    assert (found.username, found.password, found.ops_port) == ("u", HIDDEN, 9464)
    assert settings.ops.port == -1
    with pytest.raises(SettingsError, match="MODELVIGIL_OPS_PORT must be a number, not x"):
        _load("", tmp_path, {"MODELVIGIL_OPS_PORT": "x"})
    with pytest.raises(SettingsError, match="did you mean MODELVIGIL_ELASTICSEARCH_URLS"):
        _load("", tmp_path, {"MODELVIGIL_ELASTICSEARCH_URL": "http://a:9200"})
    twice = {"MODELVIGIL_ELASTICSEARCH_API_KEY": "k", "MODELVIGIL_ELASTICSEARCH_API_KEY_FILE": "f"}
    with pytest.raises(SettingsError, match=r"elasticsearch\.api_key is given twice"):
        _load("", tmp_path, twice)


def test_secrets_of_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    """A worker with the same configuration need have neither file nor variable."""
    (tmp_path / "key").write_text(f"{HIDDEN}\n", encoding="utf-8")
    settings = _load(f"api_key_file = '{tmp_path / 'key'}'", tmp_path)
    assert with_elasticsearch_secrets(settings).elasticsearch.api_key == HIDDEN
    absent = _load("api_key_file = '/nowhere'", tmp_path)
    with pytest.raises(SettingsError, match=r"named by elasticsearch\.api_key_file cannot be read: /nowhere"):
        with_elasticsearch_secrets(absent)
    without = _load("username = 'u'", tmp_path)
    with pytest.raises(SettingsError, match="a password is missing"):
        with_elasticsearch_secrets(without)


def test_secrets_do_not_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in `repr`, nor in `describe`, nor in what `check-config` prints."""
    settings = _load(f"username = 'u'\npassword = '{HIDDEN}'", tmp_path)
    assert cli.main(["check-config", "--config", str(tmp_path / "modelvigil.toml")]) == 0
    shown = [repr(settings), json.dumps(describe(settings)), capsys.readouterr().out]
    assert all(HIDDEN not in each for each in shown)
    assert HIDDEN not in repr(ElasticsearchSettings(api_key=HIDDEN))
