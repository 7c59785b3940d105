"""Registration in the background: nothing waits for it, a failure is told and tried again, and it ends."""

import msgspec

from tests.offering import artefact_of
from worker.core.events import Manifest
from worker.edges.registration import BackgroundRegistration

MANIFEST = msgspec.json.decode(artefact_of(b"model").manifest, type=Manifest)


def test_models_are_registered_one_after_the_other_with_their_addresses() -> None:
    """All that was asked for is done before the end."""
    done: list[tuple[str, str]] = []
    failures: list[str] = []
    with BackgroundRegistration(lambda manifest, uri: done.append((manifest.model_id, uri)), failures.append) as mine:
        for place in range(3):
            mine.register(MANIFEST, f"s3://models/{place}")
    assert done == [("m", f"s3://models/{place}") for place in range(3)]
    assert failures == []


def test_a_registry_that_is_away_is_tried_again_and_given_up_at_last() -> None:
    """Each failure is told; the next model gets its own attempts."""
    answers = iter([ConnectionError("away"), None, *[ConnectionError("gone")] * 3])
    failures: list[str] = []

    def register(_: Manifest, __: str) -> None:
        error = next(answers)
        if error is not None:
            raise error

    with BackgroundRegistration(register, failures.append, pauses_s=(0.0, 0.0)) as mine:
        mine.register(MANIFEST, "a")
        mine.register(MANIFEST, "b")
    assert failures == [
        "model not registered yet: a: away",
        "model not registered yet: b: gone",
        "model not registered yet: b: gone",
        "model not registered: b: gone",
    ]
    assert next(answers, "none left") == "none left"
