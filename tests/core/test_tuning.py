"""Least strengths from feedback: what is proven is advised, once, and what was chance is not."""

import math
import tomllib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom  # type: ignore[import-untyped]  # scipy ships no types

from worker.core.alerts.effects import Effects, Likeness, StoredEffects, Verdict
from worker.core.detectors.realised_rate import Realised, RealisedRate, StoredRealised
from worker.core.events import FalsePositiveFeedback, IgnoreFeedback, IncidentFeedback, TruePositiveFeedback
from worker.core.events.alerts import AlertKind
from worker.core.events.tuning import TuningReport
from worker.core.maintenance.tuning import (
    advised_strength,
    best_strength,
    binomial_tail,
    count,
    hypergeometric_tail,
    sentence,
    tuned,
)
from worker.core.options import AlertOptions, EngineOptions, KindNoiseOptions
from worker.core.options.alerts import TuningOptions

TUNING = TuningOptions()
KIND: AlertKind = "anomaly.input"
REALISED = Realised(0.001, 150, 100_000)


def verdicts(count: int, right: float, apart: float, seed: int) -> list[Verdict]:
    """A share of incidents is right, and these are stronger by some doublings."""
    rng = np.random.default_rng(seed)
    is_right = rng.random(count) < right
    strengths = np.clip(rng.normal(1.2 + apart * is_right, 0.9), 0.0, 8.0)
    return [Verdict(float(one), bool(other)) for one, other in zip(strengths, is_right, strict=True)]


def said_of(feedback: Callable[..., IncidentFeedback], incident_id: str, feedback_id: str = "") -> IncidentFeedback:
    """What somebody says of an incident."""
    about = {"model_id": "m", "shard": 0, "incident_id": incident_id}
    return feedback(feedback_id=feedback_id or incident_id, author="ann", reason="r", **about)


class Judged:
    """Incidents of one kind that people judge, one after the other, and the advice that follows."""

    def __init__(self, options: EngineOptions | None = None, model_id: str = "m", kind: AlertKind = KIND) -> None:
        self.effects = Effects(500, 500)
        self.options = options or EngineOptions()
        self.model_id, self.kind = model_id, kind
        self._number = 0

    def says(self, verdict: Verdict) -> TuningReport | None:
        """An incident of that strength is told, and judged."""
        self._number += 1
        name = f"i{self._number}"
        self.effects.remember(Likeness(name, "f", self.kind, None, "", None, verdict.strength))
        self.effects.apply(said_of(TruePositiveFeedback if verdict.is_right else FalsePositiveFeedback, name))
        return tuned(self.effects, self.kind, self.model_id, self.options, REALISED)

    def all(self, said: Sequence[Verdict]) -> dict[int, TuningReport]:
        """All of them; the advices by the number of the verdict."""
        found = {number: self.says(each) for number, each in enumerate(said, start=1)}
        return {number: report for number, report in found.items() if report is not None}


