"""docker-compose.yml: it follows the specification, and what it names exists: files, settings, commands, hosts, ports.

Docker is not needed, and the containers are not started.
"""

import re
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import orjson
import pytest
import yaml

from tests.deploy.shipped import CONFIG, DEPLOY, ROOT, documents, image_environment, parse, stop_seconds, strings
from worker.edges.kafka.topics import REQUIRED
from worker.settings import Settings, load_settings, with_elasticsearch_secrets, with_secrets

(COMPOSE,) = documents(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("modelvigil:"))
JOBS = ["elasticsearch-setup", "kibana-setup", "topics"]
_SECONDS = {"s": 1, "m": 60}


def settings_of(name: str) -> Settings:
    """Return the settings that a container of ours has."""
    environment = image_environment() | SERVICES[name].get("environment", {})
    return load_settings(DEPLOY / "compose" / "modelvigil.toml", environment, {})


def seconds(text: str) -> int:
    """Read a duration."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def test_it_follows_the_specification() -> None:
    """The schema of compose-spec has no complaint."""
    schema = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_bytes()
    jsonschema.validate(COMPOSE, orjson.loads(schema))


def test_all_of_the_pipeline_is_there() -> None:
    """One command starts everything that the README promises."""
    assert {"kafka", "worker", "demo", "notify", "shipper", "prometheus", "alertmanager", "grafana"} <= set(SERVICES)
    assert {"elasticsearch", "kibana"} <= set(SERVICES)
    assert len(OURS) == 6


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_bounded_and_watched(name: str) -> None:
    """A version, a restart policy, limits of memory, CPU and logs, and a health check unless it serves no page."""
    service = SERVICES[name]
    tag = service["image"].partition(":")[2]
    assert re.match(r"v?\d", tag), "no tag, or a moving one"
    assert service["restart"] in ({"on-failure:5"} if name in JOBS else {"unless-stopped"})
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    check = service["healthcheck"]
    if check == {"disable": True}:
        assert name in {*JOBS, "demo"}
    else:
        assert check["test"][0] == "CMD"
        assert seconds(check["timeout"]) < seconds(check["interval"])
        assert seconds(check["start_interval"]) < seconds(check["interval"])


@pytest.mark.parametrize("name", OURS)
def test_ours_have_no_rights(name: str) -> None:
    """Read-only root, no capabilities, no new privileges; what must be written to is in memory."""
    service = SERVICES[name]
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 1_000
    folders = [mount.partition(":")[0] for mount in service["tmpfs"]]
    assert sorted(folders) == ["/tmp", image_environment()["NUMBA_CACHE_DIR"]]  # noqa: S108 - a path in a container
    assert "user" not in service
    assert "privileged" not in service


def test_ports_are_published_on_loopback_only() -> None:
    """Nobody else in the network of a laptop can reach any of it."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_mounted_files_exist_and_volumes_are_declared() -> None:
    """What is mounted from the project is in the project, read-only; other volumes have a name."""
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert target.endswith(":ro"), volume
            else:
                used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_services_wait_for_what_they_need() -> None:
    """Conditions fit the service: health is only waited for where it is checked, completion only of a job."""
    for service in SERVICES.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_completed_successfully":
                assert name in JOBS
            else:
                assert needed["condition"] == "service_healthy"
                assert SERVICES[name]["healthcheck"] != {"disable": True}


@pytest.mark.parametrize("name", OURS)
def test_command_lines_and_settings_are_known(name: str) -> None:
    """Every command of ours parses, finds its settings where they are mounted, and every setting is one that exists."""
    options = parse(SERVICES[name]["command"])
    if name != "demo":
        assert str(options["config"]) == CONFIG
        assert f"./deploy/compose/modelvigil.toml:{CONFIG}:ro" in SERVICES[name]["volumes"]
    settings = with_elasticsearch_secrets(with_secrets(settings_of(name)))
    assert settings.elasticsearch.ops_port == settings.notify.ops_port == settings.ops.port


def test_everybody_talks_to_somebody_who_is_there() -> None:
    """Hosts and ports in the settings, in Prometheus' configuration and in Grafana's are those of services."""
    settings = settings_of("worker")
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{settings.kafka.bootstrap_servers}," in listeners
    assert options_of("demo")["bootstrap_servers"] == settings.kafka.bootstrap_servers
    (target,) = settings.notify.targets
    addresses = {target.url, *settings.elasticsearch.urls, SERVICES["kibana"]["environment"]["ELASTICSEARCH_HOSTS"]}
    addresses |= {text for text in SERVICES["kibana-setup"]["command"] if text.startswith("http")}
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        addresses |= {text for text in strings(documents(path)) if re.match(r"https?://[^/]+:\d+$", text)}
    ports = {"alertmanager": 9093, "elasticsearch": 9200, "kibana": 5601, "prometheus": 9090}
    assert len(addresses) >= 4
    for address in addresses:
        parts = urlsplit(address)
        assert parts.hostname in SERVICES
        assert ports[parts.hostname] == parts.port, address


def options_of(name: str) -> dict[str, Any]:
    """Return the options that a service's command line has."""
    return parse(SERVICES[name]["command"])


def test_prometheus_scrapes_what_there_is() -> None:
    """Each target is a service of ours, at the port that its container serves; Alertmanager is where it is."""
    (configuration,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    ops_port = settings_of("worker").ops.port
    seen = set()
    for job in configuration["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            assert found["port"] == ops_port
            seen |= set(found["names"])
        for static in job.get("static_configs", []):
            for target in static["targets"]:
                host, _, port = target.partition(":")
                assert int(port) == ops_port
                seen.add(host)
    assert seen == {"worker", "shipper", "notify"}
    (managers,) = configuration["alerting"]["alertmanagers"]
    assert managers["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert "./deploy/prometheus:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]


def test_a_stop_may_take_as_long_as_it_needs() -> None:
    """Docker kills a worker only after the longest hand-over and the watchdog."""
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > stop_seconds(settings_of("worker"))


def test_topics_are_made_for_a_single_broker() -> None:
    """One broker cannot hold replicas, nor can its internal topics."""
    options = options_of("topics")
    assert options["replication_factor"] == 1
    assert options["partitions"] >= 2
    environment = SERVICES["kafka"]["environment"]
    assert {value for key, value in environment.items() if "REPLICATION_FACTOR" in key or "MIN_ISR" in key} == {1}
    assert "predictions" in REQUIRED
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", environment["CLUSTER_ID"])


def test_elasticsearch_and_kibana_are_of_one_version() -> None:
    """Kibana refuses a cluster of another version."""
    versions = {SERVICES[name]["image"].partition(":")[2] for name in ("elasticsearch", "kibana", "kibana-setup")}
    assert len(versions) == 1


def test_alertmanager_knows_both_kinds_of_alerts() -> None:
    """Incidents of models are grouped by situation, alerts on workers by name; every receiver is declared."""
    (configuration,) = documents(DEPLOY / "compose" / "alertmanager.yml")
    route = configuration["route"]
    routes = [route, *route["routes"]]
    assert {receiver["name"] for receiver in configuration["receivers"]} == {each["receiver"] for each in routes}
    assert [each["group_by"] for each in routes] == [["alertname"], ["situation_id"]]


def test_a_mistake_is_noticed() -> None:
    """The schema refuses an unknown key, at any depth: the check can fail."""
    schema = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_bytes()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"worker": {"imag": "x"}}}, orjson.loads(schema))
    broken = yaml.safe_load("services: {worker: {healthcheck: {disabled: true}}}")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, orjson.loads(schema))
