"""Settings of the worker: defaults < TOML file < environment < command line, as frozen structs.

Nobody else reads the configuration file. What is unknown, wrong or unsafe is refused with one
line that says what to do; the value of a secret appears in no message, no `repr` and no `describe`.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from worker.core.options import EngineOptions, contradictions
from worker.elasticsearch_settings import ElasticsearchSettings, elasticsearch_problems, masked
from worker.environment import (
    SettingsError,
    elasticsearch_with_secrets,
    from_environment,
    put,
    put_target_secrets,
    target_with_secrets,
)
from worker.notify_settings import MASK, NotifySettings, TargetSettings, masked_target, notify_contradictions
from worker.ops_settings import OpsSettings

__all__ = [
    "ArtefactSettings",
    "ElasticsearchSettings",
    "KafkaSettings",
    "NotifySettings",
    "OpsSettings",
    "Settings",
    "SettingsError",
    "TargetSettings",
    "TopicSettings",
    "WorkerSettings",
    "describe",
    "load_settings",
    "with_elasticsearch_secrets",
    "with_secrets",
]

_SECRET = re.compile(r"password|passphrase|secret|token|credential|jaas|(^|[._])key([._]|$)", re.IGNORECASE)
_COMMIT_MS_MAX = 10_000
"""A commit takes no longer, and its abort as long again (`KafkaSink`)."""
_REPLACE_MS = 25_000
"""A producer that is replaced after a failed commit may take this long, and another look at the positions."""
_UNSAFE = "exactly-once depends on it"
_REFUSED_PROPERTIES = {
    "acks": _UNSAFE,
    "auto.commit.interval.ms": _UNSAFE,
    "auto.offset.reset": "say [worker] start_at; an offset that is gone must stop the worker, not be skipped",
    "bootstrap.servers": "say [kafka] bootstrap_servers",
    "check.crcs": "a damaged record must be noticed",
    "enable.auto.commit": _UNSAFE,
    "enable.auto.offset.store": _UNSAFE,
    "enable.idempotence": _UNSAFE,
    "enable.partition.eof": "the reader does not expect such events",
    "group.id": "say [kafka] group_id",
    "group.instance.id": "say [worker] instance_id and static_membership",
    "isolation.level": "records of aborted transactions would be read",
    "max.in.flight": _UNSAFE,
    "max.in.flight.requests.per.connection": _UNSAFE,
    "message.timeout.ms": "it follows [worker] transaction_timeout_ms",
    "delivery.timeout.ms": "it follows [worker] transaction_timeout_ms",
    "metadata.broker.list": "say [kafka] bootstrap_servers",
    "partition.assignment.strategy": "hand-over of state is written for cooperative-sticky",
    "request.required.acks": _UNSAFE,
    "retry.backoff.max.ms": "the sink tells by it whether a commit was asked for twice",
    "retry.backoff.ms": "the sink tells by it whether a commit was asked for twice",
    "transaction.timeout.ms": "say [worker] transaction_timeout_ms",
    "transactional.id": "it follows [kafka] group_id",
}

ARTEFACTS_FOLDER = "modelvigil-artefacts"

StorageOption = str | int | float | bool
TopicName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


class KafkaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach Kafka. `properties` go to every librdkafka client as they are (SASL, TLS, timeouts)."""

    bootstrap_servers: Annotated[str, Meta(min_length=1)] = "localhost:9092"
    group_id: Annotated[str, Meta(min_length=1, max_length=200)] = "modelvigil"
    properties: dict[str, str] = {}

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in _masked(msgspec.structs.asdict(self)).items())
        return f"KafkaSettings({fields})"


class TopicSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of all topics: the first three are read, the others written."""

    predictions: TopicName = "predictions"
    labels: TopicName = "labels"
    feedback: TopicName = "feedback"
    alerts: TopicName = "modelvigil.alerts"
    incidents: TopicName = "modelvigil.incidents"
    metrics: TopicName = "modelvigil.metrics"
    maintenance: TopicName = "modelvigil.maintenance"
    dead_letters: TopicName = "modelvigil.dead-letters"
    state: TopicName = "modelvigil.state"
    scores: TopicName = "modelvigil.scores"


class WorkerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Pace and bounds of the loop, and how it speaks."""

    commit_interval_ms: Annotated[int, Meta(ge=10, le=10_000)] = 200
    fetch_records_max: Annotated[int, Meta(ge=1, le=100_000)] = 40_000
    """In a backlog librdkafka gives some 3,000 records of one partition after the other: with fewer than this, one
    thread of the engine would have most of them, and a model's part of a batch would be small."""
    outputs_max: Annotated[int, Meta(ge=1, le=90_000)] = 20_000
    """Pending outputs that cause an early commit; the queue of a producer ends at 100,000."""
    handover_ms: Annotated[int, Meta(ge=0, le=60_000)] = 5_000
    """How long shards that are given up may be stored before that; what is not in time is replayed by the new owner."""
    idle_close_ms: Annotated[int, Meta(ge=100)] = 5_000
    """Silence of a partition after which panes that are over are published without waiting for a later event."""
    label_hold_ms: Annotated[int, Meta(ge=0, le=60_000)] = 2_000
    """Labels that are ahead of the predictions in a backlog wait, unless none has come so long and none is left."""
    start_at: Literal["earliest", "latest"] = "earliest"
    """Where a partition without a committed position begins."""
    lagging_ms: Annotated[int, Meta(ge=1_000)] = 60_000
    """Results that come so much later than their records were written are marked as late."""
    instance_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    """Names this worker for good, for example by its pod: a successor then ends a dead one's transaction at once."""
    static_membership: bool = False
    """Whether `instance_id` is also the group's name for it: a quick restart then moves no partition."""
    on_missing_state: Literal["fail", "fresh"] = "fail"
    """When a shard's state cannot be used: leave the shard alone and say so, or begin with empty state."""
    on_digest_mismatch: Literal["fail", "accept"] = "fail"
    """When a replay gave something else than the first run: leave the shard alone, or go on with what it gave."""
    restores_max: Annotated[int, Meta(ge=1, le=64)] = 2
    """Shards restored at the same time."""
    snapshot_interval_ms: Annotated[int, Meta(ge=100)] = 10_000
    """A shard that has changed is stored again after this long, unless that would cost too much time."""
    snapshot_records_max: Annotated[int, Meta(ge=1)] = 500_000
    """... or after so many records, which a restore would have to replay."""
    snapshot_commit_bytes_max: Annotated[int, Meta(ge=1_000_000, le=200_000_000)] = 4_000_000
    """Of a snapshot, written in one transaction."""
    snapshot_time_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.03
    """Of the worker's time that snapshots may take before they are stored less often."""
    watchdog_ms: Annotated[int, Meta(ge=30_000, le=900_000)] = 60_000
    """A loop that is silent for so long hangs: the process ends with 75, and whoever supervises it starts it again."""
    transaction_timeout_ms: Annotated[int, Meta(ge=5_000, le=900_000)] = 15_000
    engine_threads: Annotated[int, Meta(ge=0, le=64)] = 0
    """Partitions that one process works on at the same time; 0: as many as it may use cores, at most 4."""
    refit_processes: Annotated[int, Meta(ge=1, le=64)] = 1
    maintenance_cpu_share_max: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.2
    """Of the CPU that the engine takes, fits of challengers included; beyond it maintenance uses fewer events."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ArtefactSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the models of challengers are kept.

    Credentials come from where the file system's library finds them (for S3: the environment, or the instance's role),
    or from `options`.
    """

    url: str = ARTEFACTS_FOLDER
    """A folder, made when the first model is stored, or a URL that fsspec knows: s3://bucket/path. All workers must see
    the same. Empty: models are not kept."""
    artefacts_max: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Older ones are removed, but none that is deployed, offered, or that a rollback would go back to."""
    options: dict[str, StorageOption | dict[str, StorageOption]] = {}
    """For the file system, as they are (fsspec's storage options)."""
    mlflow_tracking_uri: str = ""
    """An MLflow server where they are registered, too; needs `modelvigil[mlflow]`."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in _masked(msgspec.structs.asdict(self)).items())
        return f"ArtefactSettings({fields})"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, one field for each table of the TOML file."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    worker: WorkerSettings = WorkerSettings()
    engine: EngineOptions = EngineOptions()
    notify: NotifySettings = NotifySettings()
    artefacts: ArtefactSettings = ArtefactSettings()
    ops: OpsSettings = OpsSettings()
    elasticsearch: ElasticsearchSettings = ElasticsearchSettings()


def load_settings(config: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Merge all sources and check the result.

    Args:
        config: the TOML file, if there is one.
        environ: the environment of the process.
        overrides: from the command line, by dotted name (`kafka.group_id`); None means "not given".

    Raises:
        SettingsError: with one line that says what to do.
    """
    tree = _read_toml(config) if config is not None else {}
    _flatten_properties(tree)
    _merge(tree, from_environment(environ))
    for path, value in overrides.items():
        if value is not None:
            put(tree, path.split("."), value)
    put_target_secrets(tree, environ)
    _refuse_unknown(tree, Settings, ())
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_in_plain_words(str(error))) from None
    _refuse_unsafe(settings.kafka.properties)
    _refuse_contradictions(settings)
    return settings