def test_a_least_strength_that_parts_right_from_false_is_advised_once() -> None:
    """With figures of verdicts it was not chosen on, its place in the settings, and the alert rate it stands for."""
    found = Judged().all(verdicts(60, 0.4, 3.0, 1))
    (number, report), *rest = found.items()
    assert number <= 30
    assert all(abs(one.advised - report.advised) >= TUNING.change_min for _, one in rest)
    assert (report.option, report.present) == ("engine.alerts.kinds.strength_min", 0.0)
    assert 1.5 < report.advised < 3.5
    assert (report.verdicts, report.precision_before.support) == (number, number - number // 2)
    before, after = report.precision_before.value, report.precision_after.value
    assert before is not None
    assert after is not None
    assert after > before + 0.3
    assert report.recall_after.value == report.recall_before.value == 1.0
    assert report.instead is not None
    assert report.instead.advised == pytest.approx(0.001 / 2.0**report.advised)
    assert report.realised_rate is not None
    assert (report.wanted_rate, report.realised_rate.value) == (0.001, 0.0015)
    assert f"strength_min = {report.advised:g}, now 0" in sentence(report, "m")


def test_the_settings_take_the_advice_and_then_there_is_none() -> None:
    """What is to be added holds for this model alone, whatever its name; the present value is then the advised one."""
    said = verdicts(60, 0.4, 3.0, 1)
    for model_id in ('m*[1]?"\\', "m"):
        report = list(Judged(model_id=model_id).all(said).values())[-1]
        kinds = tomllib.loads(report.toml)["engine"]["alerts"]["kinds"]
        taken = AlertOptions(kinds=(msgspec.convert(kinds[0], KindNoiseOptions),))
        assert taken.noise_of(model_id, KIND).strength_min == report.advised
        assert taken.noise_of("mm1", KIND).strength_min == 0.0
        assert taken.noise_of(model_id, "drift.input").strength_min == 0.0
        again = Judged(msgspec.structs.replace(EngineOptions(), alerts=taken), model_id).all(said)
        assert all(abs(each.advised - report.advised) >= TUNING.change_min for each in again.values())


def test_it_is_looked_at_after_ten_verdicts_and_then_after_each_five() -> None:
    """Though the advice may be clear before; a second word on the same incident is no other verdict."""
    said = [Verdict(1.0 + 4.0 * (each % 2), each % 2 == 1) for each in range(60)]
    (number, *_) = Judged().all(said)
    assert number % 5 == 0
    options = msgspec.structs.replace(TUNING, verdicts_min=47, verdicts_step=100)
    judged = Judged(msgspec.structs.replace(EngineOptions(), alerts=AlertOptions(tuning=options)))
    assert list(judged.all(said)) == [47]
    off = AlertOptions(tuning=TuningOptions(enabled=False))
    assert not Judged(msgspec.structs.replace(EngineOptions(), alerts=off)).all(said)


def test_the_last_word_on_an_incident_counts_and_what_is_undone_does_not() -> None:
    """In the order in which it was said; to ignore what is like it is no verdict."""
    effects = Effects(50, 50)
    for name, strength in (("a", 1.0), ("b", 2.0)):
        effects.remember(Likeness(name, "f", KIND, None, "", None, strength))
    effects.apply(said_of(FalsePositiveFeedback, "a", "1"))
    effects.apply(said_of(FalsePositiveFeedback, "b", "2"))
    effects.apply(said_of(IgnoreFeedback, "b", "3"))
    effects.apply(said_of(TruePositiveFeedback, "a", "4"))
    assert effects.verdicts(KIND) == [Verdict(2.0, is_right=False), Verdict(1.0, is_right=True)]
    effects.undo("4")
    assert effects.verdicts(KIND) == [Verdict(1.0, is_right=False), Verdict(2.0, is_right=False)]
    assert effects.verdicts("drift.input") == []


def test_what_was_advised_is_stored() -> None:
    """So that a restart does not tell it again."""
    said = verdicts(60, 0.4, 3.0, 1)
    whole, twin = Judged(), Judged()
    first = next(iter(whole.all(said[:30])))
    twin.all(said[:first])
    stored = twin.effects.state()
    twin.effects = Effects(500, 500)
    twin.effects.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=StoredEffects))
    assert list(twin.all(said[first:30])) == []
    assert twin.effects.advised == whole.effects.advised != {}


def test_alerts_that_are_never_right_should_open_seldom() -> None:
    """From twenty on, though there is no right one to compare with: precision is unknown afterwards."""
    found = Judged(kind="drift.input").all([Verdict(1.0 + each % 7 / 4.0, is_right=False) for each in range(40)])
    report = found[20]
    assert 2.5 < report.advised <= 2.75
    assert (report.right, report.precision_after.value, report.instead) == (0, None, None)
    assert "0 of 20 of its alerts were right" in sentence(report, "m")


