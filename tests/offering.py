"""An engine that speaks of models without fitting any: for tests of who stores them, and when."""

from hashlib import sha256

import msgspec

from worker.core.engine import Engine, Handled
from worker.core.events import Manifest, Output, RawBatch
from worker.core.events.topics import Artefact


class OfferingEngine(Engine):
    """An engine each of whose outputs speaks of a model, unless it is a tombstone."""

    def handle(self, batch: RawBatch) -> Handled:
        """Process a batch."""
        handled = super().handle(batch)
        return handled._replace(outputs=list(map(offering, handled.outputs)))

    def tick(self, partition: int, now_ms: int) -> list[Output]:
        """Tell the time."""
        return list(map(offering, super().tick(partition, now_ms)))

    def thin(self, partition: int, level: int) -> list[Output]:
        """Set the level of thinning."""
        return list(map(offering, super().thin(partition, level)))


def offering(output: Output) -> Output:
    """Return an output that speaks of a model."""
    return output if output.value is None else output._replace(artefact=artefact_of(b"model of " + output.value))


def artefact_of(content: bytes) -> Artefact:
    """Return a model with these bytes, and a manifest that fits."""
    digest = sha256(content).hexdigest()
    manifest = Manifest(
        model_id="m",
        replaces_version=None,
        version="v",
        candidate="recent",
        task="regression",
        features=[],
        classes=[],
        trained_on=[],
        metrics=[],
        seed=1,
        decided_ms=0,
        sha256=digest,
        bytes=len(content),
        libraries={},
    )
    return Artefact(f"m/{digest}.onnx", content, msgspec.json.encode(manifest))
