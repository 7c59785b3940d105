"""Why a broker cannot be reached: each step of a connection, against real sockets and certificates."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme
from confluent_kafka import KafkaError

from worker import cli
from worker.cli_options import ExitCode
from worker.doctor.connection_checks import connection_findings
from worker.doctor.facts import Reach
from worker.doctor.findings import Finding, Status
from worker.edges.kafka.diagnosis import BrokerPlace, ClusterSeen, Missing, java_hash
from worker.edges.kafka.probing import Probe, Reasons, Step, probe

AUTHORITY = trustme.CA()
SECONDS = 3.0
SEEN = ClusterSeen("abc", [BrokerPlace(1, "k:9092")], {})
NOW_S = 1_800_000_000.0
TLS, PLAIN = True, False


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Give the port of a server that greets whoever comes, and hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        if context is not None:
                            context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def trusted(tmp_path: Path) -> dict[str, str]:
    """Properties that trust our authority."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"security.protocol": "sasl_ssl", "ssl.ca.location": str(tmp_path / "ca.pem")}


def certified(*names: str) -> ssl.SSLContext:
    """Return what a server with a certificate for some names needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


def only(server: str, properties: dict[str, str]) -> Probe:
    """Probe one server."""
    (found,) = probe([server], properties, SECONDS)
    return found


def test_a_name_that_nobody_knows_and_a_port_that_nobody_has() -> None:
    """The first two steps; each server is told by itself."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        free = server.getsockname()[1]
    with listening() as port:
        servers = ["nowhere.invalid:9092", f"127.0.0.1:{free}", f"PLAINTEXT://127.0.0.1:{port}", "k:x", "k:99999", ":1"]
        found = probe(servers, {}, SECONDS)
    steps = [Step.NAME, Step.TCP, Step.CONNECTED, Step.ADDRESS, Step.ADDRESS, Step.ADDRESS]
    assert [each.step for each in found] == steps
    assert "refused" in found[1].detail


def test_a_resolver_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the answer nor the end of the process waits for it; servers that answer are told."""
    let_go, resolve = threading.Event(), socket.getaddrinfo

    def slow(host: str, *args: object, **named: object) -> object:
        if host == "slow.invalid":
            let_go.wait(20)
        return resolve(host, *args, **named)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    begun_s = time.monotonic()
    with listening() as port:
        late, there = probe(["slow.invalid:9092", f"127.0.0.1:{port}"], {}, 0.3)
    took_s = time.monotonic() - begun_s
    waiting = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    let_go.set()
    assert took_s < 5
    assert (late.step, late.detail) == (Step.NAME, "no answer in time")
    assert there.step is Step.CONNECTED
    assert all(thread.daemon for thread in waiting)


def test_patience_bounds_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that takes connections and says nothing: `doctor` waits for as long as it is told to."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        took_s = {}
        for patience_s in (0.5, 2.0):
            begun_s = time.monotonic()
            code = cli.main(["doctor", "--json", "--bootstrap-servers", address, "--patience", str(patience_s)])
            took_s[patience_s] = time.monotonic() - begun_s
            assert code == ExitCode.UNREACHABLE
            assert "Kafka does not answer" in capsys.readouterr().out
    assert took_s[2.0] >= 2.0
    assert took_s[0.5] < 2.0


def test_a_trusted_certificate_tells_its_end(trusted: dict[str, str]) -> None:
    """All steps are passed, and it is known how long that will be so."""
    with listening(certified("127.0.0.1")) as port:
        found = only(f"127.0.0.1:{port}", trusted)
    assert found.step is Step.CONNECTED
    assert found.expires_s is not None


def test_another_name_is_told_apart_from_another_authority(trusted: dict[str, str], tmp_path: Path) -> None:
    """For librdkafka both are the same."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with listening(certified("kafka.example.org")) as port:
        server = f"127.0.0.1:{port}"
        name = only(server, trusted)
        authority = only(server, trusted | {"ssl.ca.location": str(tmp_path / "other.pem")})
        unchecked = only(server, trusted | {"ssl.endpoint.identification.algorithm": "none"})
        blind = only(server, trusted | {"enable.ssl.certificate.verification": "false"})
        elsewhere = only(server, trusted | {"ssl.keystore.location": "/somewhere/client.p12"})
    assert (name.step, authority.step) == (Step.TLS, Step.TLS)
    assert "mismatch" in name.detail
    assert "issuer" in authority.detail
    assert {each.step for each in (unchecked, blind, elsewhere)} == {Step.CONNECTED}
    advice = [finding.advice for each in (name, authority) for finding in said(tried([each], TLS, Missing("?"), []))]
    assert "a name of the certificate" in advice[0]
    assert "ssl.ca.location" in advice[1]


