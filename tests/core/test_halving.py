"""Successive halving: who gets how far, what is judged by what, and when the options in use give way."""

from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import F64
from worker.core.maintenance.boosted_arrays import NODES_MAX
from worker.core.maintenance.boosted_fit import fit_boosted
from worker.core.maintenance.challengers import LabelledRows
from worker.core.maintenance.halving import (
    CANDIDATES,
    CANDIDATES_MAX,
    ERRORS_MIN,
    ROWS_MIN,
    HalvingOutcome,
    HalvingRequest,
    Trial,
    candidates_around,
)
from worker.core.options.maintenance import FOR_ALL_ROWS, FOR_RECENT_ROWS, BoostedOptions

STUMP = BoostedOptions(iterations=1, leaves_max=2)
GOOD = BoostedOptions(iterations=20, leaves_max=8)


def labelled_rows(n_rows: int, n_classes: int = 0, seed: int = 0) -> LabelledRows:
    """A wave with a little noise, or its sign: nothing for one stump."""
    random = np.random.default_rng(seed)
    rows = random.uniform(-3.0, 3.0, size=(n_rows, 3)).astype(np.float32)
    targets = np.sin(2.0 * rows[:, 0]) + 0.1 * random.normal(size=n_rows)
    if n_classes:
        targets = np.clip(np.floor((targets + 1.0) * n_classes / 2.0), 0, n_classes - 1)
    return LabelledRows(rows, targets.astype(np.float64), n_classes)


def part(labelled: LabelledRows, first: int, end: int) -> LabelledRows:
    """Some rows that follow each other."""
    return LabelledRows(labelled.rows[first:end], labelled.targets[first:end], labelled.n_classes)


def losses(labelled: LabelledRows, options: BoostedOptions, fitted: tuple[int, int], judged: tuple[int, int]) -> F64:
    """The losses of some rows under a model of others, row by row and class by class."""
    outputs = fit_boosted(part(labelled, *fitted), options, 0).predict(labelled.rows[slice(*judged)])
    found = []
    for output, target in zip(outputs, labelled.targets[slice(*judged)], strict=True):
        if labelled.n_classes == 0:
            found.append((output[0] - target) ** 2)
        else:
            found.append(sum((p - (code == target)) ** 2 for code, p in enumerate(output)))
    return np.array(found)


@cache
def outcome_of_search() -> HalvingOutcome:
    """A search that finds something."""
    return HalvingRequest(labelled_rows(1600), (STUMP, GOOD, BoostedOptions(iterations=2, leaves_max=2)), 0).fit()


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_newer_rows_judge_what_older_ones_fitted(n_classes: int) -> None:
    """Three rungs for 1,600 rows: the newest 400 judge fits on the 300, the 600 and the 1,200 before them."""
    labelled = labelled_rows(1600, n_classes)
    outcome = HalvingRequest(labelled, (STUMP, GOOD), 0).fit()
    in_use = losses(labelled, STUMP, (0, 1200), (1200, 1600))
    good = losses(labelled, GOOD, (0, 1200), (1200, 1600))
    assert [trial.rungs for trial in outcome.trials] == [3, 3]
    assert [trial.loss for trial in outcome.trials] == pytest.approx([in_use.mean(), good.mean()])
    difference = (in_use - good).reshape(10, 40).mean(axis=1)
    assert outcome.gain == pytest.approx(difference.mean())
    assert outcome.gain_error == pytest.approx(difference.std(ddof=1) / 10**0.5)
    assert (outcome.chosen, outcome.judged) == (1, 400)
    good_first = HalvingRequest(labelled, (GOOD, STUMP, STUMP, STUMP), 0).fit()
    # Not even the best of bad ones gets beyond the first rung, where it had the newest 300 rows before.
    first_rung = losses(labelled, STUMP, (900, 1200), (1200, 1600)).mean()
    assert good_first.trials[3].rungs == 1
    assert good_first.trials[3].loss == pytest.approx(first_rung)
    assert good_first.chosen == 0


