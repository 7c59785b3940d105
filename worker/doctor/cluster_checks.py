"""Whether brokers, topics and clocks are as a worker needs them."""

from collections.abc import Iterator, Mapping

from worker.core.snapshot import CHUNK_BYTES_MAX
from worker.doctor.facts import Access, Clocks, Topics
from worker.doctor.findings import Area, Finding, error, ok, unknown, warning
from worker.edges.kafka import METADATA_BYTES_MAX
from worker.edges.kafka.calls import RECORD_BYTES_MAX
from worker.edges.kafka.diagnosis import Missing, TopicSeen
from worker.edges.kafka.topics import UNREADABLE
from worker.settings import Settings

_BROKER, _TOPICS, _CLOCK = Area.BROKER, Area.TOPICS, Area.CLOCK
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_MINUTES_A_DAY = 1_440
_SNAPSHOTS_MIN = 10
"""So many intervals between snapshots the inputs must be kept, or a restart after a crash finds them gone."""
_SEGMENT_MS_MAX = 6 * _HOUR_MS
_CHUNK_EXTRA_BYTES = 1_000
"""Key, headers and the frame of a record."""
_SKEW_MS_MAX = 2_000
_RECENT_MS = 10_000
_ALTER = (
    "kafka-configs --bootstrap-server {servers} --alter --entity-type topics --entity-name {topic} --add-config {set}"
)


def broker_findings(settings: Settings, broker: Mapping[str, str] | Missing, brokers: int) -> Iterator[Finding]:
    """Judge what the brokers are set to."""
    if brokers == 1:
        yield warning(_BROKER, "there is one broker: when it is lost, everything is", "run three or more in production")
    if isinstance(broker, Missing):
        advice = "grant DescribeConfigs on the cluster to have them checked" if broker.forbidden else ""
        yield unknown(_BROKER, f"settings of the brokers: {broker.reason}", advice)
        return
    found = list(_broker_settings(settings, broker))
    yield from found or [ok(_BROKER, "offset metadata, transactions and retention of positions are as they must be")]


def _broker_settings(settings: Settings, broker: Mapping[str, str]) -> Iterator[Finding]:
    metadata = _number(broker, "offset.metadata.max.bytes")
    if metadata is not None and metadata <= METADATA_BYTES_MAX:
        yield error(
            _BROKER,
            f"offset.metadata.max.bytes is {metadata}: workers commit up to {METADATA_BYTES_MAX} bytes with a position",
            "set it to 4096, Kafka's default, on all brokers",
        )
    longest, ours = _number(broker, "transaction.max.timeout.ms"), settings.worker.transaction_timeout_ms
    if longest is not None and longest < ours:
        yield error(
            _BROKER,
            f"transaction.max.timeout.ms is {longest}, worker.transaction_timeout_ms {ours}",
            "make the worker's smaller, or the brokers' larger",
        )
    kept = _number(broker, "offsets.retention.minutes")
    if kept is not None and kept < _MINUTES_A_DAY:
        yield warning(
            _BROKER,
            f"offsets.retention.minutes is {kept}: after so long without workers their positions are forgotten",
            "set it to 10080, Kafka's default, on all brokers",
        )


def topic_findings(settings: Settings, topics: Topics, access: Access) -> Iterator[Finding]:
    """Judge the topics: those that exist, their partitions and their settings. Of what is hidden, access tells."""
    if isinstance(topics.findings, Missing):
        yield unknown(_TOPICS, f"the topics: {topics.findings.reason}")
        return
    hidden = (
        set()
        if isinstance(access.topics, Missing)
        else {name for name, each in access.topics.items() if isinstance(each, Missing) and each.forbidden}
    )
    found = [
        _from_admin(each.severity, each.topic, each.message)
        for each in topics.findings
        if each.topic not in hidden and not each.message.startswith(UNREADABLE)
    ]
    configs = {} if isinstance(topics.settings, Missing) else topics.settings
    found += _record_size(settings)
    for role, seen in topics.seen.items():
        found += _spread(getattr(settings.topics, role), seen, configs)
    for role in ("predictions", "labels"):
        found += _retention(settings, getattr(settings.topics, role), configs)
    for role in ("state", "incidents"):
        found += _compaction(settings, getattr(settings.topics, role), configs)
    unread = [name for name, each in configs.items() if isinstance(each, Missing)]
    if unread:
        found.append(unknown(_TOPICS, f"settings of {', '.join(unread)}", "grant DescribeConfigs to have them checked"))
    if not found and not hidden:
        yield ok(_TOPICS, "all topics are there, with partitions and settings that fit")
    yield from found


def _from_admin(severity: str, topic: str, message: str) -> Finding:
    said, _, advice = message.partition(": ")
    if "does not exist" in said:
        advice = advice if "modelvigil" in advice else "run `modelvigil topics create`"
    return (error if severity == "error" else warning)(_TOPICS, f"{topic} {said}", advice)


def _record_size(settings: Settings) -> Iterator[Finding]:
    """Refuse records that cannot hold a chunk of a snapshot."""
    largest = _number(settings.kafka.properties, "message.max.bytes")
    if largest is not None and largest < CHUNK_BYTES_MAX + _CHUNK_EXTRA_BYTES:
        yield error(
            _TOPICS,
            f"message.max.bytes is {largest} in [kafka.properties]: snapshots are written in records of up to "
            f"{CHUNK_BYTES_MAX} bytes",
            f"set it to {RECORD_BYTES_MAX} or more, or leave it out",
        )


