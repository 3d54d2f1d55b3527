"""The standard gRPC health service: Check and Watch.

Owns whether the server says that it serves, and who is told when that changes. Knows one service name, the empty one,
as etcd does. Knows no connection: Check is bytes to bytes, Watch is served through `gateway.streams`.
"""

from google.protobuf.message import DecodeError

from gateway.streams import Stream, StreamHandler
from protocol.errors import ErrorCode
from protocol.types import Millis
from protocol.wire import health_pb2 as health

_Status = health.HealthCheckResponse


class HealthService:
    """One server's health."""

    def __init__(self) -> None:
        self.serving = True
        self._watchers: dict[int, Stream] = {}

    def stop_serving(self) -> None:
        """Tell watchers that the end is near."""
        self.serving = False
        for stream in self._watchers.values():
            stream.send(self.answer())

    def answer(self) -> bytes:
        """Return the response for the server as a whole."""
        return _Status(status=_Status.SERVING if self.serving else _Status.NOT_SERVING).SerializeToString()

    def check(self, message: bytes) -> bytes | None:
        """Return the answer to a HealthCheckRequest, or None for a service nobody knows.

        Raises:
            DecodeError: the request is none.
        """
        return None if health.HealthCheckRequest.FromString(message).service else self.answer()

    def open_watch(self, stream: Stream, _now: Millis) -> StreamHandler:
        """Serve one `Watch`."""
        return _HealthWatch(self._watchers, self, stream)


class _HealthWatch:
    """One watcher: told at once, and again whenever the answer changes."""

    def __init__(self, watchers: dict[int, Stream], service: HealthService, stream: Stream) -> None:
        self._watchers = watchers
        self._service = service
        self._stream = stream

    def on_message(self, body: bytes, now: Millis) -> None:
        """Take the request."""
        try:
            answer = self._service.check(body)
        except DecodeError:
            self._stream.end(ErrorCode.MALFORMED)
            return
        if answer is None:
            self._stream.send(_Status(status=_Status.SERVICE_UNKNOWN).SerializeToString())
            return
        self._watchers[self._stream.call_id] = self._stream
        self._stream.send(answer)

    def on_half_close(self, now: Millis) -> None:
        """The request was all the client had to say."""

    def on_room(self, now: Millis) -> None:
        """A watcher is never told so much that it would have to wait."""

    def on_cancel(self) -> None:
        """Tell it nothing more."""
        self._watchers.pop(self._stream.call_id, None)