def test_half_of_the_candidates_get_on_and_the_options_in_use_always() -> None:
    """Of twelve, six and then three get on; the options in use do even as the worst of all."""
    candidates = (STUMP, *(BoostedOptions(iterations=2 + n, leaves_max=4) for n in range(11)))
    outcome = HalvingRequest(labelled_rows(1600), candidates, 0).fit()
    rungs = [trial.rungs for trial in outcome.trials]
    assert rungs[0] == 3
    assert sorted(rungs[1:]) == [1] * 5 + [2] * 3 + [3] * 3
    # On this wave more trees are better.
    assert rungs[1:] == sorted(rungs[1:])
    assert outcome.chosen == 11


def test_what_is_not_better_by_more_than_its_error_is_not_taken() -> None:
    """Equal options gain nothing; and a little luck with labels that are noise changes no options."""
    assert HalvingRequest(labelled_rows(400), (GOOD, GOOD, GOOD), 0).fit().chosen == 0
    noise = labelled_rows(400, seed=10)._replace(targets=np.random.default_rng(10).normal(size=400))
    outcome = HalvingRequest(noise, (GOOD, msgspec.structs.replace(GOOD, l2=2.0)), 0).fit()
    assert outcome.gain_error < outcome.gain < ERRORS_MIN * outcome.gain_error
    assert outcome.chosen == 0


def test_few_rows_have_one_rung() -> None:
    """With 400 rows a half of what is left to fit on would be too little: all candidates have all of it."""
    labelled = labelled_rows(400)
    outcome = HalvingRequest(labelled, (STUMP, GOOD, STUMP), 0).fit()
    assert [trial.rungs for trial in outcome.trials] == [1, 1, 1]
    assert outcome.trials[1].loss == pytest.approx(losses(labelled, GOOD, (0, 300), (300, 400)).mean())


def test_candidates_that_cost_too_much_are_left_out() -> None:
    """They do not end the search; as options in use they are refused, as a fit would."""
    labelled = labelled_rows(400, n_classes=10)
    many = BoostedOptions(iterations=590, leaves_max=2)
    tried = HalvingRequest(labelled, (STUMP, many, GOOD, STUMP), 0).fit().trials
    # 10 + 5,900 trees; with the next 200 there would be more than 6,000.
    assert [trial.rungs for trial in tried] == [1, 1, 0, 1]
    huge = BoostedOptions(iterations=1000, leaves_max=256)
    outcome = HalvingRequest(labelled, (STUMP, huge, GOOD), 0).fit()
    assert outcome.trials[1] == Trial(0, None)
    assert HalvingOutcome.from_bytes(outcome.to_bytes()) == outcome
    with pytest.raises(ValueError, match="more than"):
        HalvingRequest(labelled, (huge, STUMP), 0).fit()


def test_requests_beyond_the_limits_are_refused() -> None:
    """Too few rows; no candidate, or too many."""
    for request in (
        HalvingRequest(labelled_rows(ROWS_MIN - 1), (STUMP,), 0),
        HalvingRequest(labelled_rows(ROWS_MIN), (), 0),
        HalvingRequest(labelled_rows(ROWS_MIN), (STUMP,) * (CANDIDATES_MAX + 1), 0),
    ):
        with pytest.raises(ValueError, match="request of a halving"):
            request.fit()


# ------------------------------------------------------------------------------------------------------------ outcomes


def test_an_outcome_comes_back_from_bytes() -> None:
    """Also that of a search with nothing to choose from; and the same search has the same bytes."""
    assert HalvingOutcome.from_bytes(outcome_of_search().to_bytes()) == outcome_of_search()
    alone = HalvingRequest(labelled_rows(400), (STUMP,), 0)
    assert HalvingOutcome.from_bytes(alone.fit().to_bytes()) == alone.fit()


