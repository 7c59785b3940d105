"""Registers stored models in the background: a registry is a service of its own, and no event waits for it."""

import time
from collections.abc import Callable
from queue import Full, Queue
from threading import Thread
from typing import Self

from worker.core.events import Manifest

_WAITING_MAX = 100
_PAUSES_S = (1.0, 10.0, 60.0)
"""Between attempts."""
_CLOSE_S = 5.0
"""At the end, what still waits gets so long."""


class BackgroundRegistration:
    """Implements `ports.ModelRegistry`.

    A registration is no part of the exactly-once chain: a crash, or a registry that is away for longer than the
    attempts, loses it. The model stays in the store, and the record that speaks of it is published.

    Args:
        register: registers one model, at the address that follows; whatever it raises is tried again.
        failed: is told of those that are given up, and of each failure.
        pauses_s: between attempts.
    """

    def __init__(
        self,
        register: Callable[[Manifest, str], object],
        failed: Callable[[str], object],
        pauses_s: tuple[float, ...] = _PAUSES_S,
    ) -> None:
        self._register = register
        self._failed = failed
        self._pauses_s = pauses_s
        self._waiting: Queue[tuple[Manifest, str] | None] = Queue(_WAITING_MAX)
        self._thread = Thread(target=self._run, name="model-registration", daemon=True)
        self._thread.start()

    def register(self, manifest: Manifest, uri: str) -> None:
        """Register a model as soon as may be; never waits, never fails."""
        try:
            self._waiting.put_nowait((manifest, uri))
        except Full:
            self._failed(f"model not registered, too many wait already: {uri}")

    def close(self) -> None:
        """Give what still waits a little time."""
        try:
            self._waiting.put(None, timeout=_CLOSE_S)
        except Full:
            return
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while (wanted := self._waiting.get()) is not None:
            self._try(*wanted)

    def _try(self, manifest: Manifest, uri: str) -> None:
        for pause_s in (*self._pauses_s, None):
            try:
                self._register(manifest, uri)
            except Exception as error:  # noqa: BLE001 - whatever a registry's client raises must not end the thread
                self._failed(f"model not registered{'' if pause_s is None else ' yet'}: {uri}: {error}")
            else:
                return
            if pause_s is not None:
                time.sleep(pause_s)
