"""A member of the group for whom there is no partition: it must learn of that, or it would never be ready."""

from collections.abc import Sequence

import pytest

from tests.e2e.kafka_corner import Cluster, until
from tests.sim.rigs import Listener
from worker.core.events import InputTopic


class Heard(Listener):
    """Counts how often it was told what it has, be it nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def assigned(self, partitions: Sequence[int]) -> None:
        super().assigned(partitions)
        self.answers += 1


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_spare_member_is_told_that_it_has_nothing(cluster: Cluster, protocol: str) -> None:
    """Two members, one partition: both are answered; when the first one leaves, the spare has it."""
    cluster.topics[InputTopic.PREDICTIONS] += "-narrow"
    cluster.create(cluster.input, 1)
    properties = {"group.protocol": protocol}
    first, one = cluster.member(properties), Heard()
    until(lambda: one.owned == {0}, (first, one))
    spare, two = cluster.member(properties), Heard()
    until(lambda: two.answers > 0 and one.owned | two.owned == {0}, (first, one), (spare, two))
    first.close(one)
    until(lambda: two.owned == {0}, (spare, two))
    spare.close(two)