@given(st.integers(0, 60), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_broken_bytes_are_refused_or_consistent(place: int, byte: int) -> None:
    """One byte changed: a ValueError, or an outcome that one may act on."""
    stored = bytearray(outcome_of_search().to_bytes())
    stored[place % len(stored)] = byte
    try:
        outcome = HalvingOutcome.from_bytes(bytes(stored))
    except ValueError:
        return
    assert outcome.trials[outcome.chosen].rungs == outcome.trials[0].rungs
    assert outcome.chosen == 0 or outcome.gain > ERRORS_MIN * outcome.gain_error


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (HalvingOutcome(1, (Trial(3, 0.2),), 400, 0.3, 0.1), "is none"),
        (HalvingOutcome(0, (Trial(3, None),), 400, 0.0, 0.0), "no loss"),
        (HalvingOutcome(0, (Trial(0, 0.1),), 400, 0.0, 0.0), "no rung"),
        (HalvingOutcome(0, (Trial(0, None),), 400, 0.0, 0.0), "no candidate was judged"),
        (HalvingOutcome(0, (Trial(2, 0.1), Trial(3, 0.1)), 400, 0.0, 0.0), "in use were not judged"),
        (HalvingOutcome(1, (Trial(3, 0.1), Trial(2, 0.1)), 400, 0.3, 0.1), "chosen candidate was not judged"),
        (HalvingOutcome(1, (Trial(3, 0.1), Trial(3, 0.1)), 400, 0.2, 0.1), "without being better"),
        (HalvingOutcome(0, (Trial(3, 0.1),), 400, float("nan"), 0.0), "not finite"),
        (HalvingOutcome(0, (Trial(3, float("inf")),), 400, 0.0, 0.0), "not finite"),
        (HalvingOutcome(0, (Trial(3, -0.1),), 400, 0.0, 0.0), "Expected"),
        (HalvingOutcome(0, (), 400, 0.0, 0.0), "Expected"),
    ],
)
def test_outcomes_that_cannot_be_are_refused(outcome: HalvingOutcome, reason: str) -> None:
    """Whoever can write to the state topic does not choose options with it that no search chose."""
    with pytest.raises(ValueError, match=reason):
        HalvingOutcome.from_bytes(outcome.to_bytes())


# ---------------------------------------------------------------------------------------------------------- candidates


@given(
    options=st.builds(
        BoostedOptions,
        iterations=st.integers(1, 1000),
        leaves_max=st.integers(2, 256),
        depth_max=st.integers(1, 64),
        learning_rate=st.floats(1e-3, 1.0),
        leaf_rows_min=st.integers(1, 1000),
        l2=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    ),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_candidates_are_valid_and_differ(options: BoostedOptions, seed: int) -> None:
    """Those in use first, no two alike, all within the bounds of options, and dependent on the arguments alone."""
    candidates = candidates_around(options, seed)
    assert candidates[0] == options
    assert 2 <= len(candidates) <= CANDIDATES
    assert len(set(candidates)) == len(candidates)
    assert candidates == candidates_around(options, seed)
    for candidate in candidates:
        assert msgspec.convert(msgspec.to_builtins(candidate), BoostedOptions) == candidate


def test_a_search_that_goes_on_and_on_stays_affordable() -> None:
    """Wherever a chain of searches walks to, candidates cost at most some times what the defaults cost."""
    for start in (FOR_ALL_ROWS, FOR_RECENT_ROWS):
        options = start
        for seed in range(30):
            candidates = candidates_around(options, seed)
            assert len(candidates) == CANDIDATES
            options = max(candidates, key=lambda candidate: candidate.iterations * candidate.leaves_max)
        assert options.iterations * options.leaves_max <= 200 * 64
        assert options.iterations * (2 * options.leaves_max - 1) < NODES_MAX
    assert candidates_around(FOR_ALL_ROWS, 1) != candidates_around(FOR_ALL_ROWS, 2)
