"""etcd's Watch service: what clients say on a watch stream, and what they are told, field by field.

Owns the watchers of one stream, their ids, cancellation and progress. Knows the hub that feeds them, no socket.
Invariants: an id is unique on its stream; a watcher's first response says that it was created, its last that it was
canceled, and its events are in between; a progress response never overtakes an event it vouches for.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from gateway.credentials import Credentials
from gateway.streams import Stream, StreamHandler
from gateway.watch_hub import Place, Watcher, WatchHub
from gateway.watch_wire import (
    CREATED,
    NO_DELETE,
    NO_PUT,
    NOBODY_ID,
    WITH_PREVIOUS,
    Chunk,
    canceled_response,
    fragments,
    watch_id_field,
)
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

FRAGMENT: Final = 8
PROGRESS: Final = 16
HEARD: Final = 32
"""Something was sent to the watcher since its progress was last looked at."""
FRAGMENT_OVERHEAD_BYTES: Final = 512 * 1024
"""A response is cut into fragments when it is larger than the largest request and this, as etcd does it."""
HELD_BYTES_MAX: Final = 4 * 1024 * 1024
"""Requests of one stream that wait for the store; over it the stream ends."""
JOINED_BYTES: Final = 2048
"""Events that are shorter are copied for each watcher; longer ones are shared."""
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
_ASKED: Final = -1
_TOLD_AS_THEY_ARE: Final = (ErrorCode.INVALID_AUTH_TOKEN, ErrorCode.AUTH_OLD_REVISION, ErrorCode.USER_EMPTY)


def _told(code: ErrorCode) -> str:
    """Return how a refused watcher is told for want of rights: as the text of etcd's error, by which clients go."""
    error = WIRE_ERRORS[code if code in _TOLD_AS_THEY_ARE else ErrorCode.PERMISSION_DENIED]
    return f"rpc error: code = {error.grpc_code.name.title().replace('_', '')} desc = {error.text}"


class Permit(Protocol):
    """How a stream asks whether it may watch."""

    def __call__(
        self, body: bytes, now: Millis, credentials: Credentials, on_answer: Callable[[int, bytes], None]
    ) -> bool:
        """Ask about a RangeRequest; `on_answer` is told 0 or why not. False: nobody need be asked."""
        ...


class WatchService:
    """Serves watch streams over one hub, and keeps the time of progress notifications."""

    def __init__(
        self,
        hub: WatchHub,
        header: Callable[[int], bytes],
        progress_interval_ms: int,
        response_bytes_max: int,
        permit: Permit | None = None,
    ) -> None:
        """`header` makes a response header for a revision; `response_bytes_max` is where fragments are cut.

        Without `permit` everybody may watch everything.
        """
        self.permit = permit
        self.hub = hub
        self.header = header
        self.response_bytes_max = response_bytes_max
        self.streams = 0
        self._interval_ms = progress_interval_ms
        self._due: list[tuple[Millis, int]] = []
        self._timed: dict[int, WatchStream] = {}

    def open(self, stream: Stream, _now: Millis) -> StreamHandler:
        """Serve one stream."""
        self.streams += 1
        return WatchStream(self, stream)

    @property
    def deadline(self) -> Millis | None:
        """When some watcher wants to hear of progress."""
        return self._due[0][0] if self._due else None

    def wake(self, now: Millis) -> None:
        """Tell watchers that have heard nothing for long how far they are."""
        while self._due and self._due[0][0] <= now:
            _, call_id = heapq.heappop(self._due)
            stream = self._timed.get(call_id)
            if stream is not None:
                stream.notify_progress()
                self._plan(call_id, now)

    def time(self, call_id: int, stream: "WatchStream", now: Millis) -> None:
        """Have `stream.notify_progress` called at intervals."""
        if call_id not in self._timed:
            self._timed[call_id] = stream
            self._plan(call_id, now)

    def closed(self, call_id: int) -> None:
        """A stream is gone."""
        self.streams -= 1
        self._timed.pop(call_id, None)
        if len(self._due) > 2 * len(self._timed) + 64:
            self._due = [entry for entry in self._due if entry[1] in self._timed]
            heapq.heapify(self._due)

    def _plan(self, call_id: int, now: Millis) -> None:
        # Up to a tenth more, another for each stream, so that they do not all speak at once.
        jitter = self._interval_ms * (call_id * 37 % 100) // 1000
        heapq.heappush(self._due, (Millis(now + self._interval_ms + jitter), call_id))


