"""What settings come from besides the TOML file: the environment, and files that hold one secret each.

Nobody else reads the environment. No message holds the value of a secret.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from worker.elasticsearch_settings import SECRETS as ELASTICSEARCH_SECRETS
from worker.elasticsearch_settings import VARIABLES as ELASTICSEARCH_VARIABLES
from worker.elasticsearch_settings import ElasticsearchSettings, login_problems
from worker.notify_settings import SECRETS, TargetSettings, target_problems

_Options = TypeVar("_Options", TargetSettings, ElasticsearchSettings)
_PREFIX = "MODELVIGIL_"
_ENVIRONMENT = {
    "MODELVIGIL_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "MODELVIGIL_GROUP_ID": ("kafka", "group_id"),
    "MODELVIGIL_INSTANCE_ID": ("worker", "instance_id"),
    "MODELVIGIL_ARTEFACTS_URL": ("artefacts", "url"),
    "MODELVIGIL_OPS_LISTEN": ("ops", "listen"),
    "MODELVIGIL_OPS_PORT": ("ops", "port"),
    "MODELVIGIL_NOTIFY_OPS_LISTEN": ("notify", "ops_listen"),
    "MODELVIGIL_NOTIFY_OPS_PORT": ("notify", "ops_port"),
    **{f"MODELVIGIL_ELASTICSEARCH_{name.upper()}": ("elasticsearch", name) for name in ELASTICSEARCH_VARIABLES},
}
_ENVIRONMENT_KAFKA = "MODELVIGIL_KAFKA_"
_ENVIRONMENT_FILE = "_FILE"
_ENVIRONMENT_TARGET = re.compile(r"MODELVIGIL_NOTIFY_([A-Z0-9_]+?)_(URL|SECRET|BEARER_TOKEN)(_FILE)?")
# A Kubernetes service called `modelvigil-kafka` puts these into every pod; they are nobody's librdkafka property.
_SERVICE_LINK = re.compile(r"MODELVIGIL_KAFKA_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)")
_ANY_SERVICE_LINK = re.compile(r"MODELVIGIL_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT|SERVICE_PORT_.*|PORT_\d+_.*)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
# The properties of librdkafka whose own name ends in `.file`: here `_FILE` is part of the name.
_NAMED_FILE = frozenset(
    {
        "sasl.oauthbearer.assertion.file",
        "sasl.oauthbearer.assertion.jwt.template.file",
        "sasl.oauthbearer.assertion.private.key.file",
    }
)


class SettingsError(Exception):
    """The configuration cannot be used; the message is one line and says what to do."""


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the environment says, as a TOML file would; not that of targets. Raises SettingsError."""
    tree: dict[str, Any] = {}
    for variable in sorted(environ):
        if _ANY_SERVICE_LINK.fullmatch(variable) or _SERVICE_ADDRESS.fullmatch(environ[variable]):
            continue
        if variable in _ENVIRONMENT:
            put(tree, _ENVIRONMENT[variable], _typed(variable, environ[variable]))
        elif variable.startswith(_ENVIRONMENT_KAFKA) and not _SERVICE_LINK.fullmatch(variable):
            name, value = _kafka_property(variable, environ[variable])
            if name in tree.get("kafka", {}).get("properties", {}):
                raise SettingsError(f"{name} is given twice, by {variable} and without _FILE: remove one of them")
            put(tree, ("kafka", "properties", name), value)
        elif variable.startswith(_PREFIX) and not _ENVIRONMENT_TARGET.fullmatch(variable):
            _refuse_slip(variable)
    _with_elasticsearch_twins(tree.get("elasticsearch", {}))
    return tree


