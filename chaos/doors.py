"""The two ways into a node for a workload: gRPC by a client nobody here wrote, and ZeroMQ by package actd.

Owns channels, and the judgement whether a call that failed may have taken effect. Knows no history.
Invariant: `failed` is said only when the call cannot take effect any more; everything doubtful is `unknown`.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import grpc
from google.protobuf.message import Message

from actd import Client
from actd.calls import Call
from actd.errors import ActdError, ClientClosed
from chaos.history import Outcome
from chaos.requests import KINDS, kind_of
from chaos.watching import GrpcWatch, WatchStream, ZmqWatch
from protocol.errors import WIRE_ERRORS
from protocol.wire import rpc_pb2 as rpc

CALL_TIMEOUT_S: Final = 2.0
_ZMQ_METHODS: Final = {"range": 2, "put": 1, "delete": 3, "txn": 4, "compact": 5} | {
    "lease_grant": 9,
    "lease_revoke": 10,
    "lease_keep_alive": 11,
    "lease_time_to_live": 12,
}
_UNKNOWN_BY_TEXT: Final = {error.text: error.outcome_unknown for error in WIRE_ERRORS.values()}
_NEVER_SENT: Final = "failed to connect to all addresses"
"""grpcio says so when it had no connection to send the call on."""
_NEVER_TAKEN: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Codes with which a server says that a request was refused before it did anything."""


class CallFailed(Exception):
    """A call that was not answered well; `outcome` says whether it may have taken effect."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class Door(Protocol):
    """A blocking client of one protocol."""

    name: str

    def call(self, request: Message, timeout_s: float = CALL_TIMEOUT_S) -> Message:
        """Return the answer.

        Raises:
            CallFailed: there is none, or it is an error.
        """
        ...

    def watch(self, request: rpc.WatchCreateRequest) -> WatchStream:
        """Begin to watch.

        Raises:
            CallFailed: nobody began to in time.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class GrpcDoor:
    """grpcio, one node at a time; goes to the next one when the node at hand does not serve."""

    name = "grpc"

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = list(endpoints)
        self._position = 0
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._watched = False

    def call(self, request: Message, timeout_s: float = CALL_TIMEOUT_S) -> Message:
        """See `Door.call`."""
        try:
            return cast("Message", self._method(kind_of(request))(request, timeout=timeout_s))
        except grpc.RpcError as error:
            failure = cast("grpc.Call", error)
            text = str(failure.details())
            if failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                self._go_on()
            raise CallFailed(_outcome(failure.code(), text), f"{failure.code().name}: {text}") from error

    def watch(self, request: rpc.WatchCreateRequest) -> WatchStream:
        """See `Door.watch`; the stream itself says when the node is none."""
        if self._watched:
            # The last stream has ended, perhaps because its node did.
            self._go_on()
        self._watched = True
        return GrpcWatch(self._endpoints[self._position], request)

    def _method(self, kind: str) -> Callable[..., Any]:
        method = self._methods.get(kind)
        if method is None:
            if self._channel is None:
                options = [
                    ("grpc.enable_retries", 0),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 1000),
                ]
                self._channel = grpc.insecure_channel(self._endpoints[self._position], options=options)
            path, answer = KINDS[kind]
            forms: dict[str, Callable[..., Any]] = {
                "request_serializer": lambda each: each.SerializeToString(),
                "response_deserializer": answer.FromString,
            }
            if kind == "lease_keep_alive":
                method = _one_by_one(self._channel.stream_stream(path, **forms))
            else:
                method = self._channel.unary_unary(path, **forms)
            self._methods[kind] = method
        return method

    def _go_on(self) -> None:
        if len(self._endpoints) > 1:
            self.close()
            self._position = (self._position + 1) % len(self._endpoints)

    def close(self) -> None:
        """Let go of the channel."""
        self._methods = {}
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _one_by_one(stream: Callable[..., Any]) -> Callable[..., Any]:
    """Make a call of a stream with one request and one answer."""

    def call(request: Message, timeout: float) -> Message:
        for answer in stream(iter((request,)), timeout=timeout):
            return cast("Message", answer)
        raise CallFailed("unknown", "the stream ended without an answer")

    return call


def _outcome(code: grpc.StatusCode, text: str) -> Outcome:
    """Whether a call that ended so may have taken effect."""
    if code in _NEVER_TAKEN or text.startswith(_NEVER_SENT):
        return "failed"
    return "unknown" if _UNKNOWN_BY_TEXT.get(text, True) else "failed"


class ZmqDoor:
    """Package actd's blocking client; it goes to other doors by itself."""

    name = "zmq"

    def __init__(self, endpoints: Sequence[str], name: str = "chaos") -> None:
        self._client = Client(list(endpoints), name=name)

    def call(self, request: Message, timeout_s: float = CALL_TIMEOUT_S) -> Message:
        """See `Door.call`."""
        kind = kind_of(request)
        reads = kind in ("range", "lease_keep_alive", "lease_time_to_live")
        call = Call(_ZMQ_METHODS[kind], request.SerializeToString(), KINDS[kind][1].FromString, reads)
        try:
            return self._client.submit(call, timeout_s).result()
        except ClientClosed as error:
            raise CallFailed("unknown", f"ClientClosed: {error}") from error
        except ActdError as error:
            outcome: Outcome = "unknown" if error.outcome_unknown else "failed"
            raise CallFailed(outcome, f"{type(error).__name__}: {error}") from error

    def watch(self, request: rpc.WatchCreateRequest) -> WatchStream:
        """See `Door.watch`."""
        try:
            return ZmqWatch(self._client, request, CALL_TIMEOUT_S)
        except ActdError as error:
            raise CallFailed("failed", f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Let go of the socket."""
        self._client.close()


def ask(endpoint: str, request: Message, timeout_s: float = 1.0) -> Message | None:
    """Ask one node something over gRPC on a connection of its own; None if it does not answer well in time."""
    door = GrpcDoor([endpoint])
    with contextlib.closing(door), contextlib.suppress(CallFailed):
        return door.call(request, timeout_s)
    return None
