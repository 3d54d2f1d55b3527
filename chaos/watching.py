"""Watch streams for workloads: grpcio against one node, and package actd's watch, which changes nodes by itself.

Owns the threads that read streams. Knows no workload. Invariant: what a stream has told is handed out once, in order;
a stream that has ended says so only when all it told was taken.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Final, Protocol

import grpc

from actd import Client, WatchEvent
from actd.errors import ActdError, WatchCompacted
from actd.results import KeyValue
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

WATCH_PATH: Final = "/etcdserverpb.Watch/Watch"
TOLD_MAX: Final = 10_000
"""Responses that wait to be taken; a stream that is not read pushes back on the server."""


class WatchStream(Protocol):
    """One watcher on one stream."""

    whole_revisions: bool
    """Whether a response holds all events of its revisions; else each event comes by itself."""
    ended: str
    """Why it has ended; "" while it has not."""

    def take(self, timeout_s: float) -> list[rpc.WatchResponse]:
        """Return what has come, waiting for the first at most so long."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class GrpcWatch:
    """One watcher on a gRPC stream to one node."""

    whole_revisions = True

    def __init__(self, endpoint: str, request: rpc.WatchCreateRequest) -> None:
        self.ended = ""
        self._told: queue.Queue[rpc.WatchResponse | str] = queue.Queue(TOLD_MAX)
        self._requests: queue.SimpleQueue[rpc.WatchRequest | None] = queue.SimpleQueue()
        self._requests.put(rpc.WatchRequest(create_request=request))
        self._closed = threading.Event()
        self._channel = grpc.insecure_channel(endpoint, options=[("grpc.use_local_subchannel_pool", 1)])
        method = self._channel.stream_stream(
            WATCH_PATH,
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )
        self._call = method(iter(self._requests.get, None))
        threading.Thread(target=self._read, name="chaos-watch", daemon=True).start()

    def _read(self) -> None:
        reason = "the server ended the stream"
        try:
            for response in self._call:
                self._put(response)
        except grpc.RpcError as error:
            reason = str(error)[:200] or "failed"
        self._put(reason)

    def _put(self, told: rpc.WatchResponse | str) -> None:
        while not self._closed.is_set():
            try:
                self._told.put(told, timeout=0.2)
                return
            except queue.Full:
                continue

    def take(self, timeout_s: float) -> list[rpc.WatchResponse]:
        """See `WatchStream.take`."""
        return list(self._taken(timeout_s))

    def _taken(self, timeout_s: float) -> Iterator[rpc.WatchResponse]:
        try:
            told = self._told.get(timeout=timeout_s)
            while not isinstance(told, str):
                yield told
                told = self._told.get_nowait()
            self.ended = told
        except queue.Empty:
            return

    def close(self) -> None:
        """Cancel the stream and let its thread end."""
        self._closed.set()
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()
        self.ended = self.ended or "closed"


class ZmqWatch:
    """One watch of package actd; it resumes at other nodes by itself."""

    whole_revisions = False

    def __init__(self, client: Client, request: rpc.WatchCreateRequest, timeout_s: float) -> None:
        """Begin to watch.

        Raises:
            ActdError: no node began to in time.
        """
        self.ended = ""
        self._watch = client.watch(
            request.key,
            request.range_end,
            start_revision=request.start_revision,
            prev_kv=request.prev_kv,
            timeout_s=timeout_s,
        )

    def take(self, timeout_s: float) -> list[rpc.WatchResponse]:
        """See `WatchStream.take`."""
        taken: list[rpc.WatchResponse] = []
        try:
            while (event := self._watch.next(0 if taken else timeout_s)) is not None:
                taken.append(rpc.WatchResponse(events=[_event(event)]))
        except WatchCompacted as error:
            taken.append(rpc.WatchResponse(canceled=True, compact_revision=error.compact_revision))
            self.ended = str(error)
        except ActdError as error:
            self.ended = f"{type(error).__name__}: {error}"
        return taken

    def close(self) -> None:
        """Hear nothing more."""
        self._watch.close()
        self.ended = self.ended or "closed"


def _event(event: WatchEvent) -> mvcc.Event:
    kind = mvcc.Event.PUT if event.kind == "put" else mvcc.Event.DELETE
    previous = None if event.previous is None else _pair(event.previous)
    return mvcc.Event(type=kind, kv=_pair(event.pair), prev_kv=previous)


def _pair(pair: KeyValue) -> mvcc.KeyValue:
    return mvcc.KeyValue(
        key=pair.key,
        value=pair.value,
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        version=pair.version,
        lease=pair.lease,
    )
