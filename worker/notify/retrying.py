"""What to do after an attempt: done, try again after a while, or give up.

    answer                                      decision
    2xx                                         done
    408, 429, 5xx, no answer                    again, until nothing has been taken for `give_up_ms`
    3xx (redirects are not followed), other 4xx give up

Pauses are drawn from [0, retry_ms * 2^failures), at most `retry_max_ms`: exponential backoff with full jitter (Brooker,
"Exponential Backoff And Jitter", 2015). A receiver that says `Retry-After` (RFC 9110, section 10.2.3) gets at least
that, up to `retry_after_max_ms`.
"""

from typing import NamedTuple

from worker.edges.http_client import Answer, NoAnswer, pause_ms, retry_after_ms
from worker.notify_settings import TargetSettings

_TIMEOUT, _TOO_MANY = 408, 429
_SUCCESS, _ERRORS = range(200, 300), range(500, 600)


class Done(NamedTuple):
    """The receiver has it."""


class Again(NamedTuple):
    """Try again after a while."""

    wait_ms: int
    reason: str


class GivenUp(NamedTuple):
    """The receiver does not take it."""

    reason: str
    answered: bool
    """Whether the receiver itself refused it, so that it is there and may take others."""


Decision = Done | Again | GivenUp


class Trouble(NamedTuple):
    """What came before an attempt."""

    failures: int = 0
    """In a row, of this receiver."""
    failing_ms: int = 0
    """Since the first of them."""


def decide(
    answer: Answer | NoAnswer, trouble: Trouble, target: TargetSettings, *, draw: float, now_ms: int
) -> Decision:
    """Decide after an attempt.

    Args:
        answer: what came back.
        trouble: failures before this one.
        target: bounds of pauses and patience.
        draw: a random number in [0, 1).
        now_ms: time of day, for a `Retry-After` that is a date.
    """
    if isinstance(answer, Answer) and answer.status in _SUCCESS:
        return Done()
    reason = _reason(answer)
    if isinstance(answer, Answer) and answer.status not in {_TIMEOUT, _TOO_MANY} and answer.status not in _ERRORS:
        return GivenUp(reason, answered=True)
    if trouble.failing_ms >= target.give_up_ms:
        return GivenUp(f"nothing taken for {trouble.failing_ms // 1000} s, at last: {reason}", answered=False)
    drawn_ms = pause_ms(trouble.failures, target.retry_ms, target.retry_max_ms, draw)
    asked_ms = retry_after_ms(answer.retry_after, now_ms) if isinstance(answer, Answer) else 0
    return Again(max(drawn_ms, min(asked_ms, target.retry_after_max_ms)), reason)


def _reason(answer: Answer | NoAnswer) -> str:
    if isinstance(answer, NoAnswer):
        return answer.reason
    return f"HTTP {answer.status}{': ' if answer.excerpt else ''}{answer.excerpt}"
