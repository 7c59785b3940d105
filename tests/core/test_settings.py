"""Settings: who wins, what is refused and with which words, and that no secret shows."""

from pathlib import Path

import pytest

from worker.settings import Settings, SettingsError, describe, load_settings


def _load(text: str, tmp_path: Path, environ: dict[str, str] | None = None, **overrides: object) -> Settings:
    path = tmp_path / "modelvigil.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ or {}, {name.replace("__", "."): value for name, value in overrides.items()})


def test_without_anything_the_defaults_hold() -> None:
    """Nothing needs to be configured."""
    settings = load_settings(None, {"PATH": "/bin"}, {})
    assert settings == Settings()
    assert settings.kafka.bootstrap_servers == "localhost:9092"


def test_command_line_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """Each source wins over the ones before it, field by field."""
    text = """
        [kafka]
        bootstrap_servers = "file:1"
        group_id = "file"
        [topics]
        predictions = "file.predictions"
        [engine]
        alert_rate = 0.01
        [engine.forest]
        trees = 7
    """
    environ = {"MODELVIGIL_BOOTSTRAP_SERVERS": "environment:1", "MODELVIGIL_GROUP_ID": "environment"}
    overrides = {"kafka__group_id": "line", "topics__labels": None}
    settings = _load(text, tmp_path, environ, **overrides)
    assert settings.kafka.bootstrap_servers == "environment:1"
    assert settings.kafka.group_id == "line"
    assert settings.topics.predictions == "file.predictions"
    assert settings.topics.labels == "labels"
    assert settings.engine.alert_rate == 0.01
    assert (settings.engine.forest.trees, settings.engine.forest.sample_rows) == (7, 128)


