"""What an answer means for each document."""

import json
from typing import Any

import pytest

from worker.edges.http_client import Answer, NoAnswer
from worker.ship.answers import Outcome, verdicts


def result(status: int, kind: str = "", reason: str = "", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - as JSON
    """Return the result of one document."""
    error = {"type": kind, "reason": reason, **more} if kind else None
    return {"create": {"status": status} | ({"error": error} if error else {})}


def bulk(*results: dict[str, Any]) -> Answer:
    """Return an answer to a bulk request."""
    errors = any(each["create"]["status"] >= 300 for each in results)
    return Answer(200, body=json.dumps({"errors": errors, "items": list(results)}).encode())


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (result(201), Outcome.CREATED),
        (result(409, "version_conflict_engine_exception", "document already exists"), Outcome.REPEATED),
        (result(429, "es_rejected_execution_exception", "queue is full"), Outcome.AGAIN),
        (result(429, "cluster_block_exception", "disk usage exceeded flood-stage watermark"), Outcome.AGAIN),
        (result(403, "cluster_block_exception", "index is read-only"), Outcome.AGAIN),
        (result(403, "security_exception", "action is unauthorized"), Outcome.BLOCKED),
        (result(404, "index_not_found_exception", "no such index"), Outcome.BLOCKED),
        (result(400, "validation_exception", "maximum shards open"), Outcome.BLOCKED),
        (result(400, "illegal_argument_exception", "pipeline with id [modelvigil] does not exist"), Outcome.BLOCKED),
        (result(400, "mapper_parsing_exception", "Duplicate field 'pipeline with id [x]'"), Outcome.REFUSED),
        (result(400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded"), Outcome.REFUSED),
        (result(400, "mapper_parsing_exception", "failed to parse"), Outcome.REFUSED),
        (result(400, "document_parsing_exception", "failed to parse"), Outcome.REFUSED),
        (result(500, "null_pointer_exception", "oh"), Outcome.CRASHED),
        (result(503, "unavailable_shards_exception", "primary shard is not active"), Outcome.DOUBTFUL),
        (result(504, "timeout_exception", "no answer"), Outcome.DOUBTFUL),
        ({"create": {"status": 400, "error": "as text"}}, Outcome.REFUSED),
    ],
)
def test_each_document_has_its_own_outcome(one: dict[str, Any], outcome: Outcome) -> None:
    """Whatever becomes of its neighbours."""
    told = verdicts(bulk(result(201), one, result(201)), 3)
    assert [each.outcome for each in told] == [Outcome.CREATED, outcome, Outcome.CREATED]


def test_the_reason_says_what_is_behind_an_error() -> None:
    """In one line of bounded length: it is logged, and stands in a dead letter."""
    cause = {"type": "number_format_exception", "reason": 'For "x"\n' + "y" * 1_000}
    (told,) = verdicts(bulk(result(400, "mapper_parsing_exception", "failed to parse", caused_by=cause)), 1)
    begin = 'status 400: mapper_parsing_exception: failed to parse: number_format_exception: For "x" yyy'
    assert told.reason.startswith(begin)
    assert len(told.reason) == 500


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (NoAnswer("no answer in time"), Outcome.DOUBTFUL),
        (NoAnswer("no connection", sent=False), Outcome.AGAIN),
        (Answer(429), Outcome.AGAIN),
        (Answer(502), Outcome.DOUBTFUL),
        (Answer(503), Outcome.DOUBTFUL),
        (Answer(504), Outcome.DOUBTFUL),
        (Answer(500), Outcome.DOUBTFUL),
        (Answer(401), Outcome.BLOCKED),
        (Answer(403), Outcome.BLOCKED),
        (Answer(404), Outcome.BLOCKED),
        (Answer(301), Outcome.BLOCKED),
        (Answer(406), Outcome.BLOCKED),
        (Answer(415), Outcome.BLOCKED),
        (Answer(408), Outcome.DOUBTFUL),
        (Answer(413), Outcome.SPLIT),
        (Answer(400), Outcome.SPLIT),
        (Answer(200, body=b"<html>log in</html>"), Outcome.DOUBTFUL),
        (Answer(200, body=b"\xff"), Outcome.DOUBTFUL),
        (Answer(200, body=b'{"errors":false,"items":[]}'), Outcome.DOUBTFUL),
    ],
)
def test_an_answer_to_the_whole_request_is_about_all_documents(answer: Answer | NoAnswer, outcome: Outcome) -> None:
    """What may have been taken is doubtful; what is nobody's fault but the cluster's is never refused."""
    assert [each.outcome for each in verdicts(answer, 2)] == [outcome, outcome]


@pytest.mark.parametrize("status", [400, 413])
def test_a_single_document_that_cannot_be_split_is_refused(status: int) -> None:
    """It would be sent for ever."""
    assert verdicts(Answer(status), 1)[0].outcome is Outcome.REFUSED
