"""What stored state is held against: options of alerts may change where there is nothing to replay, others never."""

import msgspec

from worker.core.options import AlertOptions, EngineOptions
from worker.fingerprint import fingerprint, policy

_USUAL = EngineOptions()
_OTHER_ALERTS = msgspec.structs.replace(_USUAL, alerts=AlertOptions(openings_per_day_max=3))
_OTHER_RATE = msgspec.structs.replace(_USUAL, alert_rate=0.25)


def test_options_of_alerts_are_told_apart_from_all_others() -> None:
    """Each change shows in one of the two, and only in that one."""
    assert fingerprint(_USUAL, "p") == fingerprint(_OTHER_ALERTS, "p")
    assert policy(_USUAL) != policy(_OTHER_ALERTS)
    assert fingerprint(_USUAL, "p") != fingerprint(_OTHER_RATE, "p")
    assert policy(_USUAL) == policy(_OTHER_RATE)
    assert fingerprint(_USUAL, "p") != fingerprint(_USUAL, "other")
