"""Watchers of a load: many streams over many connections that keep what they hear, and come back by revision.

Owns the client's side of watching and the check that every event came once and in order. Knows no target and no load.
"""

import asyncio
import functools
import time
from typing import Final, cast

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_grpc import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, BenchFailed, frame

CONNECTIONS: Final = 100
POLL_S: Final = 0.02
DELIVERY_S: Final = 60.0
"""How long deliveries may take after the last put."""


class WatchConnection(asyncio.Protocol):
    """One connection with one stream of watchers; keeps every response for the check."""

    def __init__(self, creates: list[bytes]) -> None:
        self._creates = creates
        self._frames = bytearray()
        self._messages = bytearray()
        self.responses: list[bytes] = []
        self.lost = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for every watcher."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        asked = [b"\0" + len(body).to_bytes(4, "big") + body for body in self._creates]
        begin = frame(HEADERS, END_HEADERS, 1, bench_grpc.heads("/etcdserverpb.Watch/Watch")[0])
        self.transport.write(bench_grpc.opening() + begin + b"".join(frame(DATA, 0, 1, body) for body in asked))

    def data_received(self, data: bytes) -> None:
        """Take responses apart, and keep them."""
        self._frames += data
        for kind, flags, _stream, payload in bench_grpc.frames_in(self._frames):
            if kind == DATA:
                self._messages += payload
            elif kind == HEADERS and flags & END_STREAM:
                self.transport.close()
            elif kind == SETTINGS and not flags & ACK:
                self.transport.write(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.transport.write(frame(PING, ACK, 0, payload))
        messages, at = self._messages, 0
        while len(messages) - at >= 5:
            end = at + 5 + int.from_bytes(messages[at + 1 : at + 5], "big")
            if len(messages) < end:
                break
            self.responses.append(bytes(messages[at + 5 : end]))
            at = end
        del messages[:at]

    def connection_lost(self, error: Exception | None) -> None:
        """A stream that ends has lost events."""
        self.lost = str(error or "the server ended the stream")


class Watchers:
    """All watchers of a load, a share of them on each connection."""

    def __init__(self, keys: list[tuple[bytes, bytes]]) -> None:
        """`keys` are key and range end of each watcher."""
        self.count = len(keys)
        self.resumed = 0
        """Streams that were lost and taken up again."""
        self._kept = False
        self._shares = [keys[number::CONNECTIONS] for number in range(CONNECTIONS)]
        self.connections: list[list[WatchConnection]] = [[] for _ in self._shares]
        """Of each share, one after the other."""

    async def open(self, address: str) -> None:
        """Connect, and wait until every watcher is created."""
        for number in range(CONNECTIONS):
            await self._connect(number, address, {})
        await self.wait(0)

    async def keep(self, address: str) -> None:
        """Take up every stream that ends, at the revision behind the last that each of its watchers has heard of."""
        self._kept = True
        while True:
            await asyncio.sleep(POLL_S)
            for number, connections in enumerate(self.connections):
                if connections[-1].lost:
                    try:
                        await self._connect(number, address, self._heard_of(number))
                    except OSError:
                        break
                    self.resumed += 1

    async def _connect(self, number: int, address: str, heard: dict[int, int]) -> None:
        host, _, port = address.rpartition(":")
        creates = [
            rpc.WatchRequest(
                create_request=rpc.WatchCreateRequest(
                    key=key, range_end=end, watch_id=watch, start_revision=heard[watch] + 1 if heard else 0
                )
            ).SerializeToString()
            for watch, (key, end) in enumerate(self._shares[number], 1)
        ]
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(functools.partial(WatchConnection, creates), host, int(port))
        self.connections[number].append(made)

    def _heard_of(self, number: int) -> dict[int, int]:
        """Return for each watcher of a share the newest revision that it was told of, when it was created at least."""
        heard: dict[int, int] = {}
        for connection in self.connections[number]:
            for body in connection.responses:
                response = _response(body)
                told = response.events[-1].kv.mod_revision if response.events else 0
                if response.created:
                    # Nothing before it is missing: a stream that is taken up asks for what follows what it has heard.
                    told = 0 if response.watch_id in heard else response.header.revision
                heard[response.watch_id] = max(heard.get(response.watch_id, 0), told)
        return heard

    @property
    def heard(self) -> int:
        """How many responses have come."""
        return sum(len(connection.responses) for connections in self.connections for connection in connections)

    async def wait(self, events: int) -> None:
        """Wait until so many events have come, once every watcher was created.

        Raises:
            BenchFailed: they have not, in time.
        """
        until = time.perf_counter() + DELIVERY_S
        while self.heard < self.count + events:
            before = self.heard
            await asyncio.sleep(POLL_S)
            if self.heard != before:
                continue
            # Events may share a response: when nothing more comes, only a look inside tells.
            if self.heard >= self.count and self._events() >= events:
                return
            lost = next((connections[-1].lost for connections in self.connections if connections[-1].lost), "")
            if (lost and not self._kept) or time.perf_counter() > until:
                raise BenchFailed(f"{self._events()} of {events} events came: {lost or 'too late'}")

    def _events(self) -> int:
        bodies = (body for connections in self.connections for each in connections for body in each.responses)
        return sum(len(_response(body).events) for body in bodies)

    def check(self) -> int:
        """Return how many events were delivered.

        Raises:
            BenchFailed: one came twice, or out of order.
        """
        total = 0
        for connections in self.connections:
            last: dict[int, int] = {}
            for response in (_response(body) for connection in connections for body in connection.responses):
                for event in response.events:
                    if event.kv.mod_revision <= last.get(response.watch_id, 0):
                        raise BenchFailed("an event came twice, or behind a later one")
                    last[response.watch_id] = event.kv.mod_revision
                    total += 1
        return total

    def close(self) -> None:
        """End the connections."""
        for connections in self.connections:
            connections[-1].transport.close()


def _response(body: bytes) -> rpc.WatchResponse:
    return rpc.WatchResponse.FromString(body)
