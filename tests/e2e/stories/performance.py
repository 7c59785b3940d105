"""Puts a play on a stage: what happened, and what the oracle says."""

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.e2e.stories.oracle import Verdict
from tests.e2e.stories.plays import Play, Tally
from tests.e2e.stories.stage import Stage


class Result(NamedTuple):
    """One line of the table."""

    tally: Tally
    verdict: Verdict
    restarts: list[tuple[str, int]]
    sent: int
    seconds: float

    def check(self) -> None:
        """Raise with everything that was wrong."""
        assert not self.verdict.problems, "\n".join(self.verdict.problems)
        assert (self.verdict.lost, self.verdict.doubled, self.verdict.state_differences) == (0, 0, 0)
        assert self.verdict.outputs > 0


def perform(stage: Stage, run: Callable[[Stage], Tally]) -> Result:
    """Run a play to its end, let everything settle, and compare."""
    begun = time.monotonic()
    with stage:
        try:
            tally = run(stage)
            stage.settle()
            verdict = stage.verdict()
        except BaseException as error:
            error.add_note(stage.crew.tails())
            raise
        return Result(tally, verdict, stage.crew.restarts, stage.sent, time.monotonic() - begun)


def perform_play(play: Play, servers: str, prefix: str) -> Result:
    """Run a play that needs nothing but a broker that stays up."""
    return perform(Stage(servers, prefix, environment=play.environment, settings=play.settings), play.run)
