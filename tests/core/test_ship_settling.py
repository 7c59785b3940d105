"""What becomes of a batch, against a cluster that follows a script: retries, refusals, and when nobody is believed."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.core.test_notify_messages import event
from tests.core.test_ship_answers import bulk, result
from worker.core.codec import encode
from worker.edges.http_client import Answer, NoAnswer
from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import ElasticsearchSettings, Stream
from worker.ship.batches import Batch, Item
from worker.ship.cluster import Failed, Found
from worker.ship.figures import Figures
from worker.ship.health import Health
from worker.ship.settling import Refusals, Settler

Script = Answer | NoAnswer | Callable[[int], Answer | NoAnswer]
REFUSAL = result(400, "mapper_parsing_exception", "failed to parse")


class Clock:
    """Time passes when somebody waits."""

    def __init__(self) -> None:
        self.now_ms = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def epoch_ms(self) -> int:
        return self.now_ms

    def pause(self, wait_ms: int) -> None:
        self.now_ms += wait_ms


class Log:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, **fields: self.lines.append((level, text, fields))


class Cluster:
    """Answers each request as the script says, well at its end."""

    def __init__(self, *script: Script) -> None:
        self.script = list(script)
        self.there: set[str] = set()
        self.searched: list[Found | Failed] = []
        self.sent: list[int] = []
        self.asked: list[list[str]] = []

    def create(self, body: bytes) -> Answer | NoAnswer:
        documents = body.count(b"\n") // 2
        self.sent.append(documents)
        step = self.script.pop(0) if self.script else bulk(*[result(201)] * documents)
        return step(documents) if callable(step) else step

    def look_up(self, streams: Sequence[str], ids: Sequence[str]) -> Found | Failed:
        self.asked.append(list(ids))
        return self.searched.pop(0) if self.searched else Found(frozenset(self.there & set(ids)))


class Letters:
    """Keeps dead letters."""

    def __init__(self) -> None:
        self.buried: list[tuple[int, str, str]] = []

    def bury(self, arrived: Arrived, *, reason: str, detail: str, target: str) -> None:
        assert target == "elasticsearch"
        self.buried.append((arrived.offset, reason, detail))


class Rig:
    """A settler and all around it."""

    def __init__(self, *script: Script, **settings: Any) -> None:  # noqa: ANN401 - any setting
        self.settings = ElasticsearchSettings(**{"retry_ms": 100, "retry_max_ms": 1_000, **settings})
        self.cluster, self.letters, self.log, self.clock = Cluster(*script), Letters(), Log(), Clock()
        self.health = Health(self.log, self.clock)
        self.health.joined(joined=True)
        self.figures = Figures(self.health)
        self.refusals = Refusals(self.settings.refused_max)
        self.stopping = False
        self.settler = Settler(
            self.settings,
            self.cluster,
            self.letters,
            self.refusals,
            self.health,
            self.figures,
            self.clock,
            self.log,
            lambda: self.stopping,
            "ship-0",
            lambda: 0.999,
        )

    def settle(self, *items: Item) -> bool:
        """Settle a batch of these."""
        return self.settler.settle(Batch(list(items), [], 1))

    def counted(self) -> Counter[tuple[str, str]]:
        """Return the counters of documents that are not 0."""
        found: Counter[tuple[str, str]] = Counter()
        for family in self.figures.documents.collect():
            for sample in family.samples:
                if sample.value:
                    found[sample.labels["stream"], sample.labels["outcome"]] = int(sample.value)
        return found


def item(offset: int, stream: Stream = "alerts", *, doubtful: bool = False, value: bytes | None = b"") -> Item:
    """Return a document on its way."""
    value = encode(event(alert_id=f"a{offset}")) if value == b"" else value
    return Item(stream, Arrived(stream, 0, offset, 1, None, value), f"modelvigil-{stream}-x", doubtful=doubtful)


def test_only_what_failed_is_sent_again() -> None:
    """After a pause that grows while nothing is taken; created and repeated documents are settled."""
    busy = result(429, "es_rejected_execution_exception", "full")
    conflict = result(409, "version_conflict_engine_exception", "there")
    rig = Rig(bulk(result(201), busy, conflict, busy), Answer(429), Answer(429))
    assert rig.settle(*map(item, range(4)))
    assert rig.cluster.sent == [4, 2, 2, 2]
    assert rig.counted() == {("alerts", "created"): 3, ("alerts", "repeated"): 1}
    assert 99 + 99 + 199 <= rig.clock.now_ms <= 99 + 99 + 199 + 10
    assert rig.cluster.asked == []


def test_a_pause_that_the_cluster_asks_for_is_kept() -> None:
    """Up to a bound."""
    rig = Rig(Answer(429, "5"), Answer(503, "5000"), retry_after_max_ms=7_000)
    assert rig.settle(item(0))
    assert 12_000 <= rig.clock.now_ms <= 12_200


def test_what_may_have_arrived_is_looked_up_first() -> None:
    """And sent only if it is not there; also at the first attempt, if a former owner may have sent it."""
    rig = Rig(NoAnswer("no answer in time"))
    items = [item(0), item(1, doubtful=True), item(2, doubtful=True)]
    rig.cluster.there = {items[0].id, items[1].id}
    assert rig.settle(*items)
    assert rig.cluster.asked == [[items[1].id, items[2].id], [items[0].id, items[2].id]]
    assert rig.cluster.sent == [2, 1]
    assert rig.counted() == {("alerts", "repeated"): 2, ("alerts", "created"): 1}


def test_a_lookup_that_fails_is_repeated_and_nothing_is_sent_before() -> None:
    """It would be sent twice after a roll-over."""
    rig = Rig()
    rig.cluster.searched = [Failed(Answer(503)), Failed(NoAnswer("gone")), Failed(Answer(200))]
    assert rig.settle(item(0, doubtful=True))
    assert len(rig.cluster.asked) == 4
    assert rig.cluster.sent == [1]


def test_a_request_that_is_too_large_is_split_down_to_the_document() -> None:
    """Which alone becomes a dead letter."""
    rig = Rig()
    large = item(2, "dead_letters", value=b"x" * 5_000)
    alert = item(1, value=encode(event(summary="y" * 5_000)))

    def bounded(documents: int) -> Answer:
        return Answer(413) if documents > 1 else bulk(result(201))

    rig.cluster.script = [bounded] * 7
    assert rig.settle(item(0), alert, large, item(3))
    assert rig.counted()["alerts", "created"] == 3
    assert rig.letters.buried == []
    alone = Rig(Answer(413, excerpt="too large"))
    assert alone.settle(alert)
    assert alone.letters.buried == [(1, "shipping_refused", "HTTP 413: too large")]


def test_a_refused_document_is_a_dead_letter_and_its_neighbours_are_not() -> None:
    """What cannot become a document, too."""
    rig = Rig(bulk(result(201), REFUSAL))
    assert rig.settle(item(0), item(1), item(2, value=b"nonsense"))
    assert [(offset, reason) for offset, reason, _ in rig.letters.buried] == [
        (2, "shipping_refused"),
        (1, "shipping_refused"),
    ]
    assert rig.letters.buried[1][2] == "status 400: mapper_parsing_exception: failed to parse"
    assert rig.counted() == {("alerts", "created"): 1, ("alerts", "refused"): 2}


def test_a_refused_dead_letter_makes_no_other_one() -> None:
    """It would go round for ever; an ERROR says where it is."""
    rig = Rig(bulk(REFUSAL))
    assert rig.settle(item(5, "dead_letters", value=b"x"))
    assert rig.letters.buried == []
    ((level, text, fields),) = rig.log.lines
    assert (level, fields["offset"]) == ("error", 5)
    assert "in Kafka only" in text


def refuse_all(documents: int) -> Answer:
    """Answer as a cluster with a broken template."""
    return bulk(*[REFUSAL] * documents)


def test_a_cluster_that_refuses_everything_is_not_believed() -> None:
    """A broken template would make a dead letter of each record: it is tried again until somebody mends it."""
    rig = Rig(*[refuse_all] * 40, refused_max=2)
    assert rig.settle(*map(item, range(20)))
    assert rig.letters.buried == []
    assert rig.counted() == {("alerts", "created"): 20}
    assert [level for level, _, _ in rig.log.lines] == ["error", "info"]
    assert "all documents of alerts are refused" in rig.log.lines[0][2]["why"]


def test_an_attempt_at_such_a_cluster_costs_a_bounded_number_of_requests() -> None:
    """Not one for each document, when the first ones have shown how it is."""
    rig = Rig(*[refuse_all] * 500, refused_max=2)
    rig.settler.stopping = lambda: rig.clock.now_ms > 0
    assert not rig.settle(*map(item, range(2_000)))
    assert rig.letters.buried == []
    assert len(rig.cluster.sent) < 20


def test_a_few_refusals_in_a_row_are_believed_and_more_are_not() -> None:
    """While nothing else of the stream comes by."""
    rig = Rig(refuse_all, refuse_all, refuse_all, refused_max=2)
    assert rig.settle(item(0))
    assert rig.settle(item(1))
    assert len(rig.letters.buried) == 2
    assert rig.settle(item(2))
    assert len(rig.letters.buried) == 2
    assert rig.counted()["alerts", "created"] == 1


def test_one_document_may_take_all_of_its_request_with_it() -> None:
    """As in OpenSearch's ingest pipeline: the others are sent again without it, and are taken."""
    bad = item(7)

    def together(body: bytes) -> Answer:
        documents = body.count(b"\n") // 2
        return bulk(*[REFUSAL if bad.lines in body else result(201)] * documents)

    rig = Rig(refused_max=2)
    rig.cluster.create = together  # type: ignore[method-assign]  # it must see the documents
    assert rig.settle(*map(item, range(7)), bad, *map(item, range(8, 50)))
    assert [offset for offset, _, _ in rig.letters.buried] == [7]
    assert rig.counted() == {("alerts", "created"): 49, ("alerts", "refused"): 1}