def test_kafka_properties_come_from_file_and_environment(tmp_path: Path) -> None:
    """Dotted names with and without quotes, values of any plain type, secrets from files; the environment wins."""
    secret = tmp_path / "password"
    secret.write_text("from a file\n", encoding="utf-8")
    text = """
        [kafka.properties]
        "security.protocol" = "SASL_PLAINTEXT"
        ssl.ca.location = "/ca.pem"
        enable.ssl.certificate.verification = false
        fetch.wait.max.ms = 50
    """
    environ = {
        "MODELVIGIL_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "MODELVIGIL_KAFKA_SASL_PASSWORD_FILE": str(secret),
        "MODELVIGIL_KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE": "/a/file/that/librdkafka/reads",
        "MODELVIGIL_KAFKA_SERVICE_HOST": "10.0.0.1",
        "MODELVIGIL_KAFKA_PORT_9092_TCP": "tcp://10.0.0.1:9092",
        "MODELVIGIL_SERVICE_HOST": "10.0.0.2",
    }
    assert _load(text, tmp_path, environ).kafka.properties == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/ca.pem",
        "enable.ssl.certificate.verification": "false",
        "fetch.wait.max.ms": "50",
        "sasl.password": "from a file",
        "sasl.oauthbearer.assertion.file": "/a/file/that/librdkafka/reads",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[worker]\ncommit_intervall_ms = 5",
            r"worker\.commit_intervall_ms .* did you mean worker\.commit_interval_ms\?",
        ),
        ("[engine.forest]\ntree = 5", r"engine\.forest\.tree is not .* engine\.forest\.trees\?"),
        ("[kafak]\ngroup_id = 'x'", r"kafak is not .* did you mean kafka\?"),
        ("[worker]\nzzz = 1", r"worker\.zzz is not a known setting: worker has commit_interval_ms, "),
        ("[worker]\ncommit_interval_ms = '5'", r"^worker\.commit_interval_ms: expected `int`, got `str`$"),
        ("[worker]\ncommit_interval_ms = 5", r"^worker\.commit_interval_ms: expected `int` >= 10$"),
        ("[worker]\nstart_at = 'middle'", r"worker\.start_at: invalid enum value 'middle'"),
        ("[topics]\nalerts = 'no spaces'", r"topics\.alerts: expected `str` matching"),
        ("kafka = 5", r"^kafka: expected a table, got `int`$"),
        ("[kafka]\nproperties = 5", r"^kafka\.properties: expected a table, got `int`$"),
        ("[kafka.properties]\na = [1]", r"^kafka\.properties\.a: expected text, a number or true/false$"),
        ("[kafka.properties]\n'enable.auto.commit' = true", r"must not set enable\.auto\.commit: exactly-once depends"),
        ("[kafka.properties]\nisolation.level = 'x'", r"must not set isolation\.level: records of aborted"),
        ("[kafka.properties]\ngroup.id = 'x'", r"must not set group\.id: say \[kafka\] group_id"),
        ("[engine]\npane_grace_ms = 70000", r"engine\.pane_grace_ms must not be larger than engine\.pane_ms"),
        ("[topics]\nalerts = 'x'\nmetrics = 'x'", r"topics\.metrics and topics\.alerts must not be the same"),
        ("[worker]\ncommit_interval_ms=9000", r"transaction_timeout_ms must be at least twice"),
        ("[worker]\nwatchdog_ms=44000", r"watchdog_ms must be at least 45000"),
        ("[worker]\nstatic_membership=true", r"static_membership needs a worker\.instance_id"),
        ("[worker]\non_missing_state='maybe'", r"worker\.on_missing_state: invalid"),
        (
            "[kafka.properties]\ngroup.instance.id = 'x'",
            r"must not set group\.instance\.id: say \[worker\]",
        ),
        ("[kafka.properties]\nretry.backoff.ms = 5", r"must not set retry\.backoff\.ms: the sink tells by it"),
        ("a = \nb = 1", r"modelvigil\.toml is not valid TOML: .*line 1"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    """The message names the place and says what to do."""
    with pytest.raises(SettingsError, match=message) as caught:
        _load(text, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MODELVIGIL_BOOTSTRAP_SERVER": "x"}, r"did you mean MODELVIGIL_BOOTSTRAP_SERVERS\?"),
        ({"MODELVIGIL_KAFKA_ENABLE_AUTO_COMMIT": "true"}, r"must not set enable\.auto\.commit"),
        ({"MODELVIGIL_KAFKA_SASL_PASSWORD_FILE": "/nowhere"}, r"MODELVIGIL_KAFKA_SASL_PASSWORD_FILE cannot be read"),
        (
            {"MODELVIGIL_KAFKA_SASL_PASSWORD": "a", "MODELVIGIL_KAFKA_SASL_PASSWORD_FILE": "/etc/hostname"},
            r"sasl\.password is given twice",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_refused(environ: dict[str, str], message: str) -> None:
    """Slips, safety settings and unreadable secrets."""
    with pytest.raises(SettingsError, match=message):
        load_settings(None, environ, {})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing files and files that are no text."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.toml", {}, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml is not UTF-8"):
        load_settings(tmp_path / "binary.toml", {}, {})


def test_an_override_into_something_that_is_no_table_is_refused() -> None:
    """`--set kafka=5 --set kafka.group_id=x` is a slip, not a crash."""
    with pytest.raises(SettingsError, match="kafka must be a table"):
        load_settings(None, {}, {"kafka": 5, "kafka.group_id": "x"})


def test_no_secret_shows() -> None:
    """Neither `repr` nor `describe` holds a secret; what is no secret stays readable."""
    names = (
        "sasl.password",
        "ssl.key.pem",
        "ssl.key.password",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    )
    environ = {f"MODELVIGIL_KAFKA_{name.upper().replace('.', '_')}": "hidden" for name in names}
    settings = load_settings(None, {**environ, "MODELVIGIL_KAFKA_SASL_USERNAME": "alice"}, {})
    assert set(settings.kafka.properties) == {*names, "sasl.username"}
    described = describe(settings)
    for shown in (repr(settings), str(settings.kafka), repr(described)):
        assert "hidden" not in shown
        assert "alice" in shown
    assert described["engine"]["alert_rate"] == 0.001
    assert described["worker"]["start_at"] == "earliest"


def test_models_go_into_a_folder_or_wherever_is_said(tmp_path: Path) -> None:
    """The address also from the environment; options of the file system as they are, their secrets masked."""
    assert load_settings(None, {}, {}).artefacts.url == "modelvigil-artefacts"
    text = """
        [artefacts]
        url = "s3://models/vigil"
        [artefacts.options]
        key = "hidden"
        secret = "hidden"
        endpoint_url = "http://minio:9000"
        anon = false
        config_kwargs = { connect_timeout = 5, proxy_token = "hidden" }
    """
    settings = _load(text, tmp_path)
    options = settings.artefacts.options
    assert (options["anon"], options["secret"]) == (False, "hidden")
    assert options["config_kwargs"] == {"connect_timeout": 5, "proxy_token": "hidden"}
    for shown in (repr(settings), repr(describe(settings))):
        assert "hidden" not in shown
        assert "http://minio:9000" in shown
    environ = {"MODELVIGIL_ARTEFACTS_URL": ""}
    assert _load(text, tmp_path, environ).artefacts.url == ""


@pytest.mark.parametrize("name", ["url", "mlflow_tracking_uri"])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://alice:hidden@host/", r"must not contain a user or a password"),
        ("http://[bad/", r"is no address"),
    ],
)
def test_no_password_stands_in_an_address(name: str, address: str, message: str, tmp_path: Path) -> None:
    """It would be shown, logged and told."""
    with pytest.raises(SettingsError, match=rf"artefacts\.{name} {message}") as caught:
        _load(f'[artefacts]\n{name} = "{address}"', tmp_path)
    assert "hidden" not in str(caught.value)
