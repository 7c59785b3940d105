"""Where `modelvigil ship elasticsearch` puts what workers publish: the table `[elasticsearch]`.

Rule 1: password and API key appear in no `repr` and no `describe`; addresses hold none.
Rule 2: a file with a secret is read when the command needs it, not before: a worker with the same TOML file need not
have it.
"""

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

Stream = Literal["alerts", "metrics", "maintenance", "dead_letters"]
STREAMS: Final[tuple[Stream, ...]] = ("alerts", "metrics", "maintenance", "dead_letters")
SECRETS: Final = ("password", "api_key")
"""Fields that can come from a file, too."""
VARIABLES: Final = (
    "urls",
    "username",
    "password",
    "password_file",
    "api_key",
    "api_key_file",
    "ca_file",
    "namespace",
    "ops_listen",
    "ops_port",
)
"""Fields that can come from the environment: MODELVIGIL_ELASTICSEARCH_URLS, ..."""
OPS_PORT: Final = 9465
_MASK = "********"
_API_KEY = re.compile(r"[A-Za-z0-9+/=_-]*")
_Days = Annotated[int, Meta(ge=1, le=36_500)]


class ElasticsearchSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster of Elasticsearch (8, 9) or OpenSearch (2, 3), and the pace at which it gets documents."""

    urls: tuple[str, ...] = ("http://localhost:9200",)
    """Nodes of the cluster, or what is in front of them. When one does not answer, the next one is asked."""
    username: str = ""
    password: str = ""
    password_file: str = ""
    api_key: str = ""
    """The encoded form, as the API returns it."""
    api_key_file: str = ""
    ca_file: str = ""
    """Certificates that are trusted instead of the system's."""
    namespace: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.]{0,99}$")] = "default"
    """The last part of the names of data streams: modelvigil-alerts-<namespace>."""
    streams: tuple[Stream, ...] = STREAMS
    """What is shipped."""
    group_id: Annotated[str, Meta(max_length=200)] = ""
    """The consumer group; empty: `<kafka.group_id>-ship-elasticsearch`."""
    start_at: Literal["earliest", "latest"] = "earliest"
    """Where a topic begins that was never shipped."""
    gzip: bool = False
    """Compress requests: a sixth of the bytes, for twice the CPU."""
    requests_max: Annotated[int, Meta(ge=1, le=16)] = 2
    """In flight at the same time."""
    bulk_records_max: Annotated[int, Meta(ge=1, le=5_000)] = 2_000
    bulk_bytes_max: Annotated[int, Meta(ge=100_000, le=50_000_000)] = 5_000_000
    """Of one request; a single larger document goes alone."""
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 200
    """A request that is not full waits so long for more records."""
    timeout_ms: Annotated[int, Meta(ge=100, le=600_000)] = 60_000
    """Of connecting, and of the answer. After it, it is looked up what has arrived."""
    retry_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    """Bound of the first pause after a failure; it doubles with each further one."""
    retry_max_ms: Annotated[int, Meta(ge=10, le=3_600_000)] = 30_000
    retry_after_max_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 600_000
    """A cluster that asks for a longer pause gets this one."""
    refused_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """Documents refused in a row, none taken between them. Beyond it the cluster is taken to be at fault: no dead
    letters, all is tried again."""
    alerts_days: _Days = 90
    """How long alerts, maintenance events and dead letters are kept after their index has rolled over: for the policies
    that `--setup` installs."""
    metrics_days: _Days = 30
    """The same, of metrics."""
    rollover_days: _Days = 7
    rollover_gb: Annotated[int, Meta(ge=1, le=10_000)] = 30
    ops_listen: str = "127.0.0.1"
    """Where `/metrics`, `/healthz` and `/readyz` of the command are; workers have `[ops]`."""
    ops_port: Annotated[int, Meta(ge=-1, le=65_535)] = -1
    """-1: 9465 if it is free, else none, and the log says so. 0: none. Any other must be free."""
    ops_socket: str = ""

    def __repr__(self) -> str:
        return f"ElasticsearchSettings({', '.join(f'{name}={value!r}' for name, value in masked(self).items())})"


def masked(settings: ElasticsearchSettings) -> dict[str, object]:
    """Return all fields as plain values, without secrets."""
    fields: dict[str, object] = structs.asdict(settings)
    fields |= {name: _MASK for name in SECRETS if fields[name]}
    return fields


def elasticsearch_problems(settings: ElasticsearchSettings) -> list[str]:
    """What cannot be used or cannot be meant together, one sentence each; no sentence holds a secret."""
    found = [problem for url in settings.urls for problem in _url_problems(url)]
    if not settings.urls:
        found.append("urls is empty")
    if not settings.streams or len(set(settings.streams)) < len(settings.streams):
        found.append(f"streams must name some of {', '.join(STREAMS)}, each once")
    twice = [name for name in SECRETS if getattr(settings, name) and getattr(settings, f"{name}_file")]
    found += [f"{name} and {name}_file are both given" for name in twice]
    if (settings.password or settings.password_file) and not settings.username:
        found.append("password needs a username")
    if settings.username and (settings.api_key or settings.api_key_file):
        found.append("username and api_key are both given")
    if ":" in settings.username or not settings.username.isprintable():
        found.append("username must not hold a colon")
    if not _API_KEY.fullmatch(settings.api_key):
        found.append("api_key must be the encoded form (base64), in one line")
    if settings.retry_ms > settings.retry_max_ms:
        found.append("retry_ms must not be larger than retry_max_ms")
    return [f"elasticsearch.{problem}" for problem in found]


def login_problems(settings: ElasticsearchSettings) -> list[str]:
    """What cannot be used when all secrets must be there."""
    found = elasticsearch_problems(settings)
    if settings.username and not settings.password:
        found.append("elasticsearch.username is given, a password is missing: say password_file")
    return found


def _url_problems(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return ["urls: one of them is no URL"]
    if "@" in parts.netloc:
        return ["urls must not hold a user or a password: say username and password, or api_key"]
    if parts.scheme not in {"http", "https"} or not usable or not url.isprintable() or " " in url:
        return [f"urls: {url} must be http://host:port or https://host:port"]
    return ["urls must have no query"] if parts.query or parts.fragment else []
