"""What model maintenance has to do with the loop: models to be stored, and work that costs too much at times."""

from collections.abc import Collection
from typing import NamedTuple

from tests.offering import offering
from tests.sim.broker import SimBroker
from tests.sim.faults import Fault, Site
from tests.sim.host import Host
from worker.core.events import Manifest, Output, OutputTopic
from worker.core.maintenance.manifest import model_path
from worker.ports import ArtefactStoreError, Spent

_EVERY_MS = 900
_BUSY_FOR_MS = 450
"""Now and then maintenance costs too much for so long: a level or two go up, and come back one by one."""


class Models:
    """What is in the store, by the bytes of each model."""

    def __init__(self) -> None:
        self.stored: dict[bytes, str] = {}

    def missing(self, broker: SimBroker) -> list[str]:
        """Say which visible records speak of models that are not there."""
        logs = [broker.log(topic, partition) for topic in OutputTopic for partition in range(broker.partitions)]
        spoken_of = [
            (log, offering(Output(OutputTopic.METRICS, 0, 0, record.key, record.value)).artefact)
            for log in logs
            for record in log.committed_records()
        ]
        return [
            f"{log.topic}[{log.partition}]: a record speaks of a model that is not stored"
            for log, artefact in spoken_of
            if artefact is not None and artefact.content not in self.stored
        ]


class SimStore:
    """Implements `ports.ArtefactStore`: one worker's connection."""

    def __init__(self, host: Host, models: Models) -> None:
        self._host = host
        self._models = models

    def put(self, model: bytes, manifest: Manifest) -> "SimStored":
        """Store a model."""
        if self._host.enter(Site.PUT) is Fault.STORE_DOWN:
            raise ArtefactStoreError("no answer")
        path = self._models.stored[model] = model_path(manifest.model_id, manifest.sha256)
        return SimStored(path)

    def retain(self, artefacts_max: int, keep: Collection[str] = ()) -> int:
        """Remove nothing: the checks want to see all that was stored."""
        return len(self._models.stored) - artefacts_max - len(keep)


class SimStored(NamedTuple):
    """Where a model lies."""

    uri: str


class SimEffort:
    """Implements `ports.Effort`: the engine always works; up to a time, maintenance takes too much of it in turns."""

    def __init__(self, host: Host, until_ms: int) -> None:
        self._host = host
        self._until_ms = until_ms

    def begin(self) -> None:
        """Work begins."""

    def end(self) -> None:
        """Work has ended."""

    def spent(self) -> Spent:
        """Return what was spent so far: ten seconds in each one of the simulated time."""
        now_ms = self._host.broker.now_ms
        turns, rest_ms = divmod(min(now_ms, self._until_ms), _EVERY_MS)
        busy_ms = turns * _BUSY_FOR_MS + min(rest_ms, _BUSY_FOR_MS)
        return Spent(now_ms / 100, 0.3 * busy_ms / 100, 0.0)
