"""`RangeStream`: a range of any size in bounded pieces, all of one revision.

Owns the way through a range: page after page is asked of the store at the revision that the first one was read at, the
next when the client has taken enough of those before. Knows no socket and no engine.

Invariants: the pieces' pairs are those of the range in the order of their keys, none left out or twice; header, `more`
and `count` come with the last piece, so that all pieces together are what `Range` would answer; one page is on its way
at a time. A compaction that passes the revision ends the stream with the error that tells so.
"""

from typing import Final, Protocol

from google.protobuf.message import DecodeError

from gateway import validate
from gateway.credentials import Credentials
from gateway.methods import METHODS, RANGE_PAGE, Method
from gateway.own_calls import OnAnswer
from gateway.streams import Stream, StreamHandler
from protocol.errors import ErrorCode
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

_RANGE: Final = METHODS[b"/etcdserverpb.KV/Range"]


class Ask(Protocol):
    """How a stream makes a call."""

    def __call__(self, method: Method, body: bytes, now: Millis, credentials: Credentials, on_answer: OnAnswer) -> None:
        """Make it; `on_answer` is told the code and, where it is OK, the whole response."""
        ...


class RangeStreams:
    """Serves `RangeStream`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def open(self, stream: Stream, _now: Millis) -> StreamHandler:
        """Serve one stream."""
        return _RangeStream(self._ask, stream)


class _RangeStream:
    """One client's way through a range."""

    def __init__(self, ask: Ask, stream: Stream) -> None:
        self._ask = ask
        self._stream = stream
        self._request: rpc.RangeRequest | None = None
        """What is left to ask."""
        self._header = rpc.ResponseHeader()
        """Of the first page: what the whole answer is an answer of."""
        self._sent = 0
        self._now = Millis(0)
        """When a page was last asked for."""

    def on_message(self, body: bytes, now: Millis) -> None:
        """Begin; a second request is none."""
        if self._request is not None:
            return
        try:
            request = self._request = rpc.RangeRequest.FromString(body)
        except DecodeError:
            self._stream.end(ErrorCode.MALFORMED)
            return
        code = validate.check_range_stream(request)
        if code:
            self._stream.end(code)
            return
        request.ClearField("sort_order")
        request.ClearField("sort_target")
        if request.count_only:
            self._ask(_RANGE, request.SerializeToString(), now, self._stream.head.credentials, self._on_count)
        else:
            self._ask_page(now)

    def on_half_close(self, now: Millis) -> None:
        """The request was all there is."""

    def on_room(self, now: Millis) -> None:
        """The client has taken enough for the next page."""
        self._ask_page(now)

    def on_cancel(self) -> None:
        """Answers to come are dropped by the stream."""

    def _ask_page(self, now: Millis) -> None:
        assert self._request is not None, "there was a first message"
        self._now = now
        self._ask(RANGE_PAGE, self._request.SerializeToString(), now, self._stream.head.credentials, self._on_page)

    def _on_page(self, code: int, body: bytes) -> None:
        stream, request = self._stream, self._request
        assert request is not None, "a page was asked for"
        if code:
            stream.end(ErrorCode(code))
            return
        page = rpc.RangeResponse.FromString(body)
        if not self._header.revision:
            self._pin(page.header)
        self._sent += len(page.kvs)
        page.ClearField("header")
        if not page.more:
            self._end(page, more=False, count=self._sent)
            return
        request.key = page.kvs[-1].key + b"\0"
        page.ClearField("more")
        if request.limit > 0:
            request.limit -= len(page.kvs)
            if not request.limit:
                self._count_rest(page)
                return
        self._send(page)
        stream.pause()

    def _pin(self, header: rpc.ResponseHeader) -> None:
        """Read all that follows at the revision of the first page, which this member has applied."""
        assert self._request is not None, "a page was asked for"
        self._header.CopyFrom(header)
        if self._request.revision <= 0:
            self._request.revision = header.revision
        self._request.serializable = True

    def _count_rest(self, page: rpc.RangeResponse) -> None:
        """The limit is reached: what is left only counts."""
        assert self._request is not None, "a page was asked for"
        rest = rpc.RangeRequest(
            key=self._request.key,
            range_end=self._request.range_end,
            revision=self._request.revision,
            serializable=True,
            count_only=True,
        )

        def on_count(code: int, body: bytes) -> None:
            if code:
                self._stream.end(ErrorCode(code))
            else:
                left = rpc.RangeResponse.FromString(body).count
                self._end(page, more=True, count=self._sent + left)

        self._ask(_RANGE, rest.SerializeToString(), self._now, self._stream.head.credentials, on_count)

    def _on_count(self, code: int, body: bytes) -> None:
        if code:
            self._stream.end(ErrorCode(code))
            return
        answer = rpc.RangeResponse.FromString(body)
        self._header.CopyFrom(answer.header)
        self._end(rpc.RangeResponse(), more=False, count=answer.count)

    def _end(self, last: rpc.RangeResponse, *, more: bool, count: int) -> None:
        last.header.CopyFrom(self._header)
        last.more = more
        last.count = count
        self._send(last)
        self._stream.end()

    def _send(self, page: rpc.RangeResponse) -> None:
        self._stream.send(rpc.RangeStreamResponse(range_response=page).SerializeToString())
