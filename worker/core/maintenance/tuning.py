"""Alert thresholds from feedback: advice that a person can put into the configuration for good.

Feedback moves what is asked of a kind at once (`alerts.effects`), as long as it is in force. Here it is looked at as
data: every judged incident has a strength, in doublings beyond the threshold of its kind, and a verdict, right or
false. The least strength with the largest F1 that keeps nearly all right ones is chosen on the older half of the
verdicts and judged on the newer half. It is advised if there

* what would open no longer (or again, where it is lower) was false (right) more often than not: exact binomial test;
* and more often than if strength had nothing to do with it: Fisher's exact test, one-sided (Fisher 1935, "The logic of
  inductive inference"); where none of many was right there is nothing to compare with, and the first is enough;
* and hardly a right one is lost.

It is looked at after each few verdicts, and both tests are at 5 %. Where verdicts had nothing to do with strength
(simulated, 39 looks at up to 200 of them), something was advised in 1 of 200 streams with half of them right, in 8 of
200 with a fifth, and in 63 of 200 with a twentieth: there none of the first twenty was right.

An advised strength stands for an alert rate: an event is so strong that its p-value is at most alert_rate / 2^strength.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from worker.core.alerts.effects import Effects, Verdict
from worker.core.alerts.measures import STRENGTH_MAX
from worker.core.detectors.realised_rate import Realised
from worker.core.events import AlertKind, MetricValue
from worker.core.events.tuning import OptionAdvice, TuningReport
from worker.core.options import EngineOptions
from worker.core.options.alerts import TuningOptions
from worker.core.performance.intervals import wilson
from worker.core.performance.records import Z95

FALSE_ADVICE = 0.05
"""Level of either test."""
_STEPS = 8
"""Candidates in a doubling."""
_CANDIDATES = tuple(step / _STEPS for step in range(int(STRENGTH_MAX) * _STEPS + 1))
_PATTERN = re.compile(r"([*?\[])")


class Counted(NamedTuple):
    """Verdicts that a least strength keeps and loses."""

    right: int
    false: int
    right_lost: int
    false_lost: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without right ones."""
        return 2.0 * self.right / max(2 * self.right + self.false + self.right_lost, 1)


def tuned(
    effects: Effects, kind: AlertKind, model_id: str, options: EngineOptions, realised: Realised
) -> TuningReport | None:
    """Return the advice that is due after another verdict on a kind, and note that it was given; None: there is none.

    `options` are those of the model; `realised` is its share of flagged events.
    """
    of = options.alerts.tuning
    verdicts = effects.verdicts(kind)
    if not of.enabled or not _is_due(len(verdicts), of):
        return None
    verdicts = verdicts[-of.verdicts_max :]
    present = options.alerts.noise_of(model_id, kind).strength_min
    advised = advised_strength(verdicts, present, of)
    before = effects.advised.get(kind)
    if advised is None or (before is not None and abs(advised - before) < of.change_min):
        return None
    effects.advised[kind] = advised
    return _report(kind, model_id, verdicts, (present, advised), options, realised)


def _is_due(count: int, options: TuningOptions) -> bool:
    return count >= options.verdicts_min and (count - options.verdicts_min) % options.verdicts_step == 0


def advised_strength(verdicts: Sequence[Verdict], present: float, options: TuningOptions) -> float | None:
    """Return a better least strength than the present one, for verdicts in the order of time; None: none is proven."""
    older, newer = _halves(verdicts)
    advised = best_strength(older, options.lost_share_max)
    if abs(advised - present) < options.change_min:
        return None
    moved = _moved(newer, present, advised)
    after = count(newer, advised)
    if after.right_lost > options.lost_share_max * (after.right + after.right_lost):
        return None
    if not any(each.is_right for each in verdicts):
        is_related = len(verdicts) >= options.all_false_min
    else:
        is_related = hypergeometric_tail(*moved) <= FALSE_ADVICE
    return advised if is_related and binomial_tail(*moved[:2]) <= FALSE_ADVICE else None


def _halves(verdicts: Sequence[Verdict]) -> tuple[Sequence[Verdict], Sequence[Verdict]]:
    middle = len(verdicts) // 2
    return verdicts[:middle], verdicts[middle:]


def best_strength(verdicts: Sequence[Verdict], lost_share_max: float) -> float:
    """Return the least strength with the largest F1 among those that lose hardly a right one.

    Of equal ones the one that spares more false ones, and then the lowest: that is all there is without right ones.
    """
    best, most = 0.0, (-1.0, -1)
    for candidate in _CANDIDATES:
        found = count(verdicts, candidate)
        if found.right_lost > lost_share_max * (found.right + found.right_lost):
            break
        value = found.f1, found.false_lost
        if value > most:
            best, most = candidate, value
    return best


