"""Structured logs: one JSON line per notable thing, with the field names of the Elastic Common Schema (ECS 8).

On a terminal lines are written for a person. There is no line per event.
"""

import logging
import os
import sys
from functools import partial
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker import __version__

_ECS_VERSION = "8.11.0"


def configure_logging(
    log_format: Literal["auto", "json", "console"], level: str, stream: TextIO | None = None, *, program: str = "worker"
) -> None:
    """Set up structlog and the standard library's logging for this process; both write to `stream` (stderr).

    Lines for machines have `event.dataset: modelvigil.<program>`.
    """
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        to_ecs = partial(_to_ecs, dataset=f"modelvigil.{program}")
        ending += [_describe_error, structlog.processors.format_exc_info, to_ecs]
        ending += [structlog.processors.JSONRenderer(_dumps)]
    else:
        ending += [_without_logger, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=ending, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _describe_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the exception that a line is about; `error` is one, or a sentence about one."""
    info = event.get("exc_info")
    raised = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    error = event.pop("error", raised)
    if isinstance(error, BaseException):
        event["error.type"] = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if error:
        event["error.message"] = str(error)
    return event


def _without_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Spare a person the logger's name."""
    event.pop("logger", None)
    return event


def _to_ecs(_: WrappedLogger, __: str, event: EventDict, *, dataset: str) -> EventDict:
    """Rename the common fields to ECS; the rest goes below `modelvigil`."""
    common = {
        "@timestamp": event.pop("timestamp", None),
        "log.level": event.pop("level", None),
        "message": event.pop("event", None),
        "ecs.version": _ECS_VERSION,
        "event.dataset": dataset,
        "log.logger": event.pop("logger", None),
        "process.pid": os.getpid(),
        "service.name": "modelvigil",
        "service.version": __version__,
        "error.type": event.pop("error.type", None),
        "error.message": event.pop("error.message", None),
        "error.stack_trace": event.pop("exception", None),
    }
    known = {name: value for name, value in common.items() if value is not None}
    return known | {f"modelvigil.{name}": value for name, value in event.items()}


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