def test_hardly_a_right_alert_may_be_lost() -> None:
    """Of the newer ones as well, that the least strength was not chosen on: one of ten, not two."""
    half = [Verdict(1.0, is_right=False), Verdict(4.0, is_right=True)] * 20
    assert advised_strength(half * 2, 0.0, TUNING) is not None
    for lost, told in ((2, True), (3, False)):
        newer = [*half[2 * lost :], *[Verdict(1.0, is_right=False), Verdict(1.0, is_right=True)] * lost]
        assert (advised_strength([*half, *newer], 0.0, TUNING) is not None) == told


def test_a_least_strength_that_costs_right_alerts_is_lowered() -> None:
    """Of incidents that were judged before it was configured."""
    said = verdicts(100, 0.5, 2.0, 3)
    lowered = advised_strength(said, 6.0, TUNING)
    assert lowered is not None
    assert 0.5 < lowered < 2.5


def test_verdicts_that_have_nothing_to_do_with_strength_give_no_advice() -> None:
    """In hardly any of 100 streams, in 39 looks each; with strengths that part them it is found in nearly all."""

    def told(right: float, apart: float) -> int:
        streams = (verdicts(200, right, apart, seed) for seed in range(100))
        looks = range(10, 201, 5)
        return sum(any(advised_strength(said[:n], 0.0, TUNING) is not None for n in looks) for said in streams)

    assert told(0.5, 0.0) <= 5
    assert told(0.2, 0.0) <= 9
    assert told(0.5, 2.0) >= 95


@settings(max_examples=60, deadline=None)
@given(
    said=st.lists(st.tuples(st.floats(0.0, 8.0), st.booleans()), max_size=40), share=st.sampled_from([0.0, 0.1, 0.4])
)
def test_the_best_strength_is_that_of_all_that_are_tried(said: list[tuple[float, bool]], share: float) -> None:
    """Of those that keep enough right ones: the largest F1, then the most false ones spared, then the least."""
    given_verdicts = [Verdict(*each) for each in said]
    right = sum(each.is_right for each in given_verdicts)

    def worth(strength: float) -> tuple[float, int, float]:
        kept = [each.is_right for each in given_verdicts if each.strength >= strength]
        precision = sum(kept) / len(kept) if kept else 0.0
        recall = sum(kept) / right if right else 0.0
        f1 = 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0
        return (
            round(f1, 12),
            sum(not each for each in (v.is_right for v in given_verdicts if v.strength < strength)),
            -strength,
        )

    tried = [each / 8.0 for each in range(65)]
    fitting = [each for each in tried if count(given_verdicts, each).right_lost <= share * right]
    assert best_strength(given_verdicts, share) == max(fitting, key=worth)


@settings(deadline=None)
@given(trials=st.integers(1, 200), data=st.data())
def test_tails_are_those_of_scipy(trials: int, data: st.DataObject) -> None:
    """Of the binomial and of the hypergeometric distribution."""
    successes = data.draw(st.integers(0, trials))
    assert binomial_tail(successes, trials) == pytest.approx(binom.sf(successes - 1, trials, 0.5), rel=1e-9)
    marked, drawn = data.draw(st.integers(0, trials)), data.draw(st.integers(0, trials))
    expected = hypergeom.sf(successes - 1, trials, marked, drawn)
    assert hypergeometric_tail(successes, drawn, marked, trials) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_realised_rate_is_that_of_two_blocks() -> None:
    """What is older is forgotten; more flagged events than judged ones are refused."""
    rate = RealisedRate()
    rate.add(100, 50)
    rate.end_block()
    rate.add(1_000, 3)
    assert rate.of(0.01) == Realised(0.01, 53, 1_100)
    rate.end_block()
    twin = RealisedRate()
    twin.restore(rate.state())
    assert twin.of(0.01) == Realised(0.01, 3, 1_000)
    with pytest.raises(ValueError, match="more are flagged"):
        twin.restore(StoredRealised(3, 4))
    assert math.isclose(twin.of(0.01).wanted, 0.01)