class WatchStream:
    """One stream and its watchers."""

    __slots__ = (
        "_asking",
        "_held",
        "_held_bytes",
        "_next_id",
        "_now",
        "_progress_from",
        "_service",
        "_verdict",
        "_watchers",
        "behind",
        "stream",
    )

    def __init__(self, service: WatchService, stream: Stream) -> None:
        self.stream = stream
        self.behind: dict[Watcher, None] = {}
        self._service = service
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._held: deque[rpc.WatchRequest] = deque()
        self._held_bytes = 0
        self._progress_from = 0
        """The revision a progress response must have reached at least, 0 if nobody asked for one."""
        self._now = Millis(0)
        self._verdict: int | None = None
        """What was answered to the question whether the request at hand may be done, if it was asked."""
        self._asking = False
        """Whether it is being asked this very moment: an answer then is nothing to go on from."""

    # --- from the client ---------------------------------------------------------------------------

    def on_message(self, body: bytes, now: Millis) -> None:
        """Take a WatchRequest, behind those that wait."""
        self._now = now
        try:
            request = rpc.WatchRequest.FromString(body)
        except DecodeError:
            self._close()
            self.stream.end(ErrorCode.MALFORMED)
            return
        if not self._held and self._take(request):
            return
        self._held.append(request)
        self._held_bytes += len(body)
        if self._held_bytes > HELD_BYTES_MAX:
            self._close()
            self.stream.end(ErrorCode.TOO_MANY_REQUESTS)

    def on_half_close(self, now: Millis) -> None:
        """The client only listens from now on."""

    def on_room(self, now: Millis) -> None:
        """Watchers that waited may go on."""
        self._service.hub.on_room(self)

    def on_cancel(self) -> None:
        """The stream is gone, and its watchers with it."""
        self._close()

    def _close(self) -> None:
        for watcher in self._watchers.values():
            self._service.hub.remove(watcher)
        self._watchers.clear()
        self._held.clear()
        self._service.hub.forget(self)
        self._service.closed(self.stream.call_id)

    def _take(self, request: rpc.WatchRequest) -> bool:
        """Do what a request asks; False if it must wait."""
        which = request.WhichOneof("request_union")
        if which == "create_request":
            return self._create(request.create_request)
        if which == "cancel_request":
            watcher = self._watchers.get(request.cancel_request.watch_id)
            if watcher is not None:
                self._end(watcher, canceled_response(self._header(), watcher.watch_id))
        elif which == "progress_request":
            if not self._service.hub.ready(self, previous=False):
                return False
            self._progress_from = self._service.hub.current
            self._service.hub.want_settle(self)
            self.settle()
        return True

    # --- creating ----------------------------------------------------------------------------------

    def _create(self, request: rpc.WatchCreateRequest) -> bool:
        hub = self._service.hub
        if not hub.ready(self, previous=request.prev_kv):
            return False
        key = request.key or b"\x00"
        end: bytes | None = None if request.range_end == b"\x00" else request.range_end
        reason = WIRE_ERRORS[ErrorCode.COMPACTED].text if request.start_revision < 0 else ""
        if not reason:
            permitted = self._permitted(key, request.range_end)
            if permitted is None:
                return False
            if permitted and WIRE_ERRORS[permitted].retryable:
                self._close()
                self.stream.end(permitted)
                return True
            reason = _told(permitted) if permitted else self._refusal(request, key, end)
        if reason:
            refused = canceled_response(self._header(), NOBODY_ID, created=True, reason=reason)
            self.stream.send(refused)
            return True
        watch_id = request.watch_id
        if not watch_id:
            while self._next_id in self._watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        flags = WITH_PREVIOUS * request.prev_kv | FRAGMENT * request.fragment | PROGRESS * request.progress_notify
        for filter_type in request.filters:
            flags |= NO_PUT if filter_type == rpc.WatchCreateRequest.NOPUT else NO_DELETE
        watcher = self._watchers[watch_id] = Watcher(self, watch_id, key, end, flags)
        current = hub.current
        self.stream.send(self._service.header(current) + watch_id_field(watch_id) + CREATED)
        hub.add(watcher, request.start_revision or current + 1)
        if request.progress_notify:
            self._service.time(self.stream.call_id, self, self._now)
        return True

    def _permitted(self, key: bytes, range_end: bytes) -> ErrorCode | None:
        """Return OK, or why the client may not watch a range; None: it is being asked, and `resume` follows."""
        permit = self._service.permit
        if self._verdict is None and permit is not None:
            self._verdict = _ASKED
            self._asking = True
            asked = rpc.RangeRequest(key=key, range_end=range_end).SerializeToString()
            if not permit(asked, self._now, self.stream.head.credentials, self._on_verdict):
                self._verdict = 0
            self._asking = False
        if self._verdict == _ASKED:
            return None
        verdict, self._verdict = self._verdict, None
        return ErrorCode(verdict or 0)

    def _on_verdict(self, code: int, _body: bytes) -> None:
        self._verdict = code
        if not self._asking:
            self.resume()

    def _refusal(self, request: rpc.WatchCreateRequest, key: bytes, end: bytes | None) -> str:
        """Return why a watcher cannot be created, in etcd's words, or nothing."""
        if end and end <= key:
            return EMPTY_RANGE
        if request.watch_id and request.watch_id in self._watchers:
            return DUPLICATE_ID
        if self._service.hub.watchers >= self._service.hub.watchers_max:
            return WIRE_ERRORS[ErrorCode.TOO_MANY_REQUESTS].text
        return ""

    def _end(self, watcher: Watcher, response: bytes) -> None:
        del self._watchers[watcher.watch_id]
        self._service.hub.remove(watcher)
        self.stream.send(response)
        self.settle()  # behind the response: progress vouches for every watcher the client believes to be alive

    def _header(self) -> bytes:
        return self._service.header(self._service.hub.current)

    # --- from the hub ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take the requests that waited."""
        while self._held:
            if not self._take(self._held[0]):
                return
            if self._held:  # else the stream has ended
                self._held.popleft()
        self._held_bytes = 0

    def tell(self, watcher: Watcher, chunk: Chunk) -> None:
        """Send events, in fragments if the watcher takes them and the response would be too large."""
        watcher.flags |= HEARD
        head = self._service.header(chunk.last) + watcher.id_field
        payload = chunk.payload
        if len(payload) < JOINED_BYTES:
            self.stream.send(head + payload)
        elif watcher.flags & FRAGMENT and len(head) + len(payload) > self._service.response_bytes_max:
            for part in fragments(head, chunk.fields, self._service.response_bytes_max):
                self.stream.send(part)
        else:
            self.stream.send(head, payload)

    def tell_compacted(self, watcher: Watcher, compacted: int) -> None:
        """Cancel a watcher whose next events are gone."""
        self._end(watcher, canceled_response(self._service.header(0), watcher.watch_id, compacted=compacted))

    # --- progress ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Answer a progress request, once every watcher of the stream has been told everything."""
        hub = self._service.hub
        if not self._progress_from or hub.live < self._progress_from:
            return
        if not all(map(hub.is_told, self._watchers.values())):
            return
        self._progress_from = 0
        hub.no_settle(self)
        self.stream.send(self._service.header(hub.live) + watch_id_field(NOBODY_ID))

    def notify_progress(self) -> None:
        """Tell each watcher that asked for it, and has heard nothing lately, how far it is."""
        hub = self._service.hub
        if not self.stream.has_room or not hub.live:
            return
        for watcher in self._watchers.values():
            if watcher.flags & HEARD:
                watcher.flags &= ~HEARD
            elif watcher.flags & PROGRESS and hub.is_told(watcher):
                self.stream.send(self._service.header(hub.live) + watch_id_field(watcher.watch_id))

    def check(self) -> None:
        """Assert that ids and watchers agree."""
        for watch_id, watcher in self._watchers.items():
            assert watcher.watch_id == watch_id, "a watcher is found by its id"
            assert watcher.place is not Place.GONE, "who is gone has no id"
