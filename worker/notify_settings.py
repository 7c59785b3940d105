"""Where alerts are delivered to: the tables `[notify]` and `[[notify.targets]]`.

Rule 1: URLs, headers, secrets and tokens may open doors: no `repr` and no `describe` shows them.
Rule 2: a file with a secret is read when messages are sent, not before: a worker with the same TOML file need not have
it.
"""

import re
from string import Template
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

MASK = "********"
OPS_PORT = 9466
ALERTMANAGER_PATH = "/api/v2/alerts"
SECRETS = ("url", "secret", "bearer_token")
"""Fields that can come from a file or from the environment, too."""
TEMPLATE_FIELDS = (
    "alert_id",
    "details",
    "duration",
    "expected",
    "feature",
    "fingerprint",
    "headline",
    "incident_id",
    "kind",
    "late",
    "model_id",
    "model_version",
    "observed",
    "opened_at",
    "resolved_at",
    "runbook",
    "segment",
    "severity",
    "shard",
    "situation",
    "situation_id",
    "status",
    "summary",
    "timestamp",
    "title",
)
DEFAULT_TEMPLATE = "$title\n$summary\n$details"
_OURS = {"content-length", "content-type", "host", "idempotency-key", "modelvigil-signature", "transfer-encoding"}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")

_Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
Status = Literal["opened", "updated", "resolved"]


class TargetSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One receiver. What it gets has to fit all of `models`, `kinds`, `severity_min` and `statuses`."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    """Part of its consumer group and of idempotency keys: a new name is a new receiver."""
    kind: Literal["alertmanager", "slack", "webhook"]
    url: str = ""
    """Of Alertmanager its base, without `/api/v2/alerts`."""
    url_file: str = ""
    headers: dict[str, str] = {}
    bearer_token: str = ""
    bearer_token_file: str = ""
    secret: str = ""
    """Key of the signature (HMAC-SHA256); empty: not signed."""
    secret_file: str = ""
    ca_file: str = ""
    """Certificates that are trusted instead of the system's."""
    models: tuple[_Pattern, ...] = ("*",)
    """Shell patterns; one that fits is enough."""
    kinds: tuple[_Pattern, ...] = ("*",)
    severity_min: Literal["info", "warning", "critical"] = "info"
    statuses: tuple[Status, ...] = ("opened", "updated", "resolved")
    template: Annotated[str, Meta(max_length=10_000)] = DEFAULT_TEMPLATE
    """Text with `$name` or `${name}`; `$$` is a dollar sign."""
    timeout_ms: Annotated[int, Meta(ge=100, le=120_000)] = 10_000
    """Of connecting, and of each wait for a part of the answer."""
    retry_ms: Annotated[int, Meta(ge=10, le=60_000)] = 1_000
    """Bound of the first pause after a failure; it doubles with each further one."""
    retry_max_ms: Annotated[int, Meta(ge=10, le=3_600_000)] = 60_000
    retry_after_max_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 600_000
    """A receiver that asks for a longer pause gets this one."""
    give_up_ms: Annotated[int, Meta(ge=1_000, le=604_800_000)] = 14_400_000
    """A receiver that has taken nothing for so long is offered each further alert once: then it is a dead letter."""
    resend_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)] = 60_000
    """Alertmanager is told of open incidents so often: it forgets them after its `resolve_timeout`."""
    open_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Open incidents that are told again."""

    def __repr__(self) -> str:
        return f"TargetSettings({', '.join(f'{name}={value!r}' for name, value in masked_target(self).items())})"


class NotifySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Delivery of alerts by `modelvigil notify`."""

    targets: tuple[TargetSettings, ...] = ()
    group_id: Annotated[str, Meta(max_length=150)] = ""
    """Each target has the consumer group `<group_id>-<target>`; empty: `<kafka.group_id>-notify`."""
    start_at: Literal["earliest", "latest"] = "latest"
    """Where a target begins that has never been served."""
    runbooks_url: str = ""
    """Where `deploy/runbooks` can be read: put in front of the runbook's name, with `.md` behind it."""
    ops_listen: str = "127.0.0.1"
    """Where `/metrics`, `/healthz` and `/readyz` of the command are; workers have `[ops]`."""
    ops_port: Annotated[int, Meta(ge=-1, le=65_535)] = -1
    """-1: 9466 if it is free, else none, and the log says so. 0: none. Any other must be free."""
    ops_socket: str = ""


