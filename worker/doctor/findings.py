"""What a check says."""

from enum import StrEnum

from msgspec import Struct


class Status(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """A worker runs, but a person should know."""
    ERROR = "error"
    """A worker does not start, does not go on, or does not see what it should."""
    UNKNOWN = "unknown"
    """It could not be found out."""


class Area(StrEnum):
    """What it is about."""

    CONNECTION = "connection"
    ACCESS = "access"
    BROKER = "broker"
    CLOCK = "clock"
    TOPICS = "topics"
    GROUP = "group"
    STATE = "state"
    EVENTS = "events"
    MACHINE = "machine"
    ELASTICSEARCH = "elasticsearch"


class Finding(Struct, frozen=True):
    """One sentence, and another one that says what to do, if anything is to be done."""

    area: Area
    status: Status
    message: str
    advice: str = ""


def ok(area: Area, message: str) -> Finding:
    """Return that something is as it must be."""
    return Finding(area, Status.OK, message)


def warning(area: Area, message: str, advice: str) -> Finding:
    """Return that something is unwise."""
    return Finding(area, Status.WARNING, message, advice)


def error(area: Area, message: str, advice: str) -> Finding:
    """Return that something is wrong."""
    return Finding(area, Status.ERROR, message, advice)


def unknown(area: Area, message: str, advice: str = "") -> Finding:
    """Return that something could not be found out."""
    return Finding(area, Status.UNKNOWN, message, advice)