def test_a_server_without_tls_and_files_that_are_not_there(trusted: dict[str, str]) -> None:
    """Both end at the step of TLS, and say why."""
    with listening() as port:
        plain = only(f"127.0.0.1:{port}", trusted)
        missing = only(f"127.0.0.1:{port}", trusted | {"ssl.ca.location": "/nowhere/ca.pem"})
    assert plain.step is Step.TLS
    assert missing.step is Step.TLS
    assert "ssl.ca.location /nowhere/ca.pem cannot be used" in missing.detail


def tried(servers: list[Probe], encrypted: bool, cluster: ClusterSeen | Missing, advertised: list[Probe]) -> Reach:  # noqa: FBT001 - as short as the cases are many
    """Return how far connections came."""
    return Reach(servers, encrypted, cluster, advertised)


def said(reach: Reach) -> list[Finding]:
    """Judge at a fixed time."""
    return list(connection_findings(reach, NOW_S))


def test_one_server_of_several_that_is_away_is_a_warning() -> None:
    """The cluster answers; but when the others are away, too, nobody gets in."""
    away = Probe("a:1", Step.TCP, "Connection refused")
    found = said(tried([away, Probe("b:1", Step.CONNECTED)], PLAIN, SEEN, [Probe("k:9092", Step.CONNECTED)]))
    assert [each.status for each in found] == [Status.WARNING, Status.OK]
    assert [each.status for each in said(tried([away], PLAIN, Missing("?"), []))] == [Status.ERROR]


def test_a_broker_that_gives_an_address_which_leads_nowhere() -> None:
    """The classic: advertised.listeners names what only the broker's own machine knows."""
    found = said(tried([Probe("b:1", Step.CONNECTED)], PLAIN, SEEN, [Probe("k:9092", Step.NAME, "not known")]))
    assert [each.status for each in found] == [Status.OK, Status.ERROR]
    assert "k:9092" in found[1].message
    assert "advertised.listeners" in found[1].advice


@pytest.mark.parametrize(
    ("reason", "encrypted", "advice"),
    [
        ("ssl://k:1/bootstrap: tlsv13 alert certificate required", True, "ssl.certificate.location"),
        ("connecting to a PLAINTEXT broker listener?", True, "speaks no TLS"),
        ("Receive failed: Invalid response size 1213486160 (0..100000000)", False, "speaks no Kafka"),
        ("Failed to get metadata: Local: Broker transport failure", False, "security.protocol = SSL"),
        ("Failed to get metadata: Local: Broker transport failure", True, "the log of the broker"),
    ],
)
def test_what_librdkafka_says_is_read(reason: str, encrypted: bool, advice: str) -> None:  # noqa: FBT001 - of the table above
    """The likely cause is told as what to change."""
    (found,) = said(tried([Probe("k:1", Step.CONNECTED)], encrypted, Missing(reason), []))
    assert found.status is Status.ERROR
    assert advice in found.advice


def test_refused_credentials_are_told_as_such() -> None:
    """Whatever the broker's words are."""
    (found,) = said(tried([Probe("k:1", Step.CONNECTED)], TLS, Missing("no", forbidden=True), []))
    assert "the password" in found.advice


@pytest.mark.parametrize(
    ("left_s", "status"), [(86_400 * 13, Status.WARNING), (86_400 * 15, None), (-5, Status.WARNING)]
)
def test_a_certificate_that_ends_soon(left_s: int, status: Status | None) -> None:
    """Two weeks before, somebody should know."""
    reach = tried([Probe("k:1", Step.CONNECTED, "", NOW_S + left_s)], TLS, SEEN, [Probe("k:9092", Step.CONNECTED)])
    assert {each.status for each in said(reach)} - {Status.OK} == ({status} if status else set())


def test_a_certificate_that_is_not_trusted_is_always_told_in_words() -> None:
    """One handshake in ten ends where librdkafka adds nothing to what OpenSSL says."""
    failed = "ssl://k:9093/bootstrap: error:0A000086:SSL routines::certificate verify failed"
    explained = f"{failed}: broker certificate could not be verified, verify that ssl.ca.location is correct"
    for said in (failed, explained):
        reasons = Reasons()
        reasons(KafkaError(KafkaError._SSL, f"{said} (after 5ms in state SSL_HANDSHAKE)"))
        assert reasons.why.startswith(failed)
        assert reasons.why.count("certificate could not be verified, verify that ssl.ca.location") == 1


def test_the_refusal_goes_before_what_failed_first() -> None:
    """And how long it took is left out: the same failure is the same line."""
    reasons = Reasons()
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
    for error in (down, KafkaError(KafkaError._SSL, "k: no (after 5ms in state SSL_HANDSHAKE)"), down):
        reasons(error)
    assert reasons.why == "k: no"
    reasons(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    assert reasons.why == "wrong password"


def test_the_partition_of_a_group_is_javas() -> None:
    """String.hashCode, as Kafka makes it positive."""
    assert java_hash("") == 0
    assert java_hash("hello") == 99_162_322
    # The one with the least number there is.
    assert java_hash("polygenelubricants") == 0
    assert java_hash("\N{GRINNING FACE}") == 55_357 * 31 + 56_832
