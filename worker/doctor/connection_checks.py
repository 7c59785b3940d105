"""Whether Kafka can be reached, and at which step that ends."""

from collections.abc import Iterator

from worker.doctor.facts import Reach
from worker.doctor.findings import Area, Finding, Status, error, ok, warning
from worker.edges.kafka.diagnosis import Missing
from worker.edges.kafka.probing import Probe, Step

_AREA = Area.CONNECTION
_EXPIRES_S = 14 * 86_400
_ADVICE = {
    Step.ADDRESS: "write [kafka] bootstrap_servers as HOST:PORT, separated by commas",
    Step.NAME: "check the name in [kafka] bootstrap_servers, and the DNS of this machine or container",
    Step.TCP: "check that the broker runs, the port in [kafka] bootstrap_servers, firewalls and network policies",
    Step.TLS: "check ssl.ca.location in [kafka.properties], and that this listener speaks TLS",
}
_MEANING = {
    Step.ADDRESS: "is no address",
    Step.NAME: "has a name that cannot be resolved",
    Step.TCP: "takes no connection",
    Step.TLS: "is not trusted",
}
_OTHER_NAME = ("hostname mismatch", "ip address mismatch")


def connection_findings(reach: Reach, now_s: float) -> Iterator[Finding]:
    """Judge the way to the brokers.

    Args:
        reach: how far connections came.
        now_s: epoch seconds.
    """
    answered = not isinstance(reach.cluster, Missing)
    for probe in reach.servers:
        yield from _server(probe, Status.WARNING if answered else Status.ERROR)
        yield from _certificate(probe, now_s)
    if isinstance(reach.cluster, Missing):
        if any(probe.step is Step.CONNECTED for probe in reach.servers):
            yield error(_AREA, f"Kafka does not answer: {reach.cluster.reason}", _what_to_do(reach.cluster, reach))
        return
    count = len(reach.cluster.brokers)
    yield ok(_AREA, f"cluster {reach.cluster.cluster_id} answers, {count} broker{'' if count == 1 else 's'}")
    for place, probe in zip(reach.cluster.brokers, reach.advertised, strict=False):
        if probe.step is not Step.CONNECTED:
            yield error(
                _AREA,
                f"broker {place.number} says that it is at {place.address}, which {_meaning(probe)} from here",
                "set advertised.listeners of the broker to an address that this machine reaches",
            )


def _server(probe: Probe, status: Status) -> Iterator[Finding]:
    if probe.step is Step.CONNECTED:
        return
    advice = _ADVICE[probe.step]
    if probe.detail.lower().startswith(_OTHER_NAME):
        advice = "put a name of the certificate into [kafka] bootstrap_servers, or have one issued for this name"
    yield Finding(_AREA, status, f"{probe.server} {_meaning(probe)}", advice)


def _meaning(probe: Probe) -> str:
    return _MEANING[probe.step] + (f" ({probe.detail.rstrip('.')})" if probe.detail else "")


def _certificate(probe: Probe, now_s: float) -> Iterator[Finding]:
    if probe.expires_s is not None and probe.expires_s - now_s < _EXPIRES_S:
        days = max(0, int((probe.expires_s - now_s) // 86_400))
        yield warning(
            _AREA, f"the certificate of {probe.server} ends in {days} days", "have the broker's certificate renewed"
        )


def _what_to_do(missing: Missing, reach: Reach) -> str:
    """Guess from librdkafka's words what is wrong in [kafka.properties]."""
    said = missing.reason.lower()
    if missing.forbidden:
        return "check sasl.mechanism, sasl.username and the password in [kafka.properties] or the environment"
    if "certificate required" in said or "bad certificate" in said or "unknown ca" in said:
        return (
            "the broker wants a certificate of yours that it trusts: set ssl.certificate.location and ssl.key.location "
            "in [kafka.properties]"
        )
    if "plaintext broker listener" in said:
        return "this listener speaks no TLS: take another port, or another security.protocol in [kafka.properties]"
    if "invalid response size" in said:
        return "what answers there speaks no Kafka, or wants TLS: check the port, and security.protocol"
    if not reach.encrypted:
        return (
            "if this listener wants TLS or a password, say so: security.protocol = SSL, SASL_SSL or SASL_PLAINTEXT in "
            "[kafka.properties]"
        )
    return "check security.protocol, sasl.mechanism and ssl.* in [kafka.properties], and the log of the broker"
