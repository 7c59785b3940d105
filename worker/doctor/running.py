"""One examination: facts, then findings in the order of areas."""

import time
from collections.abc import Iterator

from worker import __version__
from worker.doctor.access_checks import access_findings
from worker.doctor.cluster_checks import broker_findings, clock_findings, topic_findings
from worker.doctor.connection_checks import connection_findings
from worker.doctor.facts import Facts, Kafka
from worker.doctor.findings import Area, Finding
from worker.doctor.gathering import Options, gather
from worker.doctor.group_checks import group_findings, state_findings
from worker.doctor.machine_checks import documents_findings, machine_findings
from worker.doctor.report import Report, worst
from worker.doctor.sample_checks import sample_findings
from worker.edges.kafka.diagnosis import Missing
from worker.settings import Settings

_ORDER = list(Area)


def examine(settings: Settings, options: Options, principal: str) -> Report:
    """Look at everything. Raises ClientError if [kafka.properties] cannot be used at all."""
    facts = gather(settings, options)
    now_ms = int(time.time() * 1000)
    findings = sorted(judged(settings, facts, principal, now_ms), key=lambda finding: _ORDER.index(finding.area))
    return Report(
        version=__version__,
        group=settings.kafka.group_id,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        looked_ms=now_ms,
        status=worst(findings),
        findings=findings,
    )


def judged(settings: Settings, facts: Facts, principal: str, now_ms: int) -> Iterator[Finding]:
    """Yield everything that facts say."""
    yield from connection_findings(facts.reach, now_ms / 1000)
    if facts.kafka is not None and not isinstance(facts.reach.cluster, Missing):
        yield from _of_kafka(settings, facts.kafka, principal, len(facts.reach.cluster.brokers))
    yield from machine_findings(settings, facts.machine)
    yield from documents_findings(facts.documents)


def _of_kafka(settings: Settings, kafka: Kafka, principal: str, brokers: int) -> Iterator[Finding]:
    access, topics = kafka.access, kafka.topics
    yield from access_findings(settings, access, principal)
    yield from broker_findings(settings, topics.broker, brokers)
    yield from clock_findings(settings, kafka.clocks)
    yield from topic_findings(settings, topics, access)
    yield from group_findings(settings, access.group, kafka.state)
    yield from state_findings(kafka.state)
    yield from sample_findings(settings, kafka.sample)


def principal_of(settings: Settings) -> str:
    """Return as whom Kafka most likely knows this user, for commands that grant something."""
    return f"User:{settings.kafka.properties.get('sasl.username', 'modelvigil')}"
