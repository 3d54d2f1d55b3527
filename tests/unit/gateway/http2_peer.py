"""An HTTP/2 client for tests: makes frames, reads frames, records what a handler is told, and fetches a page."""

import socket
from typing import NamedTuple

from hpack import Decoder, Encoder

from gateway import http2_frames as wire
from gateway.http2 import Http2Connection
from gateway.http2_hpack import RequestHead
from gateway.http2_limits import Http2Limits

POST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/etcdserverpb.KV/Put"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


class Frame(NamedTuple):
    """One frame as the server sent it."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def read_frames(data: bytes) -> list[Frame]:
    """Return the frames in `data`, which must be whole."""
    frames = []
    while data:
        word, flags, stream_id = wire.FRAME_HEAD.unpack_from(data)
        end = 9 + (word >> 8)
        assert len(data) >= end, "the server wrote half a frame"
        frames.append(Frame(word & 0xFF, flags, stream_id, data[9:end]))
        data = data[end:]
    return frames


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return wire.frame_head(len(payload), kind, flags, stream_id) + payload


class Recorder:
    """A handler that answers nothing by itself."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def on_request(self, stream_id: int, head: RequestHead, body: bytes) -> None:
        """Record a whole request."""
        self.events.append(("request", stream_id, head.path, body))

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """Record the beginning of one."""
        self.events.append(("headers", stream_id, head.path))

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """Record a part of a body."""
        self.events.append(("data", stream_id, data, ended))

    def on_reset(self, stream_id: int) -> None:
        """Record a reset."""
        self.events.append(("reset", stream_id))

    def on_closed(self) -> None:
        """Record the end."""
        self.events.append(("closed",))


class Peer:
    """A client talking to an `Http2Connection` without a socket in between."""

    def __init__(self, limits: Http2Limits | None = None, *, greet: bool = True) -> None:
        self.handler = Recorder()
        self.now = 1000
        self.connection = Http2Connection(self.handler, self.now, limits or Http2Limits())
        self.encoder = Encoder()
        self.decoder = Decoder()
        if greet:
            self.send(wire.PREFACE + wire.settings(()))
            self.frames()

    def send(self, data: bytes) -> None:
        """Hand bytes to the server."""
        self.connection.receive(data, self.now)

    def frames(self) -> list[Frame]:
        """Return what the server wants written, until it has no more to write now."""
        output = self.connection.take_output()
        while self.connection.wants_turn:
            output += self.connection.take_output()
        return read_frames(output)

    def block(self, fields: list[tuple[bytes, bytes]] | None = None) -> bytes:
        """Return an HPACK block that uses the dynamic table as a browser would."""
        return self.encoder.encode(POST if fields is None else fields)

    def headers(
        self,
        stream_id: int,
        fields: list[tuple[bytes, bytes]] | None = None,
        *,
        end_stream: bool = False,
    ) -> bytes:
        """Return a HEADERS frame."""
        flags = wire.END_HEADERS | (wire.END_STREAM if end_stream else 0)
        return frame(wire.HEADERS, flags, stream_id, self.block(fields))

    def request(self, stream_id: int, body: bytes = b"hello") -> bytes:
        """Return a whole request: HEADERS and one DATA frame."""
        return self.headers(stream_id) + frame(wire.DATA, wire.END_STREAM, stream_id, body)

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a block the server sent; blocks must be read in order."""
        return [(bytes(field[0]), bytes(field[1])) for field in self.decoder.decode(block, raw=True)]

    @property
    def events(self) -> list[tuple[object, ...]]:
        """What the handler was told."""
        return self.handler.events

    def goaway(self) -> wire.H2Error | None:
        """Return why the server ended the connection, if it did."""
        for sent in self.frames():
            if sent.kind == wire.GOAWAY:
                return wire.H2Error(int.from_bytes(sent.payload[4:8], "big"))
        return None

    def reset_of(self, stream_id: int) -> wire.H2Error | None:
        """Return why the server reset a stream, if it did."""
        for sent in self.frames():
            if sent.kind == wire.RST_STREAM and sent.stream_id == stream_id:
                return wire.H2Error(int.from_bytes(sent.payload, "big"))
        return None


def get_http2(port: int, request: bytes, peer: Peer) -> tuple[int, str]:
    """Return status and body of one request over HTTP/2 on stream 1."""
    status, body, received = 0, b"", b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(wire.PREFACE + wire.settings(()) + request)
        while True:
            part = raw.recv(65_536)
            assert part, "the server closed instead of answering"
            received += part
            while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3]):
                size = 9 + int.from_bytes(received[:3])
                (sent,) = read_frames(received[:size])
                received = received[size:]
                if sent.kind == wire.HEADERS:
                    status = int(dict(peer.fields(sent.payload))[b":status"])
                elif sent.kind == wire.DATA:
                    body += sent.payload
                if sent.stream_id == 1 and sent.flags & wire.END_STREAM and sent.kind in (wire.HEADERS, wire.DATA):
                    return status, body.decode()


def plain(path: bytes, method: bytes = b"GET") -> list[tuple[bytes, bytes]]:
    """Return the fields of a request that is not gRPC."""
    return [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
