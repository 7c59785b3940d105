"""A broker that can be reached in two ways: through a proxy that breaks things, and directly for those who look on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.e2e.faults.node import QUICK_FAILOVER
from tests.e2e.faults.proxy import Proxy
from tests.e2e.faults.running import Running
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.server import PROPERTIES

_PROTOCOLS: Final = "listener.security.protocol.map"


class ProxiedBroker(Running):
    """One `LocalBroker` behind one `Proxy`. As a context manager both are started on entry and ended on exit.

    Who connects to `bootstrap_servers` stays behind the proxy, because the broker names the proxy as its address there.

    Args:
        properties: server properties beside or over ours.
    """

    def __init__(self, properties: Mapping[str, str] | None = None) -> None:
        self._reserved = ReservedPorts(2)
        entrance, door = self._reserved.numbers
        self.proxy = Proxy(entrance, door)
        self.broker = _TwoDoors(f"127.0.0.1:{door}", self.proxy.address, {**QUICK_FAILOVER, **(properties or {})})

    def begin(self) -> None:
        """Start the broker; the proxy listens already."""
        self.broker.start()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect that shall feel the faults."""
        return self.proxy.address

    @property
    def direct_servers(self) -> str:
        """Where clients connect that shall not."""
        return self.broker.bootstrap_servers

    def end(self) -> None:
        """Stop the broker and the proxy."""
        self.broker.kill()
        self.broker.stop()
        self.proxy.close()


class _TwoDoors(LocalBroker):
    """A broker with a second listener, for which it advertises another address than its own."""

    def __init__(self, door: str, advertised: str, properties: Mapping[str, str]) -> None:
        super().__init__(properties=properties)
        self._door = door
        self._advertised = advertised

    def _write_properties(self, name: str, changes: Mapping[str, str]) -> Path:
        # With changes it is for a controller alone, which has no clients.
        return super()._write_properties(name, changes or self._doors())

    def _doors(self) -> dict[str, str]:
        direct = f"PLAINTEXT://{self.bootstrap_servers}"
        return {
            "listeners": f"{direct},PROXIED://{self._door},CONTROLLER://{self._controller}",
            "advertised.listeners": f"{direct},PROXIED://{self._advertised}",
            _PROTOCOLS: f"{PROPERTIES[_PROTOCOLS]},PROXIED:PLAINTEXT",
        }
