"""Names what differs between the options that state was written with and those of the settings."""

from collections.abc import Iterator
from typing import Any

import msgspec

ALERT_OPTIONS = "engine.alerts."
"""What the names of options begin with that state does not depend on."""

_NOTHING = "not there"


def option_differences(stored: str, current: str) -> list[str]:
    """Return one text for each option that differs, by its dotted name as in the settings.

    Args:
        stored: the options behind the state, as JSON.
        current: those of the settings, as JSON.
    """
    there, here = dict(_leaves(stored)), dict(_leaves(current))
    return [
        f"{name} = {there.get(name, _NOTHING)} (now {here.get(name, _NOTHING)})"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _leaves(options: str) -> Iterator[tuple[str, str]]:
    try:
        yield from _below(msgspec.json.decode(options), "engine")
    except msgspec.DecodeError:
        yield "engine", options


def _below(value: Any, name: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _below(inner, f"{name}.{key}")
    else:
        yield name, msgspec.json.encode(value).decode()
