"""What was found out, before anything is judged. Whatever could not be is a `Missing`."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.diagnosis import ClusterSeen, GroupSeen, Missing, TopicSeen
from worker.edges.kafka.probing import Probe
from worker.edges.kafka.topics import Finding as TopicFinding
from worker.state_admin.inspection import Report as StateReport


class Reach(NamedTuple):
    """How far a connection comes."""

    servers: Sequence[Probe]
    """Those of the settings."""
    encrypted: bool
    cluster: ClusterSeen | Missing
    advertised: Sequence[Probe]
    """The addresses that brokers give of themselves; none if the cluster was not seen."""


class Access(NamedTuple):
    """What this user may do."""

    topics: Mapping[str, frozenset[str] | Missing] | Missing
    """By name."""
    group: GroupSeen | Missing
    transactions: Missing | None
    """Why a transactional id could not be registered; None: it could."""


class Topics(NamedTuple):
    """The topics."""

    findings: Sequence[TopicFinding] | Missing
    seen: Mapping[str, TopicSeen]
    """By role, without those that are not there."""
    settings: Mapping[str, Mapping[str, str] | Missing] | Missing
    """By name."""
    broker: Mapping[str, str] | Missing
    """Settings of one broker."""


class Clocks(NamedTuple):
    """Timestamps, beside the time at which they were asked for."""

    asked_ms: int
    newest_ms: Mapping[str, int | Missing | None]
    """The greatest one of each topic, by name."""
    last_commit_ms: int | Missing | None
    """By the clock of the broker that coordinates the group."""


class Kafka(NamedTuple):
    """All that Kafka told."""

    access: Access
    topics: Topics
    clocks: Clocks | Missing
    state: StateReport | Missing
    sample: Mapping[InputTopic, Sequence[RawBatch]] | Missing
    """The newest records of the inputs that are there."""


class Port(NamedTuple):
    """Where metrics are to be served."""

    state: Literal["free", "served", "taken", "impossible"]
    detail: str = ""


class Machine(NamedTuple):
    """This machine and what is installed."""

    python: str
    processors: int
    compiled_at: str
    """Where compiled kernels are kept; empty if nowhere."""
    port: Port
    artefacts: str
    """Why models cannot be kept; empty if they can, or need not."""
    artefacts_tried: bool
    secrets: str
    """Which file of a secret cannot be read; empty if all can."""


class Documents(NamedTuple):
    """The cluster that documents are shipped to."""

    templates_missing: Sequence[str]


class Facts(NamedTuple):
    """Everything."""

    reach: Reach
    kafka: Kafka | None
    """None if nobody answers."""
    machine: Machine | Missing
    documents: Documents | Missing | None
    """None if `[elasticsearch]` is not set."""
