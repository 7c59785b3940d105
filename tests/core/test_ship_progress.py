"""How far a partition is, what may be committed when, and what must be looked up before it is sent."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.ship.progress import AHEAD, SPREAD_MAX, Begin, Mark, Portion, Progress

TAKE = AHEAD // 2
"""Records of a batch, so that a few of them are beyond a ceiling."""
STEPS = st.lists(st.sampled_from(["send", "settle first", "settle last", "commit", "kill", "stop"]), max_size=40)


def begin(offset: int = 100, *, committed: bool = True, metadata: str = "", end: int = 500) -> Begin:
    """Return where a partition is."""
    return Begin(offset, committed, metadata, end)


def test_a_position_waits_for_all_before_it() -> None:
    """Portions are settled in any order."""
    progress = Progress(begin(), empty=True)
    assert not progress.may_send(110)
    mark = progress.mark(taken=110)
    assert mark is not None
    progress.committed(mark)
    first, second, third = (progress.send(end) for end in (110, 120, 130))
    progress.settle(second)
    assert progress.position == 100
    progress.settle(first)
    assert progress.position == 120
    assert not progress.settled
    progress.settle(third)
    assert progress.position == 130
    assert progress.settled


def test_what_may_have_been_sent_is_looked_up_by_the_next_owner() -> None:
    """All below the ceiling; after a clean stop nothing."""
    progress = Progress(begin(), empty=True)
    mark = progress.mark(taken=110)
    assert mark is not None
    progress.committed(mark)
    portion = progress.send(110)
    killed = Progress(begin(mark.offset, metadata=mark.metadata), empty=False)
    assert killed.doubtful_before == 110 + AHEAD
    progress.settle(portion)
    last = progress.mark(last=True)
    assert last is not None
    assert last.offset == 110
    assert Progress(begin(110, metadata=last.metadata), empty=False).doubtful_before == 110


@pytest.mark.parametrize(
    ("where", "empty", "doubtful_before"),
    [
        (begin(metadata="sent<120"), True, 120),
        (begin(metadata=""), False, 500),
        (begin(metadata="sent<1x0"), False, 500),
        (begin(metadata="sent<" + "9" * 30), False, 500),
        (begin(committed=False), False, 500),
        (begin(committed=False), True, 100),
        (begin(committed=False, metadata="sent<120"), False, 500),
    ],
)
def test_without_a_ceiling_all_that_is_there_may_have_been_sent(
    where: Begin,
    empty: bool,  # noqa: FBT001 - a parameter of the table
    doubtful_before: int,
) -> None:
    """Unless the stream is empty: somebody may have moved the position, or the group was forgotten."""
    assert Progress(where, empty=empty).doubtful_before == doubtful_before


def test_nothing_is_committed_twice() -> None:
    """Kafka is asked only for what is new to it."""
    progress = Progress(begin(), empty=True)
    first = progress.mark()
    assert first is not None
    progress.committed(first)
    assert progress.mark() is None
    portion = progress.send(110)
    assert progress.mark() is None
    progress.settle(portion)
    second = progress.mark()
    assert second is not None
    assert second.offset == 110


@settings(deadline=None)
@given(data=st.data())
def test_whatever_happens_no_record_between_position_and_ceiling_is_taken_for_new(data: st.DataObject) -> None:
    """A kill at any moment: what was sent and is not before the position is doubtful for the next owner."""
    progress, sent, committed = Progress(begin(0, end=10**6), empty=True), 0, begin(0, committed=False, end=10**6)
    open_portions: list[Portion] = []
    for _ in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["send", "settle", "commit", "fail"]))
        if action == "send":
            end = sent + data.draw(st.integers(1, AHEAD // 3))
            if not progress.may_send(end):
                mark = progress.mark(taken=end)
                assert mark is not None
                progress.committed(mark)
                committed = begin(mark.offset, metadata=mark.metadata, end=10**6)
            open_portions.append(progress.send(end))
            sent = end
        elif action == "settle" and open_portions:
            progress.settle(open_portions.pop(data.draw(st.integers(0, len(open_portions) - 1))))
        elif action == "commit" and (mark := progress.mark()) is not None:
            progress.committed(mark)
            committed = begin(mark.offset, metadata=mark.metadata, end=10**6)
        elif action == "fail":
            progress.mark()
        assert Progress(committed, empty=True).doubtful_before >= sent
        assert committed.offset <= progress.position


class Partition:
    """A partition, what Kafka knows of it, and one owner after the other."""

    def __init__(self) -> None:
        self.known: Mark | None = None
        self.sent = 0
        """Records before it were sent by somebody."""
        self.end = 0
        """Where it ends: a record comes right before it is sent."""
        self.begin()

    def begin(self) -> None:
        """Assign it."""
        offset, metadata = self.known or (0, "")
        begin = Begin(offset, self.known is not None, metadata, self.end)
        self.progress = Progress(begin, empty=self.known is None)
        self.next, self.out = offset, list[Portion]()

    def commit(self, mark: Mark | None) -> None:
        """Commit a position."""
        if mark is not None:
            self.known = mark
            self.progress.committed(mark)

    def send(self) -> None:
        """Send the next records, as the shipper does; complain about those that may be there and are not looked up."""
        end = self.next + TAKE
        self.end = max(self.end, end)
        if not self.progress.may_send(end):
            self.commit(self.progress.mark(taken=end))
        if self.progress.may_send(end):
            assert min(self.sent, end) <= max(self.next, self.progress.doubtful_before)
            self.out.append(self.progress.send(end))
            self.next, self.sent = end, max(self.sent, end)

    def do(self, step: str) -> None:
        """Do something."""
        if step == "send":
            self.send()
        elif step.startswith("settle") and self.out:
            self.progress.settle(self.out.pop(0 if step == "settle first" else -1))
        elif step == "commit":
            self.commit(self.progress.mark())
        elif step in {"kill", "stop"}:
            if step == "stop":
                self.commit(self.progress.mark(last=True))
            self.begin()


@settings(deadline=None)
@given(STEPS)
@example(["send", "send", "send", "kill", "send", "settle first", "stop", "send"])
@example([*["send"] * 6, "kill", "send", "kill", *["send"] * 5])
def test_nothing_is_sent_twice_without_a_look(steps: list[str]) -> None:
    """Whatever is killed or stopped, and however often."""
    partition = Partition()
    for step in steps:
        partition.do(step)


def test_what_is_sent_beyond_a_record_that_is_stuck_is_bounded() -> None:
    """A gap of offsets, where nothing is out, is none of that."""
    progress = Progress(begin(0, committed=False, end=0), empty=True)
    assert not progress.is_far(10 * SPREAD_MAX)
    progress.committed(Mark(0, f"sent<{2 * SPREAD_MAX}"))
    stuck, other = progress.send(10), progress.send(SPREAD_MAX)
    progress.settle(other)
    assert not progress.is_far(SPREAD_MAX)
    assert progress.is_far(SPREAD_MAX + 1)
    progress.settle(stuck)
    assert not progress.is_far(SPREAD_MAX + 1)
