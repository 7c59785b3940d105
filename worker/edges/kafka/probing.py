"""Why a broker cannot be reached: its name, its port, its certificate, or what it says of us.

librdkafka tries again for ever and says the same of a certificate for another name and of one by an unknown authority.
So the steps of a connection are taken one by one here, with Python's own sockets.
"""

import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from confluent_kafka import KafkaError

from worker.edges.kafka.client import ErrorWatch

PORT = 9092
"""Where an address names none, as librdkafka takes it."""
SERVERS_MAX = 16
"""Further ones are not looked at."""
_LATE = "no answer in time"
_SLACK_S = 0.2
"""So that a step that is given up in time tells so itself."""
_LEAST_S = 0.01
_TLS = frozenset({"ssl", "sasl_ssl"})
_ONLY_LIBRDKAFKA = frozenset(
    {
        "ssl.ca.certificate.stores",
        "ssl.certificate.pem",
        "ssl.engine.location",
        "ssl.key.pem",
        "ssl.keystore.location",
        "ssl.providers",
    }
)
"""With any of these Python would judge by other certificates than librdkafka does: TLS is not tried."""
_WHEN = re.compile(r" \(after \d+ms in state \w+\)")
_VERIFY_FAILED = "certificate verify failed"
_UNTRUSTED = ": broker certificate could not be verified, verify that ssl.ca.location is right, and the broker's name"
"""What librdkafka adds, but not if the handshake ends early."""
_NOTHING_SAID = frozenset({KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001 - a public code of librdkafka's


class Step(StrEnum):
    """Where a connection ended."""

    ADDRESS = "address"
    """It is no HOST:PORT."""
    NAME = "name"
    """The name cannot be resolved."""
    TCP = "tcp"
    """Nobody takes the connection."""
    TLS = "tls"
    """The certificate is not trusted, or no TLS is spoken."""
    CONNECTED = "connected"
    """All of these are passed. Whether Kafka answers is another question."""


class Probe(NamedTuple):
    """What became of one server."""

    server: str
    step: Step
    detail: str = ""
    expires_s: float | None = None
    """Epoch seconds at which the broker's certificate ends; None without TLS, or if it is not verified."""


@dataclass(slots=True)
class Reasons(ErrorWatch):
    """Remembers the first thing, too, that librdkafka could not do: the call itself only says "transport failure"."""

    first: str = ""

    def __call__(self, error: KafkaError) -> None:
        """Serve librdkafka's `error_cb`."""
        ErrorWatch.__call__(self, error)
        if not self.first and error.code() not in _NOTHING_SAID:
            self.first = error.str()

    @property
    def why(self) -> str:
        """The refusal, or else the first failure, or nothing."""
        said = _WHEN.sub("", self.refusal or self.first)
        return said + _UNTRUSTED if said.endswith(_VERIFY_FAILED) else said


def probe(servers: Sequence[str], properties: Mapping[str, str], timeout_s: float) -> list[Probe]:
    """Try to connect to each server at the same time.

    Args:
        servers: HOST:PORT, maybe with a protocol before it.
        properties: [kafka.properties]; with TLS in them, it is tried, too.
        timeout_s: for all of it.
    """
    comparable = uses_tls(properties) and not _ONLY_LIBRDKAFKA & properties.keys()
    context = _tls_context(properties) if comparable else None
    chosen = list(servers)[:SERVERS_MAX]
    ends_s = time.monotonic() + timeout_s
    answers: list[Future[Probe]] = [Future() for _ in chosen]
    for server, answer in zip(chosen, answers, strict=True):
        # A daemon: a resolver may take half a minute, and must not hold up the end of the process.
        threading.Thread(target=_settle, args=(answer, server, context, ends_s), daemon=True).start()
    wait(answers, timeout_s + _SLACK_S)
    # Looking up a name is the only step without a limit of its own.
    return [
        answer.result() if answer.done() else Probe(server, Step.NAME, _LATE)
        for server, answer in zip(chosen, answers, strict=True)
    ]


def uses_tls(properties: Mapping[str, str]) -> bool:
    """Tell whether connections are encrypted."""
    return properties.get("security.protocol", "plaintext").lower() in _TLS


def _tls_context(properties: Mapping[str, str]) -> ssl.SSLContext | str:
    """Return how certificates are verified, as librdkafka would; a text if files cannot be used."""
    location, pem = properties.get("ssl.ca.location"), properties.get("ssl.ca.pem")
    certificate, key = properties.get("ssl.certificate.location"), properties.get("ssl.key.location")
    what = f"ssl.ca.location {location}"
    try:
        context = _trusting(location, pem)
        what = f"ssl.certificate.location {certificate}, ssl.key.location {key}"
        if certificate is not None:
            # Never asks for a passphrase at the terminal.
            context.load_cert_chain(certificate, key, lambda: properties.get("ssl.key.password", ""))
    except (OSError, ValueError) as error:
        return f"{what} cannot be used: {error}"
    if properties.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if properties.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(location: str | None, pem: str | None) -> ssl.SSLContext:
    if location is None or location == "probe":
        return ssl.create_default_context(cadata=pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=location)
    except IsADirectoryError:
        context.load_verify_locations(capath=location)
    return context


def _settle(answer: "Future[Probe]", server: str, context: ssl.SSLContext | str | None, ends_s: float) -> None:
    try:
        answer.set_result(_probe(server, context, ends_s))
    except BaseException as error:  # noqa: BLE001 - raised again by who waits
        answer.set_exception(error)


def _probe(server: str, context: ssl.SSLContext | str | None, ends_s: float) -> Probe:
    host, port = _address(server)
    if port is None:
        return Probe(server, Step.ADDRESS, "it is not HOST:PORT")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Probe(server, Step.NAME, _said(error))
    detail = ""
    for place, (family, kind, protocol, _, address) in enumerate(found):
        with socket.socket(family, kind, protocol) as connection:
            # Each further address gets its part of what is left.
            connection.settimeout(_left_s(ends_s) / (len(found) - place))
            try:
                connection.connect(address)
            except OSError as error:
                detail = f"{address[0]}: {_said(error)}"
            else:
                connection.settimeout(_left_s(ends_s))
                return _greeted(server, host, connection, context)
    return Probe(server, Step.TCP, detail)


def _greeted(server: str, host: str, connection: socket.socket, context: ssl.SSLContext | str | None) -> Probe:
    if context is None:
        return Probe(server, Step.CONNECTED)
    if isinstance(context, str):
        return Probe(server, Step.TLS, context)
    try:
        with context.wrap_socket(connection, server_hostname=host) as encrypted:
            certificate = encrypted.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Probe(server, Step.TLS, error.verify_message)
    except OSError as error:
        return Probe(server, Step.TLS, _said(error))
    ends = certificate.get("notAfter")
    return Probe(server, Step.CONNECTED, "", ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None)


def _address(server: str) -> tuple[str, int | None]:
    """Split it; no port where it cannot be understood."""
    rest = server.strip().rpartition("://")[2]
    host, colon, port = rest.rpartition(":")
    if rest.startswith("[") and rest.endswith("]"):
        host, colon, port = rest, "", ""
    if not colon:
        host, port = host or rest, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    return host, int(port) if host and port.isdecimal() and 0 < int(port) < 1 << 16 else None


def _left_s(ends_s: float) -> float:
    return max(ends_s - time.monotonic(), _LEAST_S)


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return _LATE
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