def describe(settings: Settings) -> dict[str, Any]:
    """Return all settings as plain values, secrets masked."""
    plain = _masked(msgspec.to_builtins(settings))
    plain["notify"]["targets"] = [msgspec.to_builtins(masked_target(target)) for target in settings.notify.targets]
    plain["elasticsearch"] = msgspec.to_builtins(masked(settings.elasticsearch))
    return plain


def with_secrets(settings: Settings) -> Settings:
    """Read the files that targets of `notify` name for their secrets. Raises SettingsError."""
    targets = tuple(map(target_with_secrets, settings.notify.targets))
    return msgspec.structs.replace(settings, notify=msgspec.structs.replace(settings.notify, targets=targets))


def with_elasticsearch_secrets(settings: Settings) -> Settings:
    """Read the files that `[elasticsearch]` names for its secrets. Raises SettingsError."""
    complete = elasticsearch_with_secrets(settings.elasticsearch)
    return msgspec.structs.replace(settings, elasticsearch=complete)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def _flatten_properties(tree: dict[str, Any]) -> None:
    """Make text of the values, and one dotted name of `ssl.ca.location = ...`, which TOML reads as nested tables."""
    kafka = tree.get("kafka")
    if isinstance(kafka, dict) and isinstance(kafka.get("properties"), dict):
        kafka["properties"] = dict(_flattened(kafka["properties"], ""))


def _flattened(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict):
            yield from _flattened(value, name + ".")
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, str | int | float):
            yield name, str(value)
        else:
            raise SettingsError(f"kafka.properties.{name}: expected text, a number or true/false")


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _refuse_unknown(tree: Mapping[str, Any], struct: type[Struct], path: tuple[str, ...]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in tree.items():
        name = ".".join((*path, key))
        if key not in fields:
            raise SettingsError(f"{name} is not a known setting: {_suggestion(key, path, list(fields))}")
        kind = fields[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Struct):
            _refuse_unknown(value, kind, (*path, key))


def _suggestion(key: str, path: tuple[str, ...], known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {'.'.join((*path, near[0]))}?"
    return f"{'.'.join(path) or 'the top level'} has {', '.join(sorted(known))}"


def _refuse_unsafe(properties: Mapping[str, str]) -> None:
    for name in properties:
        if name in _REFUSED_PROPERTIES:
            reason = _REFUSED_PROPERTIES[name]
            raise SettingsError(f"kafka.properties must not set {name}: {reason}; remove it")


def _in_plain_words(message: str) -> str:
    """Turn "Expected `int`, got `str` - at `$.worker.outputs_max`" around, so that the place comes first."""
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".") or "the configuration"
    return f"{path}: {problem[:1].lower()}{problem[1:]}".replace("`object`", "a table")


def _refuse_contradictions(settings: Settings) -> None:
    found = [*contradictions(settings.engine), *notify_contradictions(settings.notify)]
    found += [*_artefact_problems(settings.artefacts), *elasticsearch_problems(settings.elasticsearch)]
    worker = settings.worker
    if worker.static_membership and not worker.instance_id:
        found.append("worker.static_membership needs a worker.instance_id, another one for each worker")
    longest_ms = 2 * min(_COMMIT_MS_MAX, worker.transaction_timeout_ms) + _REPLACE_MS
    if worker.watchdog_ms < longest_ms:
        found.append(f"worker.watchdog_ms must be at least {longest_ms}: a commit that fails may take that long")
    if worker.commit_interval_ms * 2 > worker.transaction_timeout_ms:
        found.append("worker.transaction_timeout_ms must be at least twice worker.commit_interval_ms")
    by_name: dict[str, str] = {}
    for field, topic in msgspec.structs.asdict(settings.topics).items():
        if topic in by_name:
            found.append(f"topics.{field} and topics.{by_name[topic]} must not be the same topic ({topic})")
        by_name[topic] = field
    if found:
        raise SettingsError("; ".join(found))


def _artefact_problems(artefacts: ArtefactSettings) -> list[str]:
    """Refuse passwords in addresses: these are shown, logged and told."""
    found = []
    for name in ("url", "mlflow_tracking_uri"):
        try:
            parts = urlsplit(getattr(artefacts, name))
            if parts.username is not None or parts.password is not None:
                found.append(f"artefacts.{name} must not contain a user or a password: put them into the environment")
        except ValueError:
            found.append(f"artefacts.{name} is no address")
    return found


def _masked(tree: Mapping[str, Any]) -> dict[str, Any]:
    masked: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            masked[key] = _masked(value)
        else:
            masked[key] = MASK if isinstance(value, str) and _SECRET.search(key) else value
    return masked
