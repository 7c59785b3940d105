"""Limits of metrics, and when one is broken: only when an interval at a high confidence excludes the limit.

    (kept) --interval excludes the limit--> broken --still so at a look--> broken --value is clear of it--> (kept)
            opened                                    updated                         resolved

Windows of 1, 2, 4, ... blocks of labels are looked at, if they have the support of an alert, each when half of it is
new. So a great loss is found in a few blocks and a small one when enough labels have come. A drop is measured against a
reference whose own interval counts, too (MOVER, `intervals.difference`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.options import LimitOptions
from worker.core.performance.intervals import Estimate, difference, ratio
from worker.core.performance.window_sizes import due_sizes
from worker.core.state import COUNT_MAX, refuse_if

Sort = Literal["minimum", "maximum", "drop", "rise"]
Status = Literal["opened", "updated", "resolved"]

_CRITICAL_DROP, _CRITICAL_RISE, _CRITICAL_SHARE = 0.1, 0.5, 0.1
"""Critical are a loss of ten points, an error larger by half, and an absolute limit missed by a tenth of it."""

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]

Figures = Callable[[int, Collection[str]], Mapping[str, Estimate]]
"""Gives the estimates of some metrics in a window of so many blocks that ends now."""


class Condition(NamedTuple):
    """One limit of one metric."""

    metric: str
    sort: Sort
    limit: float
    clear: float = 0.0
    """How far on the right side of the limit the value must be before a breach is over."""

    @property
    def key(self) -> str:
        """Its name among the conditions of a series."""
        return f"{self.metric}.{self.sort}"

    @property
    def needs_reference(self) -> bool:
        """Whether it is measured against a reference."""
        return self.sort in ("drop", "rise")


def conditions(limits: Sequence[LimitOptions], metrics: Collection[str]) -> list[Condition]:
    """Return the conditions of the limits whose metric is one of `metrics`."""
    found = []
    for limit in limits:
        if limit.metric in metrics:
            sorts: tuple[Sort, ...] = ("minimum", "maximum", "drop", "rise")
            found += [
                Condition(limit.metric, sort, getattr(limit, sort), limit.clear)
                for sort in sorts
                if getattr(limit, sort) is not None
            ]
    return found


class Breach(Struct, forbid_unknown_fields=True):
    """An open breach, as it is stored."""

    key: str
    window: _Count
    """Blocks of the window in which it was found."""
    since_ms: _Count
    """Beginning of that window."""
    opened_ms: _Count
    opened_offset: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]
    """Of the prediction that made it known."""
    severity: Literal["warning", "critical"]
    """As of the last look at which it was broken."""


class Verdict(NamedTuple):
    """What a window says of a condition."""

    broken: bool
    kept: bool
    """The value itself is on the right side, and clear of the limit: a breach is over."""
    excess: float
    """How far the value is beyond the limit, in the unit of the metric, or as a share for a rise."""
    limit: float
    """As a value of the metric."""


class Step(NamedTuple):
    """A transition to tell, or that it is broken still."""

    status: Status
    condition: Condition
    breach: Breach
    estimate: Estimate
    reference: Estimate | None
    limit: float
    blocks: int


class Watch:
    """The conditions of one series."""

    def __init__(self, found: Sequence[Condition], support_min: int) -> None:
        self.conditions = list(found)
        self._looked_at = [(each.key, each.metric, each.needs_reference, each) for each in found]
        self.metrics = frozenset(condition.metric for condition in found)
        self._support_min = support_min
        self.open: dict[str, Breach] = {}
        self.cleared: dict[str, int] = {}
        """Blocks so far when the last breach of a condition was resolved: what came before is not held against it."""

    def restore(self, breaches: Sequence[Breach], cleared: Mapping[str, int]) -> None:
        """Take over the open breaches and the ends of former ones; ValueError for one of no condition here."""
        keys = {condition.key for condition in self.conditions}
        found = {each.key: each for each in breaches}
        refuse_if(
            "stored breaches",
            {
                "one is of no limit": not found.keys() | cleared.keys() <= keys,
                "one is there twice": len(found) < len(breaches),
            },
        )
        self.open, self.cleared = found, dict(cleared)

    def look(
        self, done: int, since_reference: int, figures: Figures, reference: Mapping[str, Estimate], at: "Moment"
    ) -> list[Step]:
        """Look at the windows that end with block `done`, and of which half is new; return the steps to tell.

        Args:
            done: blocks so far.
            since_reference: blocks since the reference was taken; a window lies after it.
            figures: see `Figures`.
            reference: estimates that drops and rises are measured against, as far as they are known.
            at: when and where.
        """
        steps: list[Step] = []
        broken: set[str] = set()
        for size in due_sizes(done, at.sizes):
            usable = [
                each
                for key, metric, needs_reference, each in self._looked_at
                if key not in broken
                and size <= done - self.cleared.get(key, 0)
                and (not needs_reference or (size <= since_reference and metric in reference))
            ]
            if usable:
                estimates = figures(size, {each.metric for each in usable})
                for each in usable:
                    estimate = estimates.get(each.metric)
                    if estimate is not None and estimate.support >= self._support_min:
                        found = self._judge(each, estimate, reference.get(each.metric), size, broken, at)
                        steps += found
                        if any(step.status == "resolved" for step in found):
                            self.cleared[each.key] = done
        return steps

    def end_all(self, figures: Figures, reference: Mapping[str, Estimate]) -> list[Step]:
        """Return the end of every open breach, as the windows stand in which they were found."""
        steps = []
        for condition in self.conditions:
            breach = self.open.pop(condition.key, None)
            if breach is None:
                continue
            estimate = figures(breach.window, {condition.metric}).get(condition.metric)
            verdict = None if estimate is None else judge(condition, estimate, reference.get(condition.metric))
            if estimate is not None and verdict is not None:
                known = reference.get(condition.metric)
                steps.append(Step("resolved", condition, breach, estimate, known, verdict.limit, breach.window))
        return steps

    def _judge(
        self,
        condition: Condition,
        estimate: Estimate,
        reference: Estimate | None,
        size: int,
        broken: set[str],
        at: "Moment",
    ) -> list[Step]:
        verdict = judge(condition, estimate, reference)
        breach = self.open.get(condition.key)
        if verdict is None:
            return []
        if verdict.broken:
            broken.add(condition.key)
            severity = _severity(condition, verdict)
            if breach is None:
                breach = Breach(condition.key, size, at.begins[size], at.now_ms, at.offset, severity)
                self.open[condition.key] = breach
                return [Step("opened", condition, breach, estimate, reference, verdict.limit, size)]
            breach.severity = severity
            return [Step("updated", condition, breach, estimate, reference, verdict.limit, size)]
        if breach is not None and verdict.kept and size >= breach.window // 2:
            del self.open[condition.key]
            return [Step("resolved", condition, breach, estimate, reference, verdict.limit, size)]
        return []


class Moment(NamedTuple):
    """When and where limits are looked at: time, the prediction that made it due, and when each window began."""

    now_ms: int
    offset: int
    begins: Mapping[int, int]

    @property
    def sizes(self) -> list[int]:
        """Sizes of the windows, in blocks."""
        return list(self.begins)


def judge(condition: Condition, now: Estimate, reference: Estimate | None) -> Verdict | None:
    """Judge one condition; None when there is not enough data."""
    if now.value is None or now.low is None or now.high is None:
        return None
    limit = condition.limit
    match condition.sort:
        case "minimum":
            return Verdict(now.high < limit, now.value >= limit + condition.clear, limit - now.value, limit)
        case "maximum":
            return Verdict(now.low > limit, now.value <= limit - condition.clear, now.value - limit, limit)
    return _judge_against(condition, now, reference)


def _judge_against(condition: Condition, now: Estimate, reference: Estimate | None) -> Verdict | None:
    """Judge a drop or a rise."""
    limit, clear = condition.limit, condition.clear
    if reference is None or reference.value is None or reference.low is None:
        return None
    if condition.sort == "drop":
        value, _, high = difference(now, reference)
        return Verdict(high < -limit, value >= clear - limit, -value - limit, reference.value - limit)
    top = reference.value * (1.0 + limit)
    if now.value is not None and now.value <= 0.0:
        return Verdict(broken=False, kept=True, excess=-1.0 - limit, limit=top)
    grown = ratio(now, reference)
    if grown is None:
        return None
    value, low, _ = grown
    return Verdict(low > 1.0 + limit, value <= 1.0 + limit - clear, value - 1.0 - limit, top)


def _severity(condition: Condition, verdict: Verdict) -> Literal["warning", "critical"]:
    if condition.sort == "drop":
        return "critical" if verdict.excess + condition.limit >= _CRITICAL_DROP else "warning"
    if condition.sort == "rise":
        return "critical" if verdict.excess + condition.limit >= _CRITICAL_RISE else "warning"
    return "critical" if verdict.excess >= _CRITICAL_SHARE * abs(condition.limit) else "warning"