def put_target_secrets(tree: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Give targets what the environment says of them: MODELVIGIL_NOTIFY_<TARGET>_URL, _SECRET, _BEARER_TOKEN (_FILE).

    A target may stand in a list, so this comes after all lists. Raises SettingsError.
    """
    notify = tree.get("notify")
    listed = notify.get("targets") if isinstance(notify, dict) else None
    targets = [target for target in listed if isinstance(target, dict)] if isinstance(listed, list) else []
    by_name = {str(target.get("name")).upper().replace("-", "_"): target for target in targets}
    for variable in sorted(environ):
        match = _ENVIRONMENT_TARGET.fullmatch(variable)
        if match is None:
            continue
        name, field, file = match[1], match[2].lower(), match[3]
        if name not in by_name:
            known = ", ".join(str(target.get("name")) for target in targets) or "none"
            raise SettingsError(f"{variable} is for a target that is not there: notify.targets has {known}")
        if file and variable.removesuffix(_ENVIRONMENT_FILE) in environ:
            raise SettingsError(f"{field} is given twice, by {variable} and without _FILE: remove one of them")
        target = by_name[name]
        for key in (field, f"{field}_file"):
            target.pop(key, None)
        target[f"{field}_file" if file else field] = environ[variable]


def target_with_secrets(target: TargetSettings) -> TargetSettings:
    """Read the files that a target of `notify` names for its secrets. Raises SettingsError."""
    complete = _with_files_read(target, SECRETS, f"{{}} of notify.targets `{target.name}`")
    problems = target_problems(complete)
    if problems:
        raise SettingsError(f"notify.targets `{target.name}`: {'; '.join(problems)}")
    return complete


def elasticsearch_with_secrets(settings: ElasticsearchSettings) -> ElasticsearchSettings:
    """Read the files that `[elasticsearch]` names for its secrets. Raises SettingsError."""
    complete = _with_files_read(settings, ELASTICSEARCH_SECRETS, "elasticsearch.{}")
    if problems := login_problems(complete):
        raise SettingsError("; ".join(problems))
    return complete


def put(tree: dict[str, Any], path: tuple[str, ...] | list[str], value: object) -> None:
    """Put a value where it belongs in a tree of tables. Raises SettingsError."""
    *tables, key = path
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{table} must be a table: write [{table}] above its settings")
    tree[key] = value


def _typed(variable: str, text: str) -> object:
    """Return what a variable says: a number of a port, several addresses, else text."""
    if variable.endswith("_URLS"):
        return [url.strip() for url in text.split(",")]
    if not variable.endswith("_PORT"):
        return text
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{variable} must be a number, not {text}") from None


def _refuse_slip(variable: str) -> None:
    """Refuse what is almost a known variable; others may belong to the platform (Kubernetes service links)."""
    near = difflib.get_close_matches(variable, _ENVIRONMENT, n=1, cutoff=0.9)
    if near:
        raise SettingsError(f"environment variable {variable} is not known: did you mean {near[0]}?")


def _kafka_property(variable: str, value: str) -> tuple[str, str]:
    name = variable.removeprefix(_ENVIRONMENT_KAFKA).lower().replace("_", ".")
    if not variable.endswith(_ENVIRONMENT_FILE) or name in _NAMED_FILE:
        return name, value
    return name.removesuffix(".file"), _read_secret(value, variable)


def _with_files_read(options: _Options, names: Sequence[str], called: str) -> _Options:
    """Put the contents of files in place of their names; `called`: how messages name a field."""
    read: dict[str, str] = {}
    for name in names:
        field = f"{name}_file"
        if path := getattr(options, field):
            read |= {name: _read_secret(path, called.format(field)), field: ""}
    return structs.replace(options, **read)


def _read_secret(path: str, named_by: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"the file named by {named_by} cannot be read: {path}") from None


def _with_elasticsearch_twins(table: dict[str, Any]) -> None:
    """Let a secret of the environment replace both what the file says of it and where the file has it from."""
    for name in ELASTICSEARCH_SECRETS:
        given = [twin for twin in (name, f"{name}_file") if twin in table]
        if len(given) > 1:
            raise SettingsError(f"elasticsearch.{name} is given twice, with and without _FILE: remove one of them")
        if given:
            table |= {name: "", f"{name}_file": "", given[0]: table[given[0]]}