def test_many_refusals_are_believed_where_others_are_taken() -> None:
    """Of the same stream, since the batch began: the cluster is well, the documents are not."""
    rig = Rig(lambda documents: bulk(result(201), *[REFUSAL] * (documents - 1)), refused_max=2)
    assert rig.settle(*map(item, range(9)))
    assert len(rig.letters.buried) == 8
    rig = Rig(bulk(*[REFUSAL] * 3, result(201)), *[refuse_all] * 5, refused_max=2)
    letter = item(9, "dead_letters", value=b"x")
    assert rig.settle(*map(item, range(3)), letter)
    assert rig.letters.buried == []


def test_a_document_that_breaks_the_cluster_is_not_sent_for_ever() -> None:
    """It is looked up each time, because it may be there nevertheless."""
    crash = result(500, "null_pointer_exception", "oh")
    rig = Rig(bulk(result(201), crash), *[bulk(crash)] * 8)
    assert rig.settle(item(0), item(1))
    assert [offset for offset, _, _ in rig.letters.buried] == [1]
    assert len(rig.cluster.asked) == 8


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_a_person_must_mend_is_an_error_and_not_ready_until_it_works(status: int) -> None:
    """It is told at once, and told to be over."""
    seen: list[str] = []

    def refused(_: int) -> Answer:
        seen.append(rig.health.trouble())
        return Answer(status, excerpt="no")

    rig = Rig(refused, refused)
    assert rig.settle(item(0))
    assert seen == ["", f"HTTP {status}: no"]
    assert rig.health.trouble() == ""
    assert [level for level, _, _ in rig.log.lines] == ["error", "info"]