def masked_target(target: TargetSettings) -> dict[str, object]:
    """Return all fields of a target as plain values, without what opens a door."""
    fields: dict[str, object] = structs.asdict(target)
    for name in SECRETS:
        if fields[name]:
            fields[name] = MASK
    if target.url:
        fields["url"] = origin_of(target.url)
    fields["headers"] = dict.fromkeys(target.headers, MASK)
    return fields


def origin_of(url: str) -> str:
    """Return scheme, host and port: the path of a webhook is often its password."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return MASK
    return f"{parts.scheme}://{parts.hostname or ''}{port}/{MASK if parts.path.strip('/') or parts.query else ''}"


def endpoint(target: TargetSettings) -> str:
    """Return where requests go."""
    if target.kind != "alertmanager" or target.url.endswith(ALERTMANAGER_PATH):
        return target.url
    return target.url.rstrip("/") + ALERTMANAGER_PATH


def notify_contradictions(options: NotifySettings) -> list[str]:
    """What cannot be used or cannot be meant together, one sentence each."""
    found = []
    names = [target.name for target in options.targets]
    found += [f"notify.targets: the name {name} is used twice" for name in sorted(set(names)) if names.count(name) > 1]
    if options.runbooks_url and not options.runbooks_url.startswith(("http://", "https://")):
        found.append("notify.runbooks_url must begin with http:// or https://")
    for target in options.targets:
        found += [f"notify.targets `{target.name}`: {problem}" for problem in target_problems(target)]
    return found


def target_problems(target: TargetSettings) -> list[str]:
    """What is wrong with one target; no message holds a secret."""
    found = [f"{name} and {name}_file are both given" for name in SECRETS if _both(target, name)]
    if not target.url_file:
        found += _url_problems(target.url)
    found += _header_problems(target)
    found += _template_problems(target.template)
    if target.retry_ms > target.retry_max_ms:
        found.append("retry_ms must not be larger than retry_max_ms")
    return found


def _both(target: TargetSettings, name: str) -> bool:
    return bool(getattr(target, name) and getattr(target, f"{name}_file"))


def _url_problems(url: str) -> list[str]:
    if not url:
        return ["url is missing (or url_file)"]
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return ["url is not a URL"]
    if parts.scheme not in {"http", "https"} or not named or not url.isprintable() or " " in url:
        return ["url must be http://host/... or https://host/..."]
    return ["url must not hold a user: say bearer_token, or headers"] if "@" in parts.netloc else []


def _header_problems(target: TargetSettings) -> list[str]:
    found = []
    for name, value in target.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            found.append(f"header {name!r} is not allowed in HTTP")
        if name.lower() in _OURS:
            found.append(f"header {name} is set by modelvigil")
    if target.bearer_token and "authorization" in map(str.lower, target.headers):
        found.append("bearer_token and a header Authorization are both given")
    if not _HEADER_VALUE.fullmatch(target.bearer_token):
        found.append("bearer_token is not allowed in HTTP")
    return found


def _template_problems(text: str) -> list[str]:
    template = Template(text)
    if not template.is_valid():
        return ["template has a $ that is no field: write $$ for a dollar sign"]
    unknown = sorted(set(template.get_identifiers()) - set(TEMPLATE_FIELDS))
    return [f"template: ${name} is not a field; fields are {', '.join(TEMPLATE_FIELDS)}" for name in unknown]
