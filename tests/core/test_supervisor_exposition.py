"""Metrics of several processes on one page: valid for Prometheus, and nothing lost."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from worker.supervisor.exposition import merged

NAMES = st.sampled_from(["modelvigil_alerts", "modelvigil_models", "process_cpu_seconds", "modelvigil_alerts_more"])
VALUES = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\\n"{} ,=#\u2028\x85'), max_size=12)
LABELS = st.dictionaries(st.sampled_from(["model", "kind", "le_", "shard"]), VALUES, max_size=3)
SAMPLES = st.lists(st.tuples(LABELS, st.floats(allow_nan=False)), max_size=4)
PROCESS = st.dictionaries(NAMES, st.tuples(VALUES, SAMPLES), max_size=4)


def escaped(text: str, *, quotes: bool = True) -> str:
    """Return a text as the format wants it."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def written(process: dict[str, tuple[str, list[tuple[dict[str, str], float]]]]) -> str:
    """Return what one process says."""
    lines = []
    for name, (text, samples) in process.items():
        lines += [f"# HELP {name} {escaped(text, quotes=False)}", f"# TYPE {name} gauge"]
        for labels, value in samples:
            inside = ",".join(f'{label}="{escaped(each)}"' for label, each in labels.items())
            lines.append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")
    return "".join(line + "\n" for line in lines)


def samples_of(text: str) -> Counter[tuple[str, frozenset[tuple[str, str]], float]]:
    """Return what Prometheus' own reader finds."""
    return Counter(
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 63), PROCESS, max_size=4))
def test_nothing_is_lost_and_each_sample_says_whose_it_is(
    processes: dict[int, dict[str, tuple[str, list[tuple[dict[str, str], float]]]]],
) -> None:
    """What a reader finds is what all wrote, with the label `process`; each metric is described once."""
    page = merged({number: written(process) for number, process in processes.items()})
    expected = Counter(
        (name, frozenset({**labels, "process": str(number)}.items()), value)
        for number, process in processes.items()
        for name, (_, samples) in process.items()
        for labels, value in samples
    )
    assert samples_of(page) == expected
    described = [line.split(" ")[:3] for line in page.split("\n") if line.startswith("# ")]
    assert max(Counter(map(tuple, described)).values(), default=1) == 1


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 3), PROCESS, min_size=1, max_size=3))
def test_samples_of_a_metric_stand_together(
    processes: dict[int, dict[str, tuple[str, list[tuple[dict[str, str], float]]]]],
) -> None:
    """Below the description of a metric there are all of its samples, and no others."""
    current, seen = "", set()
    for line in merged({number: written(process) for number, process in processes.items()}).split("\n")[:-1]:
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            assert current not in seen
            seen.add(current)
        elif not line.startswith("#"):
            assert line.startswith(f"{current}{{process=")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 3), st.text(max_size=200) | st.binary(max_size=99).map(repr), max_size=3))
def test_garbage_makes_no_page_that_cannot_be_read(texts: dict[int, str]) -> None:
    """Lines that are not of the format are left out, whatever they are."""
    for line in merged(texts).split("\n")[:-1]:
        assert line.startswith("# ") or "process=" in line


def test_a_histogram_stays_one() -> None:
    """Buckets keep their order, beside sum and count, for each process; counters keep their names."""
    one = (
        "# HELP modelvigil_stage_seconds Time\n# TYPE modelvigil_stage_seconds histogram\n"
        'modelvigil_stage_seconds_bucket{stage="fetch",le="0.1"} 1.0\n'
        'modelvigil_stage_seconds_bucket{stage="fetch",le="2.5"} 3.0\n'
        'modelvigil_stage_seconds_bucket{stage="fetch",le="+Inf"} 4.0\n'
        'modelvigil_stage_seconds_count{stage="fetch"} 4.0\nmodelvigil_stage_seconds_sum{stage="fetch"} 9.5\n'
        "# HELP modelvigil_snapshots_total Snapshots\n# TYPE modelvigil_snapshots_total counter\n"
        "modelvigil_snapshots_total 7.0\n"
    )
    page = merged({0: one, 1: one})
    assert page.count("# TYPE") == 2
    assert 'modelvigil_snapshots_total{process="1"} 7.0\n' in page
    families = {family.name: family for family in text_string_to_metric_families(page)}
    buckets = [
        (sample.labels["process"], sample.labels["le"])
        for sample in families["modelvigil_stage_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert buckets == [(process, le) for process in "01" for le in ("0.1", "2.5", "+Inf")]
    assert families["modelvigil_stage_seconds"].type == "histogram"


def test_two_releases_side_by_side() -> None:
    """A metric that became another type keeps the one of the first process; the rest of the second one is there."""
    old = "# TYPE modelvigil_models counter\nmodelvigil_models 1\n"
    new = "# TYPE modelvigil_models gauge\nmodelvigil_models 2\n# TYPE modelvigil_new gauge\nmodelvigil_new 3\n"
    assert merged({0: old, 1: new}) == (
        '# TYPE modelvigil_models counter\nmodelvigil_models{process="0"} 1\n'
        '# TYPE modelvigil_new gauge\nmodelvigil_new{process="1"} 3\n'
    )


def test_a_sample_without_a_description_is_a_metric_of_its_own() -> None:
    """It does not become part of the one above it, whatever its name begins with."""
    text = "# TYPE modelvigil_models gauge\nmodelvigil_models 1\nmodelvigil_models_beyond_max 2\n"
    assert merged({0: text, 1: text}) == (
        '# TYPE modelvigil_models gauge\nmodelvigil_models{process="0"} 1\nmodelvigil_models{process="1"} 1\n'
        'modelvigil_models_beyond_max{process="0"} 2\nmodelvigil_models_beyond_max{process="1"} 2\n'
    )
