"""TLS, passwords, certificates and ACLs on a real broker that refuses everybody else."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in __all__
    AclOperation,
    ResourcePatternType,
    ResourceType,
)

from tests.e2e.faults.secured_broker import PASSWORD, USER, SecuredBroker
from tests.e2e.harness import PARTITIONS, Deployment
from tests.malformed import GOOD
from worker import cli
from worker.cli_options import ExitCode
from worker.doctor.acls import Grant, Operation, Resource, Use, grants
from worker.settings import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("security")]
EVENTS = 200
WRONG = "swordfish-and-chips"
"""A password that is wrong, and must not be told either."""

Doctor = Callable[..., tuple[int, dict[str, Any]]]

_KINDS = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
    Resource.CLUSTER: ResourceType.BROKER,
}
_PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefixed": ResourcePatternType.PREFIXED}
_OPERATIONS = {
    Operation.READ: AclOperation.READ,
    Operation.WRITE: AclOperation.WRITE,
    Operation.CREATE: AclOperation.CREATE,
    Operation.DESCRIBE: AclOperation.DESCRIBE,
    Operation.DESCRIBE_CONFIGS: AclOperation.DESCRIBE_CONFIGS,
}


class Guarded(Deployment):
    """Topics of a secured broker: tests look on as a super user, commands connect to `servers_of_user`."""

    def __init__(self, broker: SecuredBroker, prefix: str) -> None:
        super().__init__(broker.open_servers, prefix)
        self.servers_of_user = broker.mutual_servers

    def command(self, *arguments: str) -> list[str]:
        """Return a command of the user; topics are created by the super user."""
        command = super().command(*arguments)
        if arguments != ("topics", "create"):
            command[command.index(self.servers)] = self.servers_of_user
        return command

    def wanted(self, *uses: Use) -> list[Grant]:
        """Return what commands need here."""
        named = {f"topics.{name}": topic for name, topic in self.topics.items()}
        return list(grants(load_settings(None, {}, {**named, "kafka.group_id": self.group}), uses))


def acl(grant: Grant) -> tuple[ResourceType, str, ResourcePatternType, AclOperation]:
    """Return a grant in words of the client."""
    return _KINDS[grant.resource], grant.name, _PATTERNS[grant.pattern], _OPERATIONS[grant.operation]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """One broker for all tests here."""
    with SecuredBroker(tmp_path_factory.mktemp("certificates")) as broker:
        yield broker


@pytest.fixture(scope="module")
def granted(broker: SecuredBroker) -> Guarded:
    """Topics that the user may use as `run` needs it, and no more than that."""
    made = Guarded(broker, "granted-")
    made.create_topics()
    broker.allow(*(acl(grant) for grant in made.wanted(Use.WORKER)))
    return made


@pytest.fixture
def deployment(granted: Guarded, broker: SecuredBroker) -> Guarded:
    """The same, reached where certificates are asked for, until a test says otherwise."""
    granted.servers_of_user = broker.mutual_servers
    return granted


@pytest.fixture
def doctor(capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Run `doctor` in this process; get its code and its report."""

    def run(deployment: Guarded, *more: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        # Patient: this machine may be busy with other tests.
        code = cli.main([*deployment.command("doctor")[3:], "--json", "--patience", "30", *more])
        out, err = capfd.readouterr()
        assert not err
        assert PASSWORD not in out
        return code, json.loads(out)

    return run


def use(monkeypatch: pytest.MonkeyPatch, properties: Mapping[str, str]) -> None:
    """Give properties to all commands, as a container would."""
    for name, value in properties.items():
        monkeypatch.setenv(variable(name), value)


def variable(name: str) -> str:
    """Return the environment variable of a property."""
    return "MODELVIGIL_KAFKA_" + name.replace(".", "_").upper()


def events(begin: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield events of now."""
    for number in range(begin, begin + count):
        event = GOOD | {"event_id": f"e{number}", "timestamp": int(time.time() * 1000)}
        yield number % PARTITIONS, json.dumps(event).encode()


def messages(report: dict[str, Any], area: str, status: str) -> list[str]:
    """Return what a report says of an area."""
    return [each["message"] for each in report["findings"] if (each["area"], each["status"]) == (area, status)]


def test_a_worker_needs_the_acls_that_are_listed(
    broker: SecuredBroker, deployment: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First by certificate, after a restart by a password from a file: nothing is lost, and no log has the password."""
    with monkeypatch.context() as by_certificate:
        use(by_certificate, broker.certificate_properties())
        log = worked(deployment, 0, tmp_path / "first.log")
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    deployment.servers_of_user = broker.sasl_servers
    use(monkeypatch, broker.password_properties("PLAIN"))
    monkeypatch.setenv("MODELVIGIL_KAFKA_SASL_PASSWORD_FILE", str(password))
    log += worked(deployment, EVENTS, tmp_path / "second.log")
    assert "restored" in log
    assert PASSWORD not in log
    assert deployment.events_in_metrics() == 2 * EVENTS


def worked(deployment: Guarded, begin: int, log: Path) -> str:
    """Let a worker take some events, until they are in its metrics; return what it logged."""
    deployment.publish(events(begin, EVENTS))
    with log.open("wb") as file, subprocess.Popen(deployment.command("run"), stderr=file) as worker:
        try:
            deployment.wait_for_events(begin + EVENTS)
            worker.terminate()
            assert worker.wait(20) == 0, log.read_text()
        finally:
            worker.kill()
    return log.read_text()


def test_doctor_names_the_acl_that_is_missing(
    broker: SecuredBroker, deployment: Guarded, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    """With the list all is well; what is taken back is told, with the command that grants it."""
    use(monkeypatch, broker.certificate_properties())
    code, report = doctor(deployment)
    assert messages(report, "access", "ok") == ["this user may do all that `run` needs"]
    assert code == ExitCode.DONE, json.dumps(report)
    labels, state, group = deployment.topics["labels"], deployment.topics["state"], deployment.group
    taken = (
        (Resource.TOPIC, labels, Operation.READ, f"--operation Read --topic {labels}"),
        (Resource.TOPIC, state, Operation.WRITE, f"--operation Write --topic {state}"),
        (Resource.GROUP, group, Operation.READ, f"--operation Read --group {group}"),
        (Resource.TRANSACTIONAL_ID, f"{group}-", Operation.WRITE, "--resource-pattern-type prefixed"),
    )
    wanted = {(each.resource, each.name, each.operation): acl(each) for each in deployment.wanted(Use.WORKER)}
    acls = [wanted[resource, name, operation] for resource, name, operation, _ in taken]
    for each in acls:
        broker.forbid(each)
    code, report = doctor(deployment)
    broker.allow(*acls)
    assert code == ExitCode.UNREACHABLE
    refused = [each for each in report["findings"] if (each["area"], each["status"]) == ("access", "error")]
    assert [each["message"] for each in refused] == [
        f"this user may not {operation} {resource} {name}, which `run` needs" for resource, name, operation, _ in taken
    ]
    for finding, (_, _, _, said) in zip(refused, taken, strict=True):
        assert f"--allow-principal User:{USER}" in finding["advice"]
        assert said in finding["advice"]


def test_a_worker_that_may_not_see_a_topic_says_so(
    broker: SecuredBroker, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is hidden looks as if it did not exist: a worker does not tell the user to create it."""
    deployment = Guarded(broker, topic_prefix)
    deployment.create_topics()
    use(monkeypatch, broker.certificate_properties())
    assert cli.main(deployment.command("run")[3:]) == ExitCode.TOPICS
    said = capfd.readouterr().err
    assert "does not let this user see" in said
    assert deployment.topics["labels"] in said
    assert "topics create" not in said


def test_scram_is_passed_through(
    broker: SecuredBroker, deployment: Guarded, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    """The broker knows the user as the same one."""
    deployment.servers_of_user = broker.sasl_servers
    use(monkeypatch, broker.password_properties("SCRAM-SHA-512") | {"sasl.password": PASSWORD})
    code, report = doctor(deployment, "--sample", "0")
    assert code == ExitCode.DONE, json.dumps(report)
    assert messages(report, "access", "ok")


def test_oauth_is_passed_through(
    broker: SecuredBroker, deployment: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    """A token endpoint is asked with the client's secret, from a file; the broker takes what it gave."""
    deployment.servers_of_user = broker.sasl_servers
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    with token_endpoint() as (url, asked):
        properties = broker.password_properties("OAUTHBEARER") | {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": url,
            "sasl.oauthbearer.client.id": "client",
        }
        del properties["sasl.username"]
        use(monkeypatch, properties)
        monkeypatch.setenv(variable("sasl.oauthbearer.client.secret") + "_FILE", str(secret))
        code, report = doctor(deployment, "--sample", "0")
    assert code == ExitCode.DONE, json.dumps(report)
    assert messages(report, "access", "ok")
    assert set(asked) == {"Basic " + base64.b64encode(f"client:{PASSWORD}".encode()).decode()}


@contextmanager
def token_endpoint() -> Iterator[tuple[str, list[str | None]]]:
    """Serve tokens that nobody has signed: give the address, and the credentials of all who ask."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            now_s = int(time.time())
            claims = {"sub": USER, "iat": now_s, "exp": now_s + 3600}
            token = ".".join(base64url(json.dumps(each).encode()) for each in ({"alg": "none"}, claims)) + "."
            body = json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token", asked
        server.shutdown()


def base64url(data: bytes) -> str:
    """Encode as tokens are."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_refused_connection_is_one_line(
    broker: SecuredBroker, deployment: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, an unknown authority, another host name, no certificate: code 4, why, and no secret.

    `run` begins with the same question.
    """
    sasl, mutual = broker.sasl_servers, broker.mutual_servers
    password = {**broker.password_properties("PLAIN"), "sasl.password": PASSWORD}
    stranger = {"ssl.ca.location": str(broker.certificates.stranger)}
    certificate = broker.certificate_properties()
    anonymous = {name: certificate[name] for name in ("security.protocol", "ssl.ca.location")}
    cases = {
        "Authentication failed": (sasl, password | {"sasl.password": WRONG}),
        "certificate could not be verified": (sasl, password | stranger),
        "could not be verified, verify that": (sasl.replace("localhost", "127.0.0.1"), password),
        "certificate required": (mutual, anonymous),
    }
    processes = {}
    for why, (servers, properties) in cases.items():
        deployment.servers_of_user = servers
        with monkeypatch.context() as context:
            use(context, properties)
            command = deployment.command("topics", "check")
            processes[why] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for why, process in processes.items():
        said, _ = process.communicate(timeout=60)
        assert process.returncode == ExitCode.UNREACHABLE, said
        assert len(said.splitlines()) == 1, said
        assert said.startswith("modelvigil: Kafka at ")
        assert why in said
        assert PASSWORD not in said
        assert WRONG not in said


def test_a_worker_without_its_transactional_id_says_so(
    broker: SecuredBroker, deployment: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing ACL is no bug of ours."""
    (grant,) = (each for each in deployment.wanted(Use.WORKER) if each.resource is Resource.TRANSACTIONAL_ID)
    use(monkeypatch, broker.certificate_properties())
    broker.forbid(acl(grant))
    ended = subprocess.run(deployment.command("run"), capture_output=True, text=True, timeout=90, check=False)
    broker.allow(acl(grant))
    assert ended.returncode == ExitCode.RESTART
    assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in ended.stderr.splitlines()[-1]
