"""Asks everybody, side by side, and waits for nobody longer than agreed.

What Kafka is asked for runs on daemon threads: a question that never returns is given up, and ends with the process.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from worker.cluster import BrokerUnreachableError, TopicsError, connect, topic_names
from worker.core.events import InputTopic, RawBatch
from worker.doctor.facts import Access, Clocks, Facts, Kafka, Reach, Topics
from worker.doctor.machine import look
from worker.doctor.shipping import look_at_documents
from worker.edges.kafka import ClientError, KafkaConnection
from worker.edges.kafka.diagnosis import ClusterSeen, Diagnosis, Missing
from worker.edges.kafka.probing import Step, probe, uses_tls
from worker.edges.kafka.samples import newest
from worker.edges.kafka.topics import TopicAdmin
from worker.ports import SinkError, SourceError, UnavailableError
from worker.settings import Settings
from worker.state_admin.inspection import Depth, Report, inspect_state
from worker.state_admin.session import SelectionError, StateAdminError, open_session

_PROBE = 0.6
"""Of the patience: for a connection alone."""
_STEP = 2.5
"""For everything together that is asked once Kafka answers."""
_SAMPLE = 1.5
_EXPECTED = (
    BrokerUnreachableError,
    ClientError,
    OSError,
    SelectionError,
    SinkError,
    SourceError,
    StateAdminError,
    TopicsError,
    UnavailableError,
)
_Answer = TypeVar("_Answer")


class Options(NamedTuple):
    """How closely to look."""

    sample: int = 1_000
    """Records of predictions and of labels to read; 0: none."""
    patience_s: float = 4.0
    """Bound of each question; of some a fixed part or multiple."""


class _Question(Generic[_Answer]):
    """Something that is asked on a thread of its own, and the answer, once it is there."""

    def __init__(self, ask: Callable[[], _Answer]) -> None:
        self._ask = ask
        self.answer: _Answer | Missing = Missing("no answer in time")
        self.bug: BaseException | None = None

    def ask(self) -> None:
        """Ask; what fails in a way that was to be expected is an answer, too."""
        try:
            self.answer = self._ask()
        except _EXPECTED as error:
            self.answer = Missing(" ".join(str(error).split()))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self.bug = error


def gather(settings: Settings, options: Options) -> Facts:
    """Find out everything, within five times the patience.

    Raises:
        ClientError: [kafka.properties] cannot be used at all.
    """
    connection = connect(settings)
    # Built here, because what it refuses is a wrong configuration, and no fact.
    diagnosis = Diagnosis(connection, timeout_s=options.patience_s)
    machine = _Question(lambda: look(settings))
    reach = _Question(lambda: _reach(settings, diagnosis, options.patience_s * _PROBE))
    documents = _Question(lambda: look_at_documents(settings))
    within_s = options.patience_s * _STEP
    _ask(within_s, machine, reach, documents)
    if isinstance(reach.answer, Missing):
        return Facts(
            Reach([], encrypted=False, cluster=reach.answer, advertised=[]), None, machine.answer, documents.answer
        )
    cluster = reach.answer.cluster
    kafka = None if isinstance(cluster, Missing) else _kafka(settings, connection, diagnosis, cluster, options)
    return Facts(reach.answer, kafka, machine.answer, documents.answer)


def _reach(settings: Settings, diagnosis: Diagnosis, probe_s: float) -> Reach:
    properties = settings.kafka.properties
    servers = [each for each in settings.kafka.bootstrap_servers.split(",") if each.strip()]
    probes = probe(servers, properties, probe_s)
    # Python and librdkafka may disagree about certificates, but not about who listens.
    deaf = all(each.step in {Step.ADDRESS, Step.NAME, Step.TCP} for each in probes)
    cluster = Missing("no server takes a connection") if deaf else diagnosis.cluster()
    places = [] if isinstance(cluster, Missing) else [place.address for place in cluster.brokers]
    # Their certificates are for librdkafka to judge: here it is asked whether the addresses lead anywhere.
    return Reach(probes, uses_tls(properties), cluster, probe(places, {}, probe_s))


def _kafka(
    settings: Settings, connection: KafkaConnection, diagnosis: Diagnosis, cluster: ClusterSeen, options: Options
) -> Kafka:
    names, group_id = topic_names(settings), settings.kafka.group_id
    seen = cluster.topics_of(names)
    by_role = {role: topic.partitions for role, topic in seen.items()}
    by_name = {names[role]: count for role, count in by_role.items()}
    admin = TopicAdmin(connection, names, timeout_ms=int(options.patience_s * 1_000))
    findings = _Question(admin.check)
    operations = _Question(lambda: diagnosis.topic_operations(list(names.values())))
    group = _Question(lambda: diagnosis.group(group_id))
    transactions = _Question(
        lambda: diagnosis.try_transactions(f"{group_id}-doctor", settings.worker.transaction_timeout_ms)
    )
    configs = _Question(lambda: diagnosis.settings_of_topics(list(by_name)))
    broker = _Question(lambda: diagnosis.settings_of_broker(cluster.brokers[0].number))
    clocks = _Question(lambda: _clocks(diagnosis, by_name, group_id))
    state = _Question(lambda: _state(settings))
    sample = _Question(lambda: _sample(settings, connection, by_role, options))
    within_s = options.patience_s * _STEP
    _ask(within_s, findings, operations, group, transactions, configs, broker, clocks, state, sample)
    return Kafka(
        Access(operations.answer, group.answer, transactions.answer),
        Topics(findings.answer, seen, configs.answer, broker.answer),
        clocks.answer,
        state.answer,
        sample.answer,
    )


def _clocks(diagnosis: Diagnosis, partitions: Mapping[str, int], group_id: str) -> Clocks:
    newest_ms, commit_ms = diagnosis.newest_ms(partitions), diagnosis.last_commit_ms(group_id)
    # Looked at last: what is later than this was written by a clock that is ahead.
    return Clocks(int(time.time() * 1000), newest_ms, commit_ms)


def _state(settings: Settings) -> Report:
    with open_session(settings) as session:
        return inspect_state(session, session.selected(()), Depth())


def _sample(
    settings: Settings, connection: KafkaConnection, partitions: Mapping[str, int], options: Options
) -> Mapping[InputTopic, Sequence[RawBatch]] | Missing:
    if not options.sample:
        return Missing("not asked for (--sample 0)")
    inputs = {InputTopic.PREDICTIONS: "predictions", InputTopic.LABELS: "labels"}
    there = {
        topic: (str(getattr(settings.topics, role)), partitions[role])
        for topic, role in inputs.items()
        if role in partitions
    }
    batches = newest(
        connection,
        group_id=settings.kafka.group_id,
        topics=there,
        records_max=options.sample,
        timeout_ms=int(options.patience_s * _SAMPLE * 1_000),
    )
    return {topic: [batch for batch in batches if batch.topic is topic] for topic in there}


def _ask(within_s: float, *questions: _Question[Any]) -> None:
    """Ask all at once, and wait for all, but not for long. Raises what is no failure of Kafka, but a bug."""
    threads = [threading.Thread(target=each.ask, daemon=True) for each in questions]
    deadline_s = time.monotonic() + within_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    for each in questions:
        if each.bug is not None:
            raise each.bug
