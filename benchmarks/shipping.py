"""Ships alerts and metrics from a real Kafka to a real OpenSearch: exactly once under faults, and how fast without.

    python -m benchmarks.shipping                       both parts, 100,000 documents; the last line is JSON
    python -m benchmarks.shipping --documents 20000 --rounds 1
    python -m benchmarks.shipping --rsyslog /usr/sbin/rsyslogd      instead of Debian's packages, which are fetched

Part 1. While documents go in, the server is killed (-9), restarted in order, answers 429 at times, and rolls a data
stream over; the shipper is killed (-9) and started again. In the end the ids of all documents are compared with those
of all committed records: none missing, none twice, none of an aborted transaction.

Part 2. The same topics and the same server without faults, `modelvigil ship elasticsearch` and rsyslog (imkafka to
omelasticsearch) in turn: documents a second from the first to the last one that the server has.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import urllib3
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress

from benchmarks.rsyslog import rsyslog
from benchmarks.shipping_records import PARTITIONS, TOPICS, expected_ids, publish
from tests.integrations.opensearch import OpenSearch, OpenSearchError
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts

_JVM = ("-Xms1g", "-Xmx1g")
_KAFKA_JVM = ("-Xms256m", "-Xmx1g", "-XX:+UseSerialGC")
# Two bulk requests of ours write to two streams each: more than one thread and one place in its queue can take.
_CROWDED = {"thread_pool.write.size": "1", "thread_pool.write.queue_size": "1"}
_REFUSING_SECONDS = 2.0
_DONE_SECONDS_MAX = 900.0
_PAGE = 10_000
_TOLD = {"modelvigil_ship_documents_total": "documents", "modelvigil_ship_requests_total": "requests"}
_DOWN = (urllib3.exceptions.HTTPError, OSError)

console = Console(stderr=True)


class Setup(NamedTuple):
    """What both parts run on."""

    servers: str
    folder: Path
    documents: int


def command(servers: str, url: str, namespace: str, *arguments: str, ops_port: int = 0) -> list[str]:
    """Return a command of the shipper."""
    sets = [f"elasticsearch.urls={json.dumps([url])}", f"elasticsearch.namespace={namespace}"]
    sets += ['elasticsearch.streams=["alerts","metrics"]', f"elasticsearch.ops_port={ops_port}"]
    options = ["--bootstrap-servers", servers, "--group-id", namespace]
    for each in sets:
        options += ["--set", each]
    return [sys.executable, "-m", "worker", "ship", "elasticsearch", *arguments, *options]


@contextmanager
def shipping(setup: Setup, url: str, namespace: str, ops_port: int = 0) -> Iterator[None]:
    """Let the shipper run; it is killed at the end. What it logs is in the folder."""
    arguments = command(setup.servers, url, namespace, ops_port=ops_port)
    log = setup.folder / f"{namespace}.log"
    with log.open("ab") as out, subprocess.Popen(arguments, stdout=out, stderr=out) as process:
        try:
            yield
        finally:
            process.kill()


def told(ops_port: int) -> Counter[str]:
    """Return what the shipper counted: documents that were there already, and requests that it had to repeat."""
    text = urllib3.request("GET", f"http://127.0.0.1:{ops_port}/metrics").data.decode()
    found = Counter[str]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            outcome = sample.labels.get("outcome", "")
            if sample.name in _TOLD and outcome in {"repeated", "retried", "refused"}:
                found[f"shipper_{_TOLD[sample.name]}_{outcome}"] += int(sample.value)
    return found


def taken(server: OpenSearch, namespace: str) -> int:
    """Return how many documents the server has indexed, whether they can be searched yet or not; -1: it is down."""
    try:
        answer = server.request("GET", f"/modelvigil-*-{namespace}/_stats/indexing,docs")
    except _DOWN:
        return -1
    if answer.status != 200:
        return -1
    # Without a data stream there are no figures at all.
    return int(answer.body["_all"]["primaries"].get("indexing", {"index_total": 0})["index_total"])


def refusals(server: OpenSearch) -> Counter[str]:
    """Return how often the server has answered 429 since it started, by its own count."""
    (node,) = server.request("GET", "/_nodes/stats/thread_pool,breaker").body["nodes"].values()
    breakers = node["breakers"]["in_flight_requests"]["tripped"]
    return Counter({"items_429": node["thread_pool"]["write"]["rejected"], "requests_429": breakers})


def ids(server: OpenSearch, namespace: str) -> Counter[str]:
    """Return the ids of all documents, and how often each is there."""
    index = f"/modelvigil-*-{namespace}"
    server.request("POST", f"{index}/_refresh")
    body: dict[str, Any] = {"size": _PAGE, "_source": False, "sort": ["_doc"]}
    answer = server.request("POST", f"{index}/_search?scroll=5m", body)
    found = Counter[str]()
    while answer.body["hits"]["hits"]:
        found.update(hit["_id"] for hit in answer.body["hits"]["hits"])
        answer = server.request("POST", "/_search/scroll", {"scroll": "5m", "scroll_id": answer.body["_scroll_id"]})
    return found


# Part 1: faults.


class Faults:
    """What goes wrong, at which share of the documents, and what the server had counted by then."""

    def __init__(self, server: OpenSearch, namespace: str) -> None:
        self.seen = Counter[str]()
        self._server = server
        self._namespace = namespace

    def refuse(self) -> None:
        """Answer 429 to every bulk request for a while."""
        with self._server.refusing():
            time.sleep(_REFUSING_SECONDS)

    def kill_server(self) -> None:
        """Kill the server and start it again."""
        self._count()
        self._server.kill()
        self._server.start()

    def restart_server(self) -> None:
        """Stop the server in order and start it again."""
        self._count()
        self._server.restart()

    def roll_over(self) -> None:
        """Begin a new index in each data stream: there a repeat would not be noticed."""
        for stream in TOPICS:
            answer = self._server.request("POST", f"/modelvigil-{stream}-{self._namespace}/_rollover")
            if answer.status != 200:
                raise SystemExit(f"{stream} cannot be rolled over: {answer.body}")
        self.seen["rollovers"] += 1

    def finish(self) -> None:
        """Count what the server has seen since its last start."""
        self.seen.update(refusals(self._server))

    def _count(self) -> None:
        self.seen.update(refusals(self._server))
        self.seen["server_restarts"] += 1


def wait(progress: Progress, task: Any, count: Callable[[], int], until: int) -> None:  # noqa: ANN401 - rich's own type
    """Wait until so many documents are there."""
    limit_s = time.monotonic() + _DONE_SECONDS_MAX
    while (now := count()) < until:
        if time.monotonic() > limit_s:
            raise SystemExit(f"only {now:,} of {until:,} documents after {_DONE_SECONDS_MAX:.0f} s")
        progress.update(task, completed=max(now, 0))
        time.sleep(0.25)
    progress.update(task, completed=now)


def part_1(setup: Setup, progress: Progress) -> dict[str, Any]:
    """Ship under faults; return what came of it."""
    namespace = "faults"
    with OpenSearch(settings=_CROWDED, jvm_options=_JVM, say=progress.console.print) as server:
        subprocess.run(command(setup.servers, server.url, namespace, "--setup"), check=True, stdout=sys.stderr)
        faults, (ops_port,) = Faults(server, namespace), ReservedPorts(1).numbers
        task = progress.add_task("shipped under faults", total=setup.documents)
        first = ((0.1, faults.refuse), (0.2, faults.roll_over), (0.25, faults.kill_server), (0.4, faults.refuse))
        second = ((0.6, faults.roll_over), (0.65, faults.restart_server), (0.8, faults.refuse))
        began_s = time.monotonic()
        for turn, plan in enumerate((first, second)):
            with shipping(setup, server.url, namespace, ops_port):
                for share, fault in plan:
                    wait(progress, task, lambda: _searchable(server, namespace), int(share * setup.documents))
                    progress.console.print(f"  {share:.0%}: {fault.__doc__}")
                    fault()
                if turn == 0:
                    wait(progress, task, lambda: _searchable(server, namespace), setup.documents // 2)
                    progress.console.print("  50%: kill the shipper and start it again")
                    faults.seen["shipper_kills"] += 1
                    faults.seen.update(told(ops_port))
                else:
                    wait(progress, task, lambda: _searchable(server, namespace), setup.documents)
                    took_s = time.monotonic() - began_s
                    time.sleep(2.0)  # for what should not come
                    faults.seen.update(told(ops_port))
        faults.finish()
        found, expected = ids(server, namespace), expected_ids(setup.servers, setup.documents)
    return {
        "documents": found.total(),
        "unique": len(found),
        "missing": len(expected - found.keys()),
        "duplicates": found.total() - len(found),
        "strangers": len(found.keys() - expected),
        **faults.seen,
        "documents_per_s_under_faults": round(setup.documents / took_s),
    }


def _searchable(server: OpenSearch, namespace: str) -> int:
    """Return how many documents there are; -1: the server is down, or not yet up again."""
    try:
        return server.count(f"modelvigil-*-{namespace}")
    except (*_DOWN, OpenSearchError):
        return -1


# Part 2: pace.


def pace(server: OpenSearch, namespace: str, total: int, progress: Progress) -> float:
    """Return documents per second, from the first to the last."""
    task = progress.add_task(namespace, total=total)
    wait(progress, task, lambda: taken(server, namespace), 1)
    first_s, first = time.monotonic(), taken(server, namespace)
    wait(progress, task, lambda: taken(server, namespace), total)
    return (total - first) / (time.monotonic() - first_s)


def part_2(setup: Setup, rounds: int, program: Path | None, progress: Progress) -> dict[str, Any]:
    """Let both ship the same, in turn; return documents per second and the ratio of each round."""
    rates: dict[str, list[float]] = {"ours": [], "rsyslog": []}
    say = progress.console.print
    with OpenSearch(jvm_options=_JVM, say=say) as server:
        subprocess.run(command(setup.servers, server.url, "pace", "--setup"), check=True, stdout=sys.stderr)

        def ours(namespace: str) -> float:
            with shipping(setup, server.url, namespace):
                return pace(server, namespace, setup.documents, progress)

        def theirs(namespace: str) -> float:
            for stream in TOPICS:
                server.request("PUT", f"/_data_stream/modelvigil-{stream}-{namespace}")
            port = int(server.url.rpartition(":")[2])
            with rsyslog(program, setup.servers, port, namespace, setup.folder / namespace, say):
                return pace(server, namespace, setup.documents, progress)

        contestants = {"ours": ours, "rsyslog": theirs}
        say(f"not counted, while the server's compiler warms up: {ours('warm.up'):,.0f} documents/s")
        _drop(server, "warm.up")
        for turn in range(rounds):
            for name in sorted(contestants, reverse=turn % 2 == 1):
                rates[name].append(contestants[name](f"{name}.{turn}"))
                _check(server, f"{name}.{turn}", setup.documents)
                _drop(server, f"{name}.{turn}")
                say(f"round {turn + 1}: {name:>7} {rates[name][-1]:>8,.0f} documents/s")
    return {
        "documents_per_s": round(median(rates["ours"])),
        "rsyslog_documents_per_s": round(median(rates["rsyslog"])),
        "ours_over_rsyslog": [round(a / b, 2) for a, b in zip(rates["ours"], rates["rsyslog"], strict=True)],
    }


def _check(server: OpenSearch, namespace: str, total: int) -> None:
    """See that all documents hold their record, whoever brought them."""
    found = server.count(f"modelvigil-*-{namespace}", {"exists": {"field": "modelvigil.model_id"}})
    if found != total:
        raise SystemExit(f"{namespace}: {found:,} of {total:,} documents can be found by their model")


def _drop(server: OpenSearch, namespace: str) -> None:
    for stream in TOPICS:
        server.request("DELETE", f"/_data_stream/modelvigil-{stream}-{namespace}")


def figures(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run what is asked for."""
    setup_folder = Path(tempfile.mkdtemp(prefix="modelvigil-shipping-"))
    found: dict[str, Any] = {"records": arguments.documents}
    with LocalBroker(jvm_options=_KAFKA_JVM, say=console.print) as broker, Progress(console=console) as progress:
        setup = Setup(broker.bootstrap_servers, setup_folder, arguments.documents)
        create = [sys.executable, "-m", "worker", "topics", "create", "--partitions", str(PARTITIONS)]
        subprocess.run([*create, "--bootstrap-servers", setup.servers], check=True, capture_output=True)
        found["bytes_per_record"] = publish(setup.servers, setup.documents, progress) // setup.documents
        if not arguments.only_pace:
            found |= {"faults": part_1(setup, progress)}
            console.print(f"under faults: {found['faults']}")
        if arguments.rounds:
            found |= {"pace": part_2(setup, arguments.rounds, arguments.rsyslog, progress)}
    return found


def main() -> None:
    """Measure; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Shipping to OpenSearch: exact under faults, and its pace.")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="Of part 2; 0: without it.")
    parser.add_argument("--only-pace", action="store_true", help="Without part 1.")
    parser.add_argument("--rsyslog", type=Path, help="rsyslogd with imkafka and omelasticsearch, instead of Debian's.")
    print(json.dumps(figures(parser.parse_args())))


if __name__ == "__main__":
    main()
