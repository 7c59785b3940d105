"""What an answer of the cluster to a bulk request means, for each document. Names in capitals are those of `Outcome`.

    answer to the request                   documents
    2xx                                     each its own, below
    413, 400                                SPLIT: one is too large, or cannot be read; a single one: REFUSED
    429                                     AGAIN: nothing was taken
    3xx, other 4xx                          BLOCKED: wrong key, wrong address: a person must look at it
    408, 5xx, no answer, no JSON            DOUBTFUL: some may have been taken
    no connection                           AGAIN

    status of a document                    it is
    2xx                                     CREATED
    409 (a `create` of what is there)       REPEATED
    429                                     AGAIN
    401, 403, 404                           BLOCKED; 403 cluster_block_exception (a full disk): AGAIN
    400 about the index, not the document   BLOCKED
    500                                     CRASHED: perhaps by this document, so it is not repeated for ever
    other 5xx, 408                          DOUBTFUL
    other 4xx                               REFUSED

What is AGAIN, DOUBTFUL or BLOCKED is tried again without an end; what is CRASHED, for a while.
"""

from enum import Enum
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from worker.edges.http_client import Answer, NoAnswer

FILTER_PATH: Final = (
    "errors,items.*.status,items.*.error.type,items.*.error.reason,"
    "items.*.error.caused_by.type,items.*.error.caused_by.reason"
)
"""All that is read here of the answer."""
_REASON_CHARS = 500
_CONFLICT = 409
_SUCCESS = range(200, 300)
_SERVER = range(500, 600)
_REFUSING = range(300, 500)
_NOT_TAKEN = 429
_WAITING = 408
_CRASH = 500
_SPLITTABLE = {400, 413}
_BLOCKED = {401, 403, 404, 405}
_PASSING = {_WAITING, _NOT_TAKEN}
_DISK = "cluster_block_exception"
_OF_INDEX = frozenset({"index_closed_exception", "invalid_index_name_exception", "validation_exception"})
"""Errors 400 that no document has caused: too many shards, for example."""
_PIPELINE = "status 400: illegal_argument_exception: pipeline with id ["
"""The whole beginning: what comes later in a reason may be a document's own words."""


class Outcome(Enum):
    """What became of a document."""

    CREATED = "created"
    REPEATED = "repeated"
    """It was there already."""
    AGAIN = "again"
    """It was not taken, and may be later."""
    DOUBTFUL = "doubtful"
    """It may have been taken: look before it is sent again."""
    BLOCKED = "blocked"
    """It was not taken, and will not be before a person changes something."""
    CRASHED = "crashed"
    """The cluster failed over it."""
    REFUSED = "refused"
    """It will never be taken."""
    SPLIT = "split"
    """It was not taken, together with the others."""


class Verdict(NamedTuple):
    """The outcome of a document, and why where it is not there."""

    outcome: Outcome
    reason: str = ""


class _Cause(Struct, frozen=True):
    type: str | None = None
    reason: str | None = None


class _Error(Struct, frozen=True):
    type: str | None = None
    reason: str | None = None
    caused_by: _Cause | None = None


class _Result(Struct, frozen=True):
    status: int
    error: _Error | str | None = None


class _Item(Struct, frozen=True):
    create: _Result


class _Bulk(Struct, frozen=True):
    errors: bool
    items: list[_Item]


_BULK = msgspec.json.Decoder(_Bulk)
_CREATED = Verdict(Outcome.CREATED)
_REPEATED = Verdict(Outcome.REPEATED)


def verdicts(answer: Answer | NoAnswer, documents: int) -> list[Verdict]:
    """Return the outcome of each document of a request, in their order."""
    if isinstance(answer, NoAnswer):
        return [Verdict(Outcome.DOUBTFUL if answer.sent else Outcome.AGAIN, answer.reason)] * documents
    if answer.status not in _SUCCESS:
        return [_of_all(answer, documents)] * documents
    try:
        bulk = _BULK.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [Verdict(Outcome.DOUBTFUL, f"HTTP {answer.status}, but no answer to a bulk request")] * documents
    if len(bulk.items) != documents:
        told = f"{len(bulk.items)} results for {documents} documents"
        return [Verdict(Outcome.DOUBTFUL, told)] * documents
    if not bulk.errors:
        return [_CREATED] * documents
    return [_of_one(item.create) for item in bulk.items]


def is_blocking(status: int) -> bool:
    """Tell whether a request that was answered like this will not be taken before a person changes something."""
    return status in _REFUSING and status not in _PASSING


def _of_all(answer: Answer, documents: int) -> Verdict:
    reason = f"HTTP {answer.status}{': ' if answer.excerpt else ''}{answer.excerpt}"
    status = answer.status
    if status in _SPLITTABLE:
        return Verdict(Outcome.SPLIT if documents > 1 else Outcome.REFUSED, reason)
    if status == _NOT_TAKEN:
        return Verdict(Outcome.AGAIN, reason)
    if is_blocking(status):
        return Verdict(Outcome.BLOCKED, reason)
    # A proxy that gives up, a node that goes down: what it has passed on before is not known.
    return Verdict(Outcome.DOUBTFUL, reason)


def _of_one(result: _Result) -> Verdict:
    if result.status in _SUCCESS:
        return _CREATED
    if result.status == _CONFLICT:
        return _REPEATED
    kind, reason = _told(result)
    return Verdict(_outcome(result.status, kind, reason), reason)


def _outcome(status: int, kind: str, reason: str) -> Outcome:
    if status == _NOT_TAKEN or kind == _DISK:
        return Outcome.AGAIN
    if status in _BLOCKED or kind in _OF_INDEX or reason.startswith(_PIPELINE):
        return Outcome.BLOCKED
    if status == _CRASH:
        return Outcome.CRASHED
    return Outcome.DOUBTFUL if status in _SERVER or status == _WAITING else Outcome.REFUSED


def _told(result: _Result) -> tuple[str, str]:
    """Return the type of an error, and all of it in one line."""
    error = result.error
    if error is None or isinstance(error, str):
        return "", f"status {result.status}{': ' if error else ''}{error or ''}"[:_REASON_CHARS]
    parts = [f"status {result.status}", error.type, error.reason]
    if error.caused_by is not None:
        parts += [error.caused_by.type, error.caused_by.reason]
    text = ": ".join(" ".join(part.split()) for part in parts if part)
    return error.type or "", text[:_REASON_CHARS]
