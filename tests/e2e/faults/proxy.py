"""A TCP proxy before a broker that knows which request of Kafka's protocol it passes on, and breaks what it is told to.

A frame is received, judged by the rules, queued, kept if it is to be late, and sent: the same on both ways.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.e2e.faults.frames import Request, correlation_id_of, framed, read_frame, request_of
from tests.e2e.faults.rules import Fault, Held, Rule, Rules, Side

_HOST: Final = "127.0.0.1"
_FRAMES_QUEUED_MAX: Final = 1_000
_DELIVERY_MAX_S: Final = 20.0
_END_MAX_S: Final = 10.0
_CHECK_S: Final = 0.005
_RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Listens at an address of its own, and connects each client to one broker. Works until `close`.

    Args:
        port: where it listens.
        upstream: the port of the broker, which need not be there yet.
    """

    def __init__(self, port: int, upstream: int) -> None:
        self.rules = Rules()
        self.address = f"{_HOST}:{port}"
        self._upstream = (_HOST, upstream)
        listener = socket.create_server((_HOST, port))
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), name="proxy", daemon=True)
        self._thread.start()
        assert self._ready.wait(_END_MAX_S)

    def cut(self) -> None:
        """Reset all connections that are open now; clients may connect again."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def deliver(self, held: Held) -> bytes:
        """Send a held request to the broker at last, and return the broker's reply, which no client gets."""
        with socket.create_connection(self._upstream, _DELIVERY_MAX_S) as broker, broker.makefile("rb") as replies:
            broker.sendall(framed(held.frame))
            return replies.read(int.from_bytes(replies.read(4), "big"))

    def close(self) -> None:
        """Reset all connections and stop listening."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_END_MAX_S)

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=listener)
        self._ready.set()
        await self._ended.wait()
        server.close()
        self._cut_all()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _End(reader, writer)
        try:
            broker = _End(*await asyncio.open_connection(*self._upstream))
        except OSError:
            client.reset()
            return
        connection = _Connection(self.rules, client, broker)
        self._connections.add(connection)
        await connection.run()
        self._connections.discard(connection)

    def _cut_all(self) -> None:
        for connection in self._connections:
            connection.cut()


class _End(NamedTuple):
    """One of the two sockets of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Close it with a TCP reset, as a broken network would."""
        # One that has been closed already has no options any more.
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


class _Late(NamedTuple):
    """A frame on its way, and what keeps it."""

    frame: bytes
    rule: Rule | None
    arrived_s: float

    async def wait(self) -> None:
        """Wait until it may go on."""
        while self._is_kept():  # noqa: ASYNC110 - other threads remove rules, and cannot set an asyncio.Event
            await asyncio.sleep(_CHECK_S)

    def _is_kept(self) -> bool:
        rule = self.rule
        return rule is not None and not rule.removed and time.monotonic() < self.arrived_s + rule.seconds


class _Connection:
    """A client, its connection to the broker, and what it has asked and not been told yet."""

    def __init__(self, rules: Rules, client: _End, broker: _End) -> None:
        self._rules = rules
        self._client = client
        self._broker = broker
        self._asked: dict[int, Request] = {}

    async def run(self) -> None:
        """Pass on frames until either side has ended."""
        await asyncio.gather(
            self._pass_on(self._client, self._broker, self._judge_request),
            self._pass_on(self._broker, self._client, self._judge_reply),
        )

    def cut(self) -> None:
        """Reset both sides."""
        self._client.reset()
        self._broker.reset()

    async def _pass_on(self, source: _End, target: _End, judge: Callable[[bytes], Rule | None]) -> None:
        queue: asyncio.Queue[_Late | None] = asyncio.Queue(_FRAMES_QUEUED_MAX)
        sender = asyncio.create_task(_send(queue, target))
        vanishing = False
        while (frame := await read_frame(source.reader)) is not None:
            rule = None if vanishing else judge(frame)
            if rule is not None and rule.fault is Fault.CUT:
                self.cut()
            vanishing |= rule is not None and rule.fault in {Fault.DROP, Fault.HOLD}
            if not vanishing:
                await queue.put(_Late(frame, rule, time.monotonic()))
        await queue.put(None)
        await sender

    def _judge_request(self, frame: bytes) -> Rule | None:
        request = request_of(frame)
        self._asked[request.correlation_id] = request
        return self._rules.striking(Side.REQUEST, request, frame)

    def _judge_reply(self, frame: bytes) -> Rule | None:
        request = self._asked.pop(correlation_id_of(frame))
        return self._rules.striking(Side.REPLY, request, frame)


async def _send(queue: "asyncio.Queue[_Late | None]", target: _End) -> None:
    """Send frames in their order. What comes after the target has gone is taken as well, or the queue would fill up."""
    while (late := await queue.get()) is not None:
        await late.wait()
        with contextlib.suppress(OSError):
            target.writer.write(framed(late.frame))
            await target.writer.drain()
    target.writer.close()