def _spread(topic: str, seen: TopicSeen, configs: Mapping[str, Mapping[str, str] | Missing]) -> Iterator[Finding]:
    """Tell partitions that are away, and copies without which nothing is taken."""
    if seen.leaderless:
        yield error(
            _TOPICS,
            f"{topic}: {seen.leaderless} of {seen.partitions} partitions have no leader",
            "bring back the brokers that have them (kafka-topics --describe --unavailable-partitions)",
        )
    config = configs.get(topic)
    needed = None if config is None or isinstance(config, Missing) else _number(config, "min.insync.replicas")
    if needed is not None and needed > seen.copies:
        yield error(
            _TOPICS,
            f"{topic} has {seen.copies} copies, and takes records only with {needed} in sync: it takes none",
            f"lower its min.insync.replicas to {max(1, seen.copies - 1)}, or give it more copies",
        )
    elif needed is not None and needed > seen.in_sync:
        yield error(
            _TOPICS,
            f"{topic} takes records only with {needed} copies in sync, a partition has {seen.in_sync}",
            "bring back the brokers that have the others (kafka-topics --describe --under-min-isr-partitions)",
        )


def _retention(settings: Settings, topic: str, configs: Mapping[str, Mapping[str, str] | Missing]) -> Iterator[Finding]:
    config = configs.get(topic)
    kept_ms = None if config is None or isinstance(config, Missing) else _number(config, "retention.ms")
    if kept_ms is None or kept_ms < 0:
        return
    least_ms = _SNAPSHOTS_MIN * settings.worker.snapshot_interval_ms
    message = f"{topic} keeps records for {_spoken(kept_ms)}"
    advice = _ALTER.format(servers=settings.kafka.bootstrap_servers, topic=topic, set="retention.ms=604800000")
    if kept_ms < least_ms:
        yield error(
            _TOPICS,
            f"{message}: a restart after a crash reads what came since the last snapshot, and would find it gone",
            advice,
        )
    elif kept_ms < _DAY_MS:
        yield warning(_TOPICS, f"{message}: workers that are down for longer lose what came meanwhile", advice)


def _compaction(
    settings: Settings, topic: str, configs: Mapping[str, Mapping[str, str] | Missing]
) -> Iterator[Finding]:
    config = configs.get(topic)
    segment_ms = None if config is None or isinstance(config, Missing) else _number(config, "segment.ms")
    if segment_ms is not None and segment_ms > _SEGMENT_MS_MAX:
        yield warning(
            _TOPICS,
            f"{topic} closes a segment after {_spoken(segment_ms)}: until then nothing in it is compacted",
            _ALTER.format(servers=settings.kafka.bootstrap_servers, topic=topic, set="segment.ms=1200000"),
        )


def clock_findings(settings: Settings, clocks: Clocks | Missing) -> Iterator[Finding]:
    """Compare this machine's clock with timestamps: one that is later than now tells a skew for certain."""
    if isinstance(clocks, Missing):
        yield unknown(_CLOCK, f"clocks: {clocks.reason}")
        return
    ahead = list(_ahead(settings, clocks))
    yield from ahead
    commit_ms = clocks.last_commit_ms
    if isinstance(commit_ms, Missing) or commit_ms is None or clocks.asked_ms - commit_ms > _RECENT_MS:
        if not ahead:
            yield unknown(
                _CLOCK,
                "no timestamp is later than this machine's clock; how far it is ahead of the brokers cannot be told",
                "ask again while workers run, as a user who may Describe topic __consumer_offsets",
            )
    elif commit_ms - clocks.asked_ms > _SKEW_MS_MAX:
        yield _skewed("the broker of the group", commit_ms - clocks.asked_ms)
    elif not ahead:
        yield ok(_CLOCK, f"this clock and the broker's are less than {_RECENT_MS // 1000} s apart")


def _ahead(settings: Settings, clocks: Clocks) -> Iterator[Finding]:
    roles = {getattr(settings.topics, role): role for role in settings.topics.__struct_fields__}
    for topic, newest_ms in clocks.newest_ms.items():
        if isinstance(newest_ms, int) and newest_ms - clocks.asked_ms > _SKEW_MS_MAX:
            who = "a writer" if roles.get(topic) in {"predictions", "labels", "feedback"} else "a worker"
            yield _skewed(f"{who} of {topic}", newest_ms - clocks.asked_ms)


def _skewed(whose: str, skew_ms: int) -> Finding:
    return warning(
        _CLOCK,
        f"{whose} has a clock that is {_spoken(skew_ms)} ahead of this machine's",
        "run NTP (chrony) on both: late events, label lags and `timestamp_in_future` depend on clocks",
    )


def _number(settings: Mapping[str, str], name: str) -> int | None:
    try:
        return int(settings[name])
    except (KeyError, ValueError):
        return None


def _spoken(span_ms: int) -> str:
    for unit, size_ms in (("days", _DAY_MS), ("h", _HOUR_MS), ("min", 60_000), ("s", 1_000)):
        if span_ms >= 2 * size_ms:
            return f"{span_ms / size_ms:.0f} {unit}"
    return f"{span_ms} ms"