def count(verdicts: Sequence[Verdict], strength: float) -> Counted:
    """Count what a least strength keeps and loses."""
    kept = [each.is_right for each in verdicts if each.strength >= strength]
    lost = [each.is_right for each in verdicts if each.strength < strength]
    return Counted(sum(kept), len(kept) - sum(kept), sum(lost), len(lost) - sum(lost))


class _Moved(NamedTuple):
    """Verdicts between two strengths: those that speak for the other strength, and all; the same of all verdicts."""

    good: int
    moved: int
    alike: int
    total: int


def _moved(verdicts: Sequence[Verdict], present: float, advised: float) -> _Moved:
    low, high = min(present, advised), max(present, advised)
    # Where it is lower right ones are to be won back, else false ones to be spared.
    good = [each.is_right == (advised < present) for each in verdicts]
    moved = [is_good for is_good, each in zip(good, verdicts, strict=True) if low <= each.strength < high]
    return _Moved(sum(moved), len(moved), sum(good), len(good))


def binomial_tail(successes: int, trials: int) -> float:
    """Return the probability of at least so many heads in so many throws of a coin. O(trials)."""
    return sum(math.comb(trials, each) for each in range(successes, trials + 1)) / (1 << trials)


def hypergeometric_tail(successes: int, drawn: int, marked: int, total: int) -> float:
    """Return the probability of at least so many marked ones among `drawn` of `total`, of which some are. O(drawn)."""
    ways = sum(
        math.comb(marked, each) * math.comb(total - marked, drawn - each)
        for each in range(successes, min(drawn, marked) + 1)
    )
    return ways / math.comb(total, drawn)


def _report(
    kind: AlertKind,
    model_id: str,
    verdicts: Sequence[Verdict],
    strengths: tuple[float, float],
    options: EngineOptions,
    realised: Realised,
) -> TuningReport:
    """Tell an advice with its figures, on the newer half of the verdicts."""
    newer = _halves(verdicts)[1]
    present, advised = strengths
    before, after = count(newer, present), count(newer, advised)
    is_of_events = kind == "anomaly.input"
    return TuningReport(
        alert_kind=kind,
        option="engine.alerts.kinds.strength_min",
        present=present,
        advised=advised,
        toml=_toml(kind, model_id, advised),
        verdicts=len(verdicts),
        right=sum(each.is_right for each in verdicts),
        precision_before=_share(before.right, before.right + before.false),
        precision_after=_share(after.right, after.right + after.false),
        recall_before=_share(before.right, before.right + before.right_lost),
        recall_after=_share(after.right, after.right + after.right_lost),
        instead=_instead(advised, options) if is_of_events else None,
        wanted_rate=realised.wanted if is_of_events else None,
        realised_rate=_share(realised.flagged, realised.judged) if is_of_events else None,
    )


def _share(part: int, of: int) -> MetricValue:
    return MetricValue(*wilson(part, of, Z95))


def _toml(kind: str, model_id: str, strength: float) -> str:
    """Return the entry to be added after the others: later ones count more."""
    model = _PATTERN.sub(r"[\1]", model_id)
    lines = ["[[engine.alerts.kinds]]", f"kind = {_quoted(kind)}", f"model = {_quoted(model)}"]
    return "\n".join([*lines, f"strength_min = {strength}", ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _instead(strength: float, options: EngineOptions) -> OptionAdvice:
    """Return the alert rate with which the same events would be flagged without a least strength."""
    factor = 2.0**strength
    if options.false_alarm_interval_ms:
        interval_ms = options.false_alarm_interval_ms
        return OptionAdvice("engine.models.false_alarm_interval_ms", interval_ms, round(interval_ms * factor))
    return OptionAdvice("engine.models.alert_rate", options.alert_rate, options.alert_rate / factor)


def sentence(report: TuningReport, model_id: str) -> str:
    """Say an advice in a sentence."""
    after, before = report.precision_after, report.precision_before
    words = f"{_percent(before)} of its alerts were right, {_percent(after)} would have been"
    if after.value is None:
        words = f"{report.right} of {report.verdicts} of its alerts were right"
    return (
        f"{model_id}: {report.alert_kind} should open from {2.0**report.advised:.3g} times its threshold on "
        f"({report.option} = {report.advised:g}, now {report.present:g}): {words}"
    )


def _percent(value: MetricValue) -> str:
    return "none" if value.value is None else f"{value.value:.0%}"
