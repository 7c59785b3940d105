"""Law 2: state and outputs are a function of the input alone."""

import hashlib
import subprocess
import sys

import pytest

from tests.streams import cut, records, run

PROGRAM = "from tests.laws.test_determinism import told; print(told())"


def told() -> str:
    """Return checksums of the outputs and of the state of one stream."""
    outputs, engine = run(cut(records(5, 900), range(0, 900, 100)))
    return f"{hashlib.sha256(repr(outputs).encode()).hexdigest()} {engine.digest(0)}"


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_another_process_gives_the_same_bytes(hash_seed: str) -> None:
    """Neither the process, nor what it did before, nor Python's hash seed shows in outputs or state."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told()
    assert len(done.stdout) > 90


def test_shards_do_not_know_each_other() -> None:
    """What a shard says does not depend on the other shards of the process, nor on how they interleave."""
    first, second = records(1, 500), records(2, 500)
    alone, engine_alone = run(cut(first, [250]))
    zero, one = cut(first, [100, 400]), cut(second, [50, 60], partition=1)
    both, engine_both = run([one[0], zero[0], one[1], zero[1], zero[2], one[2]])
    assert [output for output in both if output.shard == 0] == alone
    assert engine_both.digest(0) == engine_alone.digest(0)


def test_a_different_seed_gives_different_detectors() -> None:
    """The check can fail: the digest sees the detectors."""
    import msgspec  # noqa: PLC0415 - needed here only

    from tests.streams import SMALL  # noqa: PLC0415 - needed here only

    stream = cut(records(5, 300), [])
    assert run(stream)[1].digest(0) != run(stream, msgspec.structs.replace(SMALL, seed=1))[1].digest(0)
