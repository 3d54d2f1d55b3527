"""Every gRPC method a client may name: what it is called, how it streams, what serves it, and its counters.

Owns the table and the texts for names that are not in it. Knows no connection.
Invariant: each known method has its counters from the start, at zero, also those that are not served yet: dashboards
compute open streams as started minus handled.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.descriptor import FileDescriptor

from gateway.methods import Method
from gateway.streams import StreamMethod
from protocol.errors import GrpcCode
from protocol.wire import election_pb2, health_pb2, lock_pb2, rpc_pb2

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
_FILES: Final[tuple[FileDescriptor, ...]] = (
    rpc_pb2.DESCRIPTOR,
    lock_pb2.DESCRIPTOR,
    election_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)
CODE_NAMES: Final[dict[int, str]] = {
    int(code): "".join(word.capitalize() for word in code.name.split("_")) for code in GrpcCode
} | {0: "OK"}
"""Codes as metrics spell them: `OK`, `InvalidArgument`, `DeadlineExceeded`."""


class GrpcMethod:
    """One method of one service, and what has been counted of it."""

    __slots__ = ("handled", "kind", "method", "name", "received", "sent", "service", "started", "stream")

    def __init__(
        self, service: str, name: str, kind: str, method: Method | None, stream: StreamMethod | None = None
    ) -> None:
        self.service = service
        self.name = name
        self.kind = kind
        """`unary`, `client_stream`, `server_stream` or `bidi_stream`."""
        self.method = method
        """What the core serves it with; None: it is a stream, or not served, or served by the door itself."""
        self.stream = stream
        """The same for a streaming method."""
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = [0] * len(GrpcCode)
        """Answers by status code."""


def _kind(*, client: bool, server: bool) -> str:
    if client:
        return "bidi_stream" if server else "client_stream"
    return "server_stream" if server else "unary"


def all_methods(served: Mapping[bytes, Method], streams: Mapping[bytes, StreamMethod]) -> dict[bytes, GrpcMethod]:
    """Return every method of etcd's API by path; `served` and `streams` are those the core knows."""
    table: dict[bytes, GrpcMethod] = {}
    for file in _FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}".encode()
                kind = _kind(client=method.client_streaming, server=method.server_streaming)
                table[path] = GrpcMethod(service.full_name, method.name, kind, served.get(path), streams.get(path))
                assert table[path].stream is None or method.server_streaming, f"{path.decode()} is no stream"
    missing = sorted({*served, *streams} - set(table))
    assert not missing, f"served, but in no .proto: {missing}"
    return table


def unknown_method(path: bytes, table: Mapping[bytes, GrpcMethod]) -> str:
    """Return what grpc-go says to a path that is not in the table."""
    text = path.decode("utf-8", "backslashreplace")
    service, slash, name = text[1:].rpartition("/")
    if not slash:
        return f"malformed method name: {_quoted(text)}"
    if any(known.service == service for known in table.values()):
        return f"unknown method {name} for service {service}"
    return f"unknown service {service}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def samples(table: Mapping[bytes, GrpcMethod]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of the gRPC counters, zeros included."""
    for entry in table.values():
        labels = {"grpc_method": entry.name, "grpc_service": entry.service, "grpc_type": entry.kind}
        yield "grpc_server_started_total", labels, entry.started
        yield "grpc_server_msg_received_total", labels, entry.received
        yield "grpc_server_msg_sent_total", labels, entry.sent
        for code, count in enumerate(entry.handled):
            yield "grpc_server_handled_total", labels | {"grpc_code": CODE_NAMES[code]}, count
