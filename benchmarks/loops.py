"""The worker against loops that do less and loops that do it plainly: in turn, on one broker, in several rounds.

Every contestant is a process of its own that reads the same topic from its beginning in a fresh consumer group. The
worker with mixed features reads another topic, and so does the null loop that it is compared with. Where there are
labels, the rate is that of predictions until all labels are read, too, and it is compared with the null loop on the
predictions alone.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import labels
from benchmarks.events import (
    EVENTS_PER_SECOND,
    FEATURES,
    MIXED,
    MODELS,
    PARTITIONS,
    create_topics,
    generate,
    publish,
)
from benchmarks.rates import JVM, OTHERS, OUTPUTS, TOPIC, Task, console, follow, program, running, shown, worker_command
from benchmarks.results import Part, spread, table
from worker.edges.broker import LocalBroker

MIXED_TOPIC = "predictions-mixed"
LABELLED = ("labels", "maintained")
CUT_S = 10.0
"""So long the slow loops are measured."""


class Contestant(NamedTuple):
    """One that is measured."""

    text: str
    topic: str = TOPIC
    is_slow: bool = False
    """It need not read everything."""


CONTESTANTS = {
    "null": Contestant("null loop: consume, decode, commit transactionally (librdkafka's default fetch settings)"),
    "tuned": Contestant("null loop with the worker's own fetch settings"),
    "worker": Contestant("modelvigil, all detectors and performance monitoring on, 10 numeric features, no labels"),
    "null_mixed": Contestant("null loop on mixed features", MIXED_TOPIC),
    "mixed": Contestant("modelvigil, 8 numeric and 2 categorical features, 5 % missing", MIXED_TOPIC),
    "labels": Contestant("modelvigil with a label for each prediction (in predictions), model maintenance off"),
    "maintained": Contestant("the same with model maintenance, as it begins to work off a backlog"),
    "plain": Contestant("plain loop from the libraries' tutorials", is_slow=True),
    "micro": Contestant("the plain loop in micro-batches of 1,000", is_slow=True),
}


class Ratio(NamedTuple):
    """Two contestants, and what their ratio should reach."""

    text: str
    of: str
    to: str
    aim: float | None


RATIOS = {
    "worker_over_null": Ratio("worker / null loop", "worker", "null", 0.75),
    "mixed_over_null": Ratio("worker / null loop, both on mixed features", "mixed", "null_mixed", 0.6),
    "labels_over_null": Ratio(
        "worker with labels, maintenance off (predictions/s) / null loop on the predictions", "labels", "null", 0.45
    ),
    "maintained_over_null": Ratio("the same with model maintenance", "maintained", "null", None),
    "worker_over_plain": Ratio("worker / plain loop", "worker", "plain", 100),
    "worker_over_micro": Ratio("worker / micro-batch loop", "worker", "micro", 5),
    "worker_over_tuned_null": Ratio("worker / tuned null loop", "worker", "tuned", None),
}


class Round(NamedTuple):
    """What all contestants gave in one round, in events per second."""

    rates: Mapping[str, float]
    joined: int
    """Labels that found their prediction."""


def command(contestant: str, servers: str, group: str) -> list[str]:
    """Return the command of a contestant."""
    topic = CONTESTANTS[contestant].topic
    match contestant:
        case "null" | "null_mixed" | "tuned":
            fetching = "tuned" if contestant == "tuned" else "default"
            return program("benchmarks.null_loop", servers, topic, group, fetching)
        case "plain":
            return program("benchmarks.plain_loop", servers, topic, OUTPUTS[0], group)
        case "micro":
            return program("benchmarks.micro_batch_loop", servers, topic, OUTPUTS[0], group)
        case "labels" | "maintained":
            off = ["--set", "engine.maintenance.enabled=false"] if contestant == "labels" else []
            return [*labels.command("on", servers, group), *off]
        case _:
            settings = {"topics.predictions": topic, "topics.labels": labels.NO_LABELS}
            return worker_command(servers, group, settings)


def prepared(servers: str, total: int) -> None:
    """Create the topics and fill them: predictions, their labels, and mixed predictions."""
    create_topics(servers, [TOPIC, MIXED_TOPIC, labels.NO_LABELS, *OUTPUTS, *OTHERS])
    # Stamped so that the last one comes about now: old records would be deleted.
    first_ms = time.time_ns() // 1_000_000 - (total + labels.LAG_EVENTS) * 1000 // EVENTS_PER_SECOND
    labels.publish(servers, labels.records(generate(total)), first_ms)
    publish(servers, MIXED_TOPIC, generate(total, shape=MIXED))


def one_round(servers: str, number: int, total: int, folder: Path) -> Round:
    """Let the contestants run in turn."""
    rates: dict[str, float] = {}
    joined: list[int] = []
    for name, contestant in CONTESTANTS.items():
        group = f"{name}-{number}"
        if name in LABELLED:
            create_topics(servers, [labels.metrics_topic(group)])
        topics = {contestant.topic: total} | ({labels.LABELS: total} if name in LABELLED else {})
        task = Task(servers, group, topics, folder / f"{group}.log", cut_s=CUT_S if contestant.is_slow else None)
        with shown(f"round {number}: {name}", total) as look, running(command(name, servers, group), task.log) as it:
            rates[name] = follow(it, task, look).per_second
            if name in LABELLED:
                joined.append(labels.joined(servers, labels.metrics_topic(group), total))
        console.print(f"round {number}: {name:>10} {rates[name]:>10,.0f} events/s")
    return Round(rates, min(joined))


def part(total: int, rounds: int) -> Part:
    """Measure it all."""
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-bench-"))
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        with console.status(f"generating and publishing {total:,} predictions of two kinds, and their labels"):
            prepared(servers, total)
        found = [one_round(servers, number, total, folder) for number in range(1, rounds + 1)]
    return told(found, total)


def told(found: list[Round], total: int) -> Part:
    """Return the tables and the figures."""
    rates = {name: spread(each.rates[name] for each in found) for name in CONTESTANTS}
    ratios = {
        name: spread(each.rates[ratio.of] / each.rates[ratio.to] for each in found) for name, ratio in RATIOS.items()
    }
    joined = min(each.joined for each in found) / total
    text = (
        f"{total:,} events ({FEATURES} features, {MODELS} models, {PARTITIONS} partitions), {len(found)} rounds. "
        f"Slow loops are measured for {CUT_S:.0f} s. {joined:.2%} of the labels found their prediction, in the round "
        "with the fewest.\n\n"
    )
    text += table(
        ("ratio, round by round", "minimum", "median", "maximum", "aim"),
        (
            (RATIOS[name].text, *(f"{each:,.3g}" for each in ratio), f"≥ {aim:g}" if (aim := RATIOS[name].aim) else "-")
            for name, ratio in ratios.items()
        ),
    )
    text += "\n\n" + table(
        ("loop", "events/s: minimum", "median", "maximum"),
        ((CONTESTANTS[name].text, *(f"{each:,.0f}" for each in rate)) for name, rate in rates.items()),
    )
    figures: dict[str, object] = {f"{name}_eps": round(rate.median) for name, rate in rates.items()}
    figures |= {name: [float(f"{each:.4g}") for each in ratio] for name, ratio in ratios.items()}
    return Part(text, figures | {"labels_joined_share": round(joined, 4)})
