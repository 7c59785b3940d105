"""Which of the configured targets a command is about."""

from collections.abc import Sequence

from msgspec import structs

from worker.settings import Settings


class SelectionError(Exception):
    """A target was asked for that there is not; the message says which there are."""


def selected(settings: Settings, names: Sequence[str]) -> Settings:
    """Return settings with the targets asked for, all of them without a wish. Raises SelectionError."""
    known = [target.name for target in settings.notify.targets]
    for name in names:
        if name not in known:
            raise SelectionError(f"--target {name}: notify.targets has {', '.join(known) or 'none'}")
    targets = tuple(target for target in settings.notify.targets if not names or target.name in names)
    return structs.replace(settings, notify=structs.replace(settings.notify, targets=targets))
