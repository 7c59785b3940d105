"""A check at any time: whoever comes next must get the state from what is stored that belongs to the last commit."""

import random

from tests.sim.broker import SimBroker
from tests.sim.host import Bystander
from tests.sim.reading import SimHistory
from tests.sim.refits import RememberedRefits
from tests.sim.scenario import ENGINE, IDENTITY
from worker.core.engine import Engine
from worker.core.shard import Topics
from worker.recovery.restore_job import RestoreJob, RestoreOptions

_STEPS_MAX = 10_000


def restored_digest(broker: SimBroker, partition: int) -> str:
    """Restore a shard from the stored state alone; return the digest of what comes out."""
    engine = Engine(ENGINE, Topics(), RememberedRefits())
    history = SimHistory(Bystander(broker, random.Random(partition)))
    position = broker.group.positions([partition])[partition]
    job = RestoreJob(partition, position, engine, history, IDENTITY, RestoreOptions())
    for _ in range(_STEPS_MAX):
        job.step()
        if job.track is not None:
            return engine.digest(partition)
    raise AssertionError(f"shard {partition} is not restored after {_STEPS_MAX} steps")
