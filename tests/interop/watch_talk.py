"""A watch stream of the gRPC project's client that a test talks on, and what it was told, watcher by watcher."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc

from protocol.wire import rpc_pb2 as rpc

PATIENCE_S = 30.0


class Told(NamedTuple):
    """One thing a watcher was told; how events share responses is left out, since it depends on timing."""

    what: str
    revision: int = 0
    pair: bytes = b""
    previous: bytes | None = None
    reason: str = ""


class WatchTalk:
    """One stream."""

    def __init__(self, address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.told: dict[int, list[Told]] = {}
        self.responses: list[rpc.WatchResponse] = []
        self.failure: grpc.RpcError | None = None
        self._changed = threading.Condition()
        self._requests: queue.Queue[rpc.WatchRequest | None] = queue.Queue()
        call: Any = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )
        self._call = call(self._said(), metadata=metadata)
        self._thread = threading.Thread(target=self._listen, name="watch-talk", daemon=True)
        self._thread.start()

    def _said(self) -> Iterator[rpc.WatchRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _listen(self) -> None:
        try:
            for response in self._call:
                with self._changed:
                    self._on(response)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _on(self, response: rpc.WatchResponse) -> None:
        self.responses.append(response)
        told = self.told.setdefault(response.watch_id, [])
        revision = response.header.revision
        if response.created:
            told.append(Told("created", revision))
        for event in response.events:
            what = "delete" if event.type else "put"
            previous = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else None
            told.append(Told(what, event.kv.mod_revision, event.kv.SerializeToString(), previous))
        if response.canceled:
            told.append(Told("canceled", response.compact_revision or revision, reason=response.cancel_reason))
        if not (response.created or response.canceled or response.events):
            told.append(Told("progress", revision))

    def wait(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until what was told satisfies a condition."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), f"not told in time: {what} {self.told}"

    def say(self, **fields: Any) -> None:
        """Say one thing."""
        self._requests.put(rpc.WatchRequest(**fields))

    def half_close(self) -> None:
        """Say nothing more."""
        self._requests.put(None)

    def watch(self, key: bytes, range_end: bytes = b"", **fields: Any) -> None:
        """Ask for a watcher and wait for the answer."""
        before = sum(response.created for response in self.responses)
        self.say(create_request=rpc.WatchCreateRequest(key=key, range_end=range_end, **fields))
        self.wait(lambda: sum(response.created for response in self.responses) > before, "created")

    def cancel(self, watch_id: int) -> None:
        """Cancel a watcher."""
        self.say(cancel_request=rpc.WatchCancelRequest(watch_id=watch_id))

    def progress(self, revision: int) -> None:
        """Ask for progress until it has reached a revision."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._reached(revision):
            assert time.monotonic() < give_up_at, f"no progress to {revision}: {self.told}"
            self.say(progress_request=rpc.WatchProgressRequest())
            with self._changed:
                self._changed.wait_for(lambda: self._reached(revision), 0.2)

    def _reached(self, revision: int) -> bool:
        return any(told.revision >= revision for told in self.told.get(-1, ()) if told.what == "progress")

    def close(self) -> None:
        """End the stream."""
        self._requests.put(None)
        self._call.cancel()
        self.channel.close()
        self._thread.join(10)


class Kv:
    """The KV service, as little of it as watch tests need."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def __call__(self, request: Any) -> Any:
        """Send any request of the KV service; return its response."""
        name = {"CompactionRequest": "Compact"}.get(type(request).__name__, type(request).__name__[: -len("Request")])
        response = getattr(rpc, type(request).__name__.replace("Request", "Response"))
        call = self.channel.unary_unary(
            f"/etcdserverpb.KV/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request, timeout=PATIENCE_S)

    def put(self, key: bytes, value: bytes = b"v") -> int:
        """Put a pair; return the revision."""
        return int(self(rpc.PutRequest(key=key, value=value)).header.revision)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()
