"""The receiving rules of the HTTP/2 core: frames in, events and frames out."""

import pytest
from http2_peer import POST, Peer, frame

from gateway import http2_frames as wire
from gateway.http2_frames import H2Error
from gateway.http2_limits import Http2Limits

END = wire.END_HEADERS | wire.END_STREAM


def test_greeting_is_settings_and_a_larger_window() -> None:
    """The server speaks first, and opens the connection's window beyond the default of 64 KiB."""
    peer = Peer(greet=False)

    kinds = [sent.kind for sent in peer.frames()]

    assert kinds == [wire.SETTINGS, wire.WINDOW_UPDATE]


def test_settings_are_acknowledged() -> None:
    """Every SETTINGS of the client is answered with an empty acknowledgement."""
    peer = Peer()

    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 100),)))

    assert peer.frames() == [(wire.SETTINGS, wire.ACK, 0, b"")]


def test_request_in_one_piece_is_one_event() -> None:
    """HEADERS and a final DATA frame reach the handler together."""
    peer = Peer()

    peer.send(peer.request(1, b"body"))

    assert peer.events == [("request", 1, b"/etcdserverpb.KV/Put", b"body")]


def test_heads_and_bodies_of_many_requests_may_be_interleaved() -> None:
    """Clients send the HEADERS of several requests and then their DATA: each is still one event."""
    peer = Peer()
    heads = [peer.headers(stream_id) for stream_id in (1, 3, 5)]
    bodies = [frame(wire.DATA, wire.END_STREAM, stream_id, b"%d" % stream_id) for stream_id in (5, 1)]

    peer.send(b"".join([*heads, *bodies]))

    assert peer.events == [
        ("request", 5, b"/etcdserverpb.KV/Put", b"5"),
        ("request", 1, b"/etcdserverpb.KV/Put", b"1"),
        ("headers", 3, b"/etcdserverpb.KV/Put"),
    ]
    peer.send(frame(wire.DATA, wire.END_STREAM, 3, b"3"))
    assert peer.events[-1] == ("data", 3, b"3", True)


