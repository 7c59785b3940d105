"""What `ship elasticsearch --setup` installs: templates, an ingest pipeline, lifecycle policies, as JSON beside this.

A file's stem is the resource's name. What differs between the two kinds of server is in a folder of its own. Policies
hold `${...}` for what the settings say.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from string import Template
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

Distribution = Literal["elasticsearch", "opensearch"]

_PATHS: Final = {
    "ilm-policies": "_ilm/policy",
    "ism-policies": "_plugins/_ism/policies",
    "ingest-pipelines": "_ingest/pipeline",
    "component-templates": "_component_template",
    "index-templates": "_index_template",
}
"""By folder, in the order of installing: what is named by others comes first."""
_OPTIONAL: Final = frozenset({"ilm-policies", "ism-policies"})


class Lifetimes(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a data stream begins a new index, and when it deletes an old one."""

    rollover_bytes: Annotated[int, Meta(ge=1_000_000)] = 30_000_000_000
    """Of a primary shard."""
    rollover_days: Annotated[int, Meta(ge=1)] = 7
    alerts_days: Annotated[int, Meta(ge=1)] = 90
    """After the rollover; alerts, maintenance events and dead letters."""
    metrics_days: Annotated[int, Meta(ge=1)] = 30
    """After the rollover."""


class Resource(Struct, frozen=True):
    """One thing to install: PUT `body` to `path`."""

    name: str
    path: str
    body: bytes
    """JSON."""
    essential: bool
    """Whether documents cannot be shipped without it. A lifecycle policy needs a feature that not every server has."""


def installation(distribution: Distribution, lifetimes: Lifetimes) -> tuple[Resource, ...]:
    """Return what is to be installed, in order: nothing is named before it is there."""
    values = msgspec.structs.asdict(lifetimes)
    found = []
    for folder, path in _PATHS.items():
        for name, text in _texts(folder, distribution):
            body = Template(text).substitute(values) if folder in _OPTIONAL else text
            compact = json.dumps(json.loads(body), separators=(",", ":")).encode()
            found.append(Resource(name, f"{path}/{name}", compact, folder not in _OPTIONAL))
    return tuple(found)


def _texts(folder: str, distribution: Distribution) -> Iterator[tuple[str, str]]:
    """Yield the names and contents of a folder's files: those for every server, then those for this kind."""
    root = files(__name__)
    for place in (root / folder, root / distribution / folder):
        if place.is_dir():
            for file in sorted(place.iterdir(), key=lambda each: each.name):
                yield file.name.removesuffix(".json"), file.read_text(encoding="utf-8")
