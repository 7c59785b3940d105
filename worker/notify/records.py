"""What comes from the topics `alerts` and `incidents`, as the rest of the package sees it."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from worker.core.events import AlertEvent
from worker.edges.kafka.arrived import Arrived

LAG_HEADER = "modelvigil.lag_ms"
"""On records that were computed so much later than what they rest on was written."""


class UnreadableError(Exception):
    """A record is no alert; the message says why."""


class Alert(NamedTuple):
    """An alert, read."""

    event: AlertEvent
    raw: bytes
    """As it stands in the topic: receivers get also what this version of modelvigil does not know."""
    lag_ms: int | None
    """Null: computed in time."""


def read(arrived: Arrived) -> Alert:
    """Read a record. Raises UnreadableError."""
    if arrived.value is None:
        raise UnreadableError("it has no value")
    try:
        event = msgspec.json.decode(arrived.value, type=AlertEvent)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(str(error)) from None
    return Alert(event, arrived.value, _lag_ms(arrived.headers))


def _lag_ms(headers: Sequence[tuple[str, bytes | None]]) -> int | None:
    text = next((value for name, value in headers if name == LAG_HEADER), None)
    return int(text) if text is not None and text.isdigit() else None