BETWEEN = {
    "more DATA": (frame(wire.DATA, 0, 1, b"a"), [("headers", 1), ("data", 1), ("data", 1)]),
    "WINDOW_UPDATE": (wire.window_update(1, 5), [("headers", 1), ("data", 1)]),
    "PRIORITY": (frame(wire.PRIORITY, 0, 1, b"\0\0\0\0\x10"), [("headers", 1), ("data", 1)]),
    "SETTINGS": (wire.settings(((wire.INITIAL_WINDOW_SIZE, 9),)), [("request", 1)]),
    "RST_STREAM": (wire.rst_stream(1, H2Error.CANCEL), [("headers", 1), ("reset", 1)]),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_frames_between_head_and_body_find_an_open_stream(name: str) -> None:
    """Whatever comes between HEADERS and the last DATA frame, the stream is told in order and only once."""
    between, expected = BETWEEN[name]
    peer = Peer()

    peer.send(peer.headers(1) + between + frame(wire.DATA, wire.END_STREAM, 1, b"b"))

    assert [event[:2] for event in peer.events] == expected
    assert not peer.connection.closed


def test_connection_that_ends_between_head_and_body_tells_only_the_end() -> None:
    """A request nobody was told of is not told of when the connection fails."""
    peer = Peer()

    peer.send(peer.headers(1) + frame(wire.DATA, 0, 0, b"x"))

    assert peer.events == [("closed",)]


def test_request_without_body_is_one_event() -> None:
    """HEADERS with END_STREAM is a whole request, on the first and on the cached decoding of its block."""
    peer = Peer()

    for stream_id in (1, 3, 5):
        peer.send(peer.headers(stream_id, end_stream=True))

    assert [event[:2] for event in peer.events] == [("request", 1), ("request", 3), ("request", 5)]


def test_requests_in_any_pieces_are_the_same_requests() -> None:
    """Cutting the stream of bytes into single bytes changes nothing but how the body arrives."""
    whole, cut = Peer(), Peer()
    for peer in (whole, cut):
        data = b"".join(peer.request(stream_id, b"x" * stream_id) for stream_id in (1, 3, 5, 7))
        if peer is whole:
            peer.send(data)
        else:
            for byte in data:
                peer.send(bytes((byte,)))

    bodies = {event[1]: event[3] for event in whole.events if event[0] == "request"}
    pieces: dict[object, bytes] = {}
    for event in cut.events:
        if event[0] == "data":
            assert isinstance(event[2], bytes)
            pieces[event[1]] = pieces.get(event[1], b"") + event[2]

    assert bodies | pieces == {1: b"x", 3: b"xxx", 5: b"x" * 5, 7: b"x" * 7}


def test_padding_and_priority_are_taken_off() -> None:
    """PADDED and PRIORITY change the frame, not the request."""
    peer = Peer()
    block = peer.block()
    padded = bytes((3,)) + b"\0\0\0\0\x10" + block + b"\0\0\0"

    peer.send(frame(wire.HEADERS, wire.END_HEADERS | wire.PADDED | wire.HAS_PRIORITY, 1, padded))
    peer.send(frame(wire.DATA, wire.END_STREAM | wire.PADDED, 1, b"\x02ab\0\0"))

    assert peer.events == [("headers", 1, b"/etcdserverpb.KV/Put"), ("data", 1, b"ab", True)]


def test_continuation_completes_a_header_block() -> None:
    """A block may be spread over HEADERS and any CONTINUATION frames."""
    peer = Peer()
    block = peer.block()

    peer.send(frame(wire.HEADERS, wire.END_STREAM, 1, block[:5]))
    peer.send(frame(wire.CONTINUATION, 0, 1, block[5:9]))
    peer.send(frame(wire.CONTINUATION, wire.END_HEADERS, 1, block[9:]))

    assert peer.events == [("request", 1, b"/etcdserverpb.KV/Put", b"")]


def test_trailers_end_a_request() -> None:
    """A second header block with END_STREAM ends the body."""
    peer = Peer()

    peer.send(peer.headers(1) + frame(wire.DATA, 0, 1, b"abc"))
    peer.send(peer.headers(1, [(b"x-checksum", b"1")], end_stream=True))

    assert peer.events[1:] == [("data", 1, b"abc", False), ("data", 1, b"", True)]


def test_ping_is_answered_and_answers_are_not() -> None:
    """PING comes back with its payload; a PING that is an answer is left alone."""
    peer = Peer()

    peer.send(wire.ping(b"12345678", ack=False) + wire.ping(b"12345678", ack=True))

    assert peer.frames() == [(wire.PING, wire.ACK, 0, b"12345678")]


def test_unknown_frames_are_ignored() -> None:
    """A kind of frame from the future disturbs nothing."""
    peer = Peer()

    peer.send(frame(0x42, 0xFF, 7, b"whatever") + peer.request(1))

    assert len(peer.events) == 1
    assert not peer.connection.closed


def test_reset_reaches_the_handler_once() -> None:
    """RST_STREAM cancels an open stream; a second one on the closed stream is ignored."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.send(wire.rst_stream(1, H2Error.CANCEL) * 2)

    assert peer.events[1:] == [("reset", 1)]
    assert peer.connection.streams == {}


CONNECTION_FAULTS = {
    "preface of another protocol": (b"GET / HTTP/1.1\r\n\r\n" + b" " * 24, H2Error.PROTOCOL_ERROR),
    "preface without SETTINGS": (wire.PREFACE + wire.ping(b"12345678", ack=False), H2Error.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_FAULTS)
def test_bad_beginning_ends_the_connection(name: str) -> None:
    """What does not begin as HTTP/2 must is told so and closed."""
    data, code = CONNECTION_FAULTS[name]
    peer = Peer(greet=False)

    peer.send(data)

    assert peer.goaway() is code
    assert peer.connection.closed


FAULTS = {
    "DATA on stream 0": (frame(wire.DATA, 0, 0, b"x"), H2Error.PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(wire.DATA, 0, 1, b"x"), H2Error.PROTOCOL_ERROR),
    "HEADERS on stream 0": (frame(wire.HEADERS, END, 0, b"\x82"), H2Error.PROTOCOL_ERROR),
    "HEADERS on an even stream": (frame(wire.HEADERS, END, 2, b"\x82"), H2Error.PROTOCOL_ERROR),
    "padding longer than the frame": (
        frame(wire.HEADERS, END | wire.PADDED, 1, b"\x09\x82"),
        H2Error.PROTOCOL_ERROR,
    ),
    "padded frame without a byte": (frame(wire.HEADERS, END | wire.PADDED, 1), H2Error.FRAME_SIZE_ERROR),
    "HEADERS shorter than its priority": (
        frame(wire.HEADERS, END | wire.HAS_PRIORITY, 1, b"\0\0"),
        H2Error.FRAME_SIZE_ERROR,
    ),
    "undecodable block": (frame(wire.HEADERS, END, 1, b"\x80"), H2Error.COMPRESSION_ERROR),
    "block that ends within a field": (frame(wire.HEADERS, END, 1, b"\x00\x05ab"), H2Error.COMPRESSION_ERROR),
    "CONTINUATION of nothing": (frame(wire.CONTINUATION, wire.END_HEADERS, 1, b"\x82"), H2Error.PROTOCOL_ERROR),
    "block interrupted by PING": (
        frame(wire.HEADERS, 0, 1, b"\x82") + wire.ping(b"12345678", ack=False),
        H2Error.PROTOCOL_ERROR,
    ),
    "block continued on another stream": (
        frame(wire.HEADERS, 0, 1, b"\x82") + frame(wire.CONTINUATION, 4, 3, b""),
        H2Error.PROTOCOL_ERROR,
    ),
    "PUSH_PROMISE": (frame(wire.PUSH_PROMISE, wire.END_HEADERS, 1, b"\0\0\0\x02"), H2Error.PROTOCOL_ERROR),
    "PRIORITY on stream 0": (frame(wire.PRIORITY, 0, 0, b"\0\0\0\0\0"), H2Error.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": (frame(wire.RST_STREAM, 0, 0, b"\0\0\0\0"), H2Error.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (frame(wire.RST_STREAM, 0, 9, b"\0\0\0\0"), H2Error.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (frame(wire.RST_STREAM, 0, 1, b"\0\0\0"), H2Error.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(wire.SETTINGS, 0, 1), H2Error.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(wire.SETTINGS, 0, 0, b"12345"), H2Error.FRAME_SIZE_ERROR),
    "SETTINGS acknowledgement with payload": (
        frame(wire.SETTINGS, wire.ACK, 0, b"\0\0\0\0\0\0"),
        H2Error.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH 2": (wire.settings(((wire.ENABLE_PUSH, 2),)), H2Error.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE over 2^31-1": (
        wire.settings(((wire.INITIAL_WINDOW_SIZE, 1 << 31),)),
        H2Error.FLOW_CONTROL_ERROR,
    ),
    "MAX_FRAME_SIZE under 16384": (wire.settings(((wire.MAX_FRAME_SIZE, 16_383),)), H2Error.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE over 2^24-1": (wire.settings(((wire.MAX_FRAME_SIZE, 1 << 24),)), H2Error.PROTOCOL_ERROR),
    "PING on a stream": (frame(wire.PING, 0, 1, b"12345678"), H2Error.PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(wire.PING, 0, 0, b"1234567"), H2Error.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(wire.GOAWAY, 0, 1, b"12345678"), H2Error.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(wire.GOAWAY, 0, 0, b"1234567"), H2Error.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 bytes": (frame(wire.WINDOW_UPDATE, 0, 0, b"\0\0\1"), H2Error.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (frame(wire.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), H2Error.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frame(wire.WINDOW_UPDATE, 0, 5, b"\0\0\0\1"), H2Error.PROTOCOL_ERROR),
    "WINDOW_UPDATE over 2^31-1": (
        frame(wire.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        H2Error.FLOW_CONTROL_ERROR,
    ),
    "frame over 16384 bytes": (wire.frame_head(16_385, wire.DATA, 0, 1), H2Error.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", FAULTS)
def test_connection_fault_is_named_in_goaway(name: str) -> None:
    """A broken rule of the connection ends it with the code RFC 9113 gives, and the handler is told."""
    data, code = FAULTS[name]
    peer = Peer()

    peer.send(data)

    assert peer.goaway() is code
    assert peer.connection.closed
    assert peer.events[-1] == ("closed",)


def test_headers_on_a_closed_stream_end_the_connection() -> None:
    """A stream that was answered cannot be opened again: STREAM_CLOSED."""
    peer = Peer()
    peer.send(peer.request(1))
    peer.connection.send_headers(1, b"\x88", end_stream=True)
    peer.frames()

    peer.send(peer.headers(1, end_stream=True))

    assert peer.goaway() is H2Error.STREAM_CLOSED


def test_headers_on_a_skipped_stream_end_the_connection() -> None:
    """Stream ids only grow: opening a smaller one that was skipped is a PROTOCOL_ERROR (section 5.1.1)."""
    peer = Peer()
    peer.send(peer.request(5))

    peer.send(peer.request(3))

    assert peer.goaway() is H2Error.PROTOCOL_ERROR


def test_data_after_the_end_resets_the_stream() -> None:
    """A client that has ended its request sends no more of it: STREAM_CLOSED, and the call is cancelled."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.send(frame(wire.DATA, 0, 1, b"more"))

    assert peer.reset_of(1) is H2Error.STREAM_CLOSED
    assert peer.events[-1] == ("reset", 1)


def test_frames_on_a_stream_we_reset_are_ignored() -> None:
    """What was on its way when we reset a stream is dropped in silence, and its header block still decoded."""
    peer = Peer()
    peer.send(peer.headers(1))
    peer.connection.reset(1, H2Error.CANCEL)
    peer.frames()

    peer.send(frame(wire.DATA, 0, 1, b"late"))
    peer.send(peer.headers(1, [(b"x-new-in-table", b"1")], end_stream=True))
    peer.send(peer.headers(3, [*POST, (b"x-new-in-table", b"1")], end_stream=True))

    assert peer.frames() == []
    assert peer.events[-1] == ("request", 3, b"/etcdserverpb.KV/Put", b"")


@pytest.mark.parametrize(
    ("length", "body"),
    [(b"3", b"four"), (b"5", b"four"), (b"1", b"")],
)
def test_body_that_belies_content_length_is_reset(length: bytes, body: bytes) -> None:
    """content-length and the DATA frames must agree (section 8.1.1)."""
    peer = Peer()
    fields = [*POST, (b"content-length", length)]

    for stream_id in (1, 3):  # the second time the block comes from the cache
        data = peer.headers(stream_id, fields, end_stream=not body)
        peer.send(data + (frame(wire.DATA, wire.END_STREAM, stream_id, body) if body else b""))
        assert peer.reset_of(stream_id) is H2Error.PROTOCOL_ERROR

    assert not any(event[0] in ("request", "data") for event in peer.events)


def test_trailers_without_end_are_reset() -> None:
    """A second header block that does not end the request is malformed."""
    peer = Peer()
    peer.send(peer.headers(1))

    peer.send(peer.headers(1, [(b"x", b"1")]))

    assert peer.reset_of(1) is H2Error.PROTOCOL_ERROR


def test_pseudo_header_in_trailers_is_reset() -> None:
    """Trailers carry no pseudo-header fields."""
    peer = Peer()
    peer.send(peer.headers(1))

    peer.send(peer.headers(1, [(b":method", b"GET")], end_stream=True))

    assert peer.reset_of(1) is H2Error.PROTOCOL_ERROR


@pytest.mark.parametrize("opened", [False, True])
def test_stream_that_depends_on_itself_is_refused(opened: bool) -> None:
    """PRIORITY is ignored, but not nonsense in it; an idle stream cannot be reset, so the connection ends."""
    peer = Peer()
    if opened:
        peer.send(peer.headers(1))

    peer.send(frame(wire.PRIORITY, 0, 1, b"\0\0\0\1\0"))

    if opened:
        assert peer.reset_of(1) is H2Error.PROTOCOL_ERROR
    else:
        assert peer.goaway() is H2Error.PROTOCOL_ERROR


def test_streams_over_the_limit_are_refused() -> None:
    """A stream too many is refused in a way that tells the client it may repeat it."""
    peer = Peer(Http2Limits(concurrent_streams_max=2))

    peer.send(peer.request(1) + peer.request(3) + peer.request(5))

    assert peer.reset_of(5) is H2Error.REFUSED_STREAM
    assert [event[1] for event in peer.events] == [1, 3]


def test_received_window_is_given_back_in_halves() -> None:
    """WINDOW_UPDATE comes once half a window is used, for the stream and for the connection."""
    peer = Peer(Http2Limits(stream_window_bytes=65_535, connection_window_bytes=100_000))
    peer.send(peer.headers(1))

    peer.send(frame(wire.DATA, 0, 1, b"x" * 16_384) * 3)

    updates = [sent for sent in peer.frames() if sent.kind == wire.WINDOW_UPDATE]
    assert [(sent.stream_id, int.from_bytes(sent.payload, "big")) for sent in updates] == [(1, 49_152)]
    peer.send(frame(wire.DATA, 0, 1, b"x" * 16_384))
    updates = [sent for sent in peer.frames() if sent.kind == wire.WINDOW_UPDATE]
    assert [(sent.stream_id, int.from_bytes(sent.payload, "big")) for sent in updates] == [(0, 65_536)]


def test_data_over_the_stream_window_is_reset() -> None:
    """A client that sends more than it was granted on a stream loses the stream."""
    limits = Http2Limits(stream_window_bytes=20_000, connection_window_bytes=1 << 20)
    peer = Peer(limits)
    peer.send(peer.headers(1) + peer.headers(3))

    # One frame leaves more than half of the window unused, so nothing is given back before the second.
    peer.send(frame(wire.DATA, 0, 1, b"x" * 9_000) + frame(wire.DATA, 0, 1, b"x" * 16_000))

    assert peer.reset_of(1) is H2Error.FLOW_CONTROL_ERROR
    assert 3 in peer.connection.streams