def test_a_short_failure_is_a_warning_and_a_long_one_is_not_ready() -> None:
    """Nobody is woken for a restart of one node."""
    seen: list[str] = []

    def away(_: int) -> NoAnswer:
        seen.append(rig.health.trouble())
        return NoAnswer("no connection", sent=False)

    rig = Rig(*[away] * 30)
    assert rig.settle(item(0))
    assert seen[5] == ""
    assert seen[-1] == "no connection"
    assert [level for level, _, _ in rig.log.lines] == ["warning", "info"]


def test_a_batch_is_given_up_between_attempts() -> None:
    """When it is time to stop, or somebody else has the partition: what is settled stays so, the rest is not."""
    rig = Rig()

    def stop(_: int) -> Answer:
        rig.stopping = True
        return Answer(503)

    rig.cluster.script = [stop]
    assert not rig.settle(item(0))
    assert rig.cluster.sent == [1]
    batch = Batch([item(0)], [], 1, abandoned=True)
    rig.stopping = False
    assert not rig.settler.settle(batch)


def test_that_others_get_through_makes_a_blocked_stream_no_better() -> None:
    """One line when it begins, one when all are well: not one for each request that works."""
    rig = Rig()
    for _ in range(5):
        rig.health.failed("ship-0", "no rights", blocked=True)
        rig.health.worked("ship-1")
    assert rig.health.trouble() == "no rights"
    rig.health.failed("ship-1", "away", blocked=False)
    rig.health.worked("ship-0")
    assert rig.health.trouble() == ""
    rig.health.worked("ship-1")
    assert [level for level, _, _ in rig.log.lines] == ["error", "info"]
    rig.clock.now_ms += 400_000
    rig.health.failed("ship-0", "away", blocked=False)
    assert [level for level, _, _ in rig.log.lines] == ["error", "info", "warning"]
