"""The network between nodes as a process of its own: TCP connections that can be slow, lossy, stalled or cut.

`python -m chaos.proxy CONFIG` prints "ready" and then obeys lines of JSON on its standard input, each answered with
"ok". It ends with its input. Owns the connections. Knows of clusters only names, and of protocols only as much as it
needs to lose whole ZeroMQ messages and to see from which etcd member a connection comes.
Invariant: bytes of one direction of a connection keep their order, whatever happens to them.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from chaos.zmtp import MessageLoss

CHUNK_BYTES: Final = 65_536
CHUNKS_HELD_MAX: Final = 64
"""Of one direction of one connection; more are left to TCP's own flow control."""
_MEMBER: Final = re.compile(rb"X-Server-From: ([0-9a-f]+)\r\n", re.IGNORECASE)
Mode = Literal["open", "stall", "cut"]


@dataclass
class Link:
    """What happens to bytes from one node to another.

    `stall` keeps everything and delivers it when it is opened again, as TCP does over a network that loses all;
    `cut` closes the connections that the source has opened, and every new one.
    """

    source: str
    target: str
    mode: Mode = "open"
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def set(self, changes: dict[str, Any]) -> None:
        """Change how the link behaves."""
        for name, value in changes.items():
            assert name in ("mode", "delay_ms", "jitter_ms", "loss"), f"a link has no {name}"
            setattr(self, name, value)
        if self.mode == "stall":
            self.opened.clear()
        else:
            self.opened.set()
        if self.mode == "cut":
            for writer in list(self.connections):
                _reset(writer)


@dataclass(frozen=True)
class Listener:
    """A port that stands for a node. `source` is who connects there, or "" when the connection itself must say so."""

    source: str
    target: str
    listen: int
    to: int


class Proxy:
    """All links and listeners of one cluster."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._listeners = [Listener(**each) for each in config["listeners"]]
        self._members: dict[str, str] = config["members"]
        """Names of etcd members by their ids in hexadecimal."""
        self._messages = bool(config["zmtp"])
        self._rng = random.Random(config["seed"])
        names = {each.target for each in self._listeners}
        self._links = {(a, b): Link(a, b) for a in names for b in names if a != b}
        for link in self._links.values():
            link.opened.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Listen, and obey until the input ends."""
        servers = [
            await asyncio.start_server(partial(self._accepted, listener), "127.0.0.1", listener.listen)
            for listener in self._listeners
        ]
        commands = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        _say("ready")
        while line := await commands.readline():
            for source, target, changes in json.loads(line):
                self._links[source, target].set(changes)
            _say("ok")
        for server in servers:
            server.close()

    async def _accepted(self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = b""
        source = listener.source
        if not source:
            first = await reader.read(CHUNK_BYTES)
            found = _MEMBER.search(first)
            source = self._members.get(found[1].decode(), "") if found else ""
        there, back = self._links.get((source, listener.target)), self._links.get((listener.target, source))
        if there is not None and there.mode == "cut":
            _reset(writer)
            return
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", listener.to)
        except OSError:
            _reset(writer)
            return
        if there is not None:
            there.connections |= {writer, to_writer}
        lossy = self._messages and there is not None
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the proxy ends with connections open
                await asyncio.gather(
                    self._pump(reader, to_writer, there, MessageLoss(self._rng) if lossy else None, first),
                    self._pump(to_reader, writer, back, None, b""),
                )
        finally:
            for each in (writer, to_writer):
                _reset(each)
            if there is not None:
                there.connections -= {writer, to_writer}

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link | None,
        loss: MessageLoss | None,
        first: bytes,
    ) -> None:
        """Carry one direction of a connection to its end; either end closing ends both directions."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_HELD_MAX)
        sending = asyncio.create_task(self._send(held, writer, link))
        self._tasks.add(sending)
        loop = asyncio.get_running_loop()
        due = 0.0
        try:
            data = first or await reader.read(CHUNK_BYTES)
            while data and not sending.done():
                if loss is not None and link is not None:
                    data = loss.feed(data, link.loss)
                if link is not None:
                    delay_ms = link.delay_ms + self._rng.random() * link.jitter_ms
                    due = max(due, loop.time() + delay_ms / 1000)
                if data:
                    await held.put((due, data))
                data = await reader.read(CHUNK_BYTES)
            await held.put((due, b""))
            await sending
        except OSError:
            pass
        finally:
            sending.cancel()
            self._tasks.discard(sending)
            _reset(writer)

    @staticmethod
    async def _send(
        held: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter, link: Link | None
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await held.get()
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if link is not None:
                await link.opened.wait()
            if not data:
                return
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                _reset(writer)
                return


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection hard: the other side hears of it at once, and nothing is delivered any more."""
    transport = writer.transport
    if transport.is_closing():
        return
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Run the proxy that the file named first describes."""
    asyncio.run(Proxy(json.loads(Path(arguments[0]).read_text())).serve())


if __name__ == "__main__":
    main(sys.argv[1:])
