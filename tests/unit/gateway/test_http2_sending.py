"""The sending half of the HTTP/2 core: windows, queues, turns, ends."""

from http2_peer import Frame, Peer, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import http2_frames as wire
from gateway.http2_frames import H2Error
from gateway.http2_hpack import encode_fields
from gateway.http2_limits import Http2Limits

OK = encode_fields([(b":status", b"200")])
DONE = encode_fields([(b"grpc-status", b"0")])


def data_of(frames: list[Frame], stream_id: int) -> bytes:
    """Return the DATA of one stream."""
    return b"".join(sent.payload for sent in frames if sent.kind == wire.DATA and sent.stream_id == stream_id)


def grant(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE."""
    return wire.window_update(stream_id, increment)


def test_small_answer_is_three_frames() -> None:
    """Headers, data and trailers leave together, and the stream is gone."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.connection.respond(1, OK, b"body", DONE)

    frames = peer.frames()
    assert [(sent.kind, sent.flags) for sent in frames] == [
        (wire.HEADERS, wire.END_HEADERS),
        (wire.DATA, 0),
        (wire.HEADERS, wire.END_HEADERS | wire.END_STREAM),
    ]
    assert [peer.fields(sent.payload) for sent in frames if sent.kind == wire.HEADERS] == [
        [(b":status", b"200")],
        [(b"grpc-status", b"0")],
    ]
    assert peer.connection.streams == {}


def test_answer_waits_for_the_stream_window() -> None:
    """What does not fit the stream's window leaves when the client opens it, trailers last."""
    peer = Peer()
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 4),)))
    peer.send(peer.request(1))
    peer.connection.respond(1, OK, b"abcdefghij", DONE)
    assert data_of(peer.frames(), 1) == b"abcd"

    peer.send(grant(1, 3))
    assert data_of(peer.frames(), 1) == b"efg"
    peer.send(grant(1, 100))
    frames = peer.frames()

    assert data_of(frames, 1) == b"hij"
    assert frames[-1].kind == wire.HEADERS
    assert frames[-1].flags & wire.END_STREAM
    assert peer.connection.streams == {}


def test_streams_take_turns_within_the_connection_window() -> None:
    """When the connection's window is short, streams share it frame by frame."""
    peer = Peer()
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 1 << 20),)))
    peer.send(peer.request(1) + peer.request(3))
    for stream_id in (1, 3):
        peer.connection.respond(stream_id, OK, b"x" * 100_000, DONE)

    first = peer.frames()

    assert len(data_of(first, 1)) + len(data_of(first, 3)) == 65_535
    assert abs(len(data_of(first, 1)) - len(data_of(first, 3))) <= 16_384
    peer.send(grant(0, 1 << 20))
    second = peer.frames()
    assert len(data_of(first + second, 1)) == len(data_of(first + second, 3)) == 100_000


def test_settings_move_the_windows_of_open_streams() -> None:
    """A smaller initial window takes back what a stream had left; a larger one gives (section 6.9.2)."""
    peer = Peer()
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 10),)))
    peer.send(peer.request(1))
    peer.connection.respond(1, OK, b"x" * 30, DONE)
    assert len(data_of(peer.frames(), 1)) == 10

    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 5),)) + grant(1, 5))
    assert data_of(peer.frames(), 1) == b""  # the window is 0 - 5 + 5
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 7),)))

    assert len(data_of(peer.frames(), 1)) == 2


def test_settings_that_overflow_a_window_end_the_connection() -> None:
    """No window may pass 2^31-1, not even by way of SETTINGS."""
    peer = Peer()
    peer.send(peer.headers(1) + grant(1, wire.WINDOW_LIMIT - wire.WINDOW_DEFAULT))

    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, wire.WINDOW_DEFAULT + 1),)))

    assert peer.goaway() is H2Error.FLOW_CONTROL_ERROR


def test_window_update_that_overflows_resets_the_stream() -> None:
    """A stream's own window over 2^31-1 costs only the stream."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.send(grant(1, wire.WINDOW_LIMIT))

    assert peer.reset_of(1) is H2Error.FLOW_CONTROL_ERROR


def test_empty_window_update_resets_the_stream() -> None:
    """WINDOW_UPDATE of 0 on a stream is a stream error."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.send(frame(wire.WINDOW_UPDATE, 0, 1, b"\0\0\0\0"))

    assert peer.reset_of(1) is H2Error.PROTOCOL_ERROR


def test_frames_are_as_large_as_the_client_takes() -> None:
    """SETTINGS_MAX_FRAME_SIZE is used when it grows."""
    peer = Peer()
    peer.send(wire.settings(((wire.MAX_FRAME_SIZE, 40_000), (wire.INITIAL_WINDOW_SIZE, 1 << 20))) + grant(0, 1 << 20))
    peer.send(peer.request(1))

    peer.connection.respond(1, OK, b"x" * 90_000, DONE)

    sizes = [len(sent.payload) for sent in peer.frames() if sent.kind == wire.DATA]
    assert sizes == [40_000, 40_000, 10_000]


def test_lowered_table_is_acknowledged_in_the_next_block() -> None:
    """A client that shrinks its decoder's table finds our size update in front of the next block (RFC 7541, 4.2)."""
    peer = Peer()
    peer.send(wire.settings(((wire.HEADER_TABLE_SIZE, 0),)))
    peer.decoder.max_allowed_table_size = 0
    peer.send(peer.request(1) + peer.request(3))

    peer.connection.respond(1, OK, b"", DONE)
    peer.connection.respond(3, OK, b"", DONE)

    blocks = [sent.payload for sent in peer.frames() if sent.kind == wire.HEADERS]
    assert [block[:1] == b"\x20" for block in blocks] == [True, False, False, False]
    assert peer.fields(blocks[0]) == [(b":status", b"200")]


def test_one_turn_moves_a_bounded_share() -> None:
    """A huge answer to a client that takes everything is moved in slices, so that others get their turn."""
    limits = Http2Limits(output_bytes_per_turn=100_000)
    peer = Peer(limits)
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 1 << 30),)) + grant(0, 1 << 30) + peer.request(1))
    peer.frames()

    peer.connection.respond(1, OK, b"x" * 1_000_000, DONE)
    slices = [peer.connection.take_output()]
    while peer.connection.wants_turn:
        slices.append(peer.connection.take_output())

    assert len(slices) >= 9
    assert max(len(part) for part in slices) < 100_000 + 2 * 16_384


def test_reset_drops_what_is_queued() -> None:
    """A client that cancels gets no more of the answer, and its bytes are not held."""
    peer = Peer()
    peer.send(peer.request(1))
    peer.connection.respond(1, OK, b"x" * 1_000_000, DONE)
    assert peer.connection.sender.unsent_bytes > 0

    peer.send(wire.rst_stream(1, H2Error.CANCEL))

    assert peer.connection.sender.unsent_bytes == 0
    assert peer.events[-1] == ("reset", 1)
    assert data_of(peer.frames(), 1) == b""


def test_answer_before_the_end_of_the_request_stops_it() -> None:
    """A final answer to a request that still flows is followed by RST_STREAM(NO_ERROR) (section 8.1)."""
    peer = Peer()
    peer.send(peer.headers(1))

    peer.connection.send_headers(1, OK, end_stream=True)

    assert [sent.kind for sent in peer.frames()] == [wire.HEADERS, wire.RST_STREAM]
    peer.send(frame(wire.DATA, wire.END_STREAM, 1, b"late"))
    assert peer.frames() == []


def test_stream_without_trailers_ends_with_data() -> None:
    """An answer without trailers carries END_STREAM on its last DATA frame, or on an empty one."""
    peer = Peer()
    peer.send(peer.request(1) + peer.request(3))
    peer.connection.send_headers(1, OK)
    peer.connection.send_data(1, b"page")
    peer.connection.end_stream(1)
    peer.connection.send_headers(3, OK)
    peer.connection.end_stream(3)

    data = [sent for sent in peer.frames() if sent.kind == wire.DATA]

    assert [(sent.stream_id, sent.flags, sent.payload) for sent in sorted(data, key=lambda sent: sent.stream_id)] == [
        (1, wire.END_STREAM, b"page"),
        (3, wire.END_STREAM, b""),
    ]
    assert peer.connection.streams == {}


def test_drain_finishes_what_is_open_and_refuses_the_rest() -> None:
    """GOAWAY names the last request that is answered; later ones may safely be repeated elsewhere."""
    peer = Peer()
    peer.send(peer.request(1))

    peer.connection.drain()
    peer.send(peer.request(3))
    frames = peer.frames()

    goaway = next(sent for sent in frames if sent.kind == wire.GOAWAY)
    ping = next(sent for sent in frames if sent.kind == wire.PING)
    assert int.from_bytes(goaway.payload[:4], "big") == 1
    assert frames[-1] == (wire.RST_STREAM, 0, 3, int(H2Error.REFUSED_STREAM).to_bytes(4, "big"))
    peer.send(wire.ping(ping.payload, ack=True))
    peer.frames()
    assert not peer.connection.closed
    peer.connection.respond(1, OK, b"answer", DONE)
    assert data_of(peer.frames(), 1) == b"answer"
    assert peer.connection.closed


def test_drain_waits_until_the_client_has_read_everything() -> None:
    """The connection closes only when the PING behind GOAWAY has come back."""
    peer = Peer()
    peer.connection.drain()
    ping = next(sent for sent in peer.frames() if sent.kind == wire.PING)
    assert not peer.connection.closed

    peer.send(wire.ping(ping.payload, ack=True))
    peer.frames()

    assert peer.connection.closed


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60_000), min_size=1, max_size=6),
    grants=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 30_000)), max_size=40),
    window=st.integers(0, 20_000),
)
def test_windows_are_never_overrun(sizes: list[int], grants: list[tuple[int, int]], window: int) -> None:
    """Whatever the client grants, we send no byte more, lose none, and mix up none."""
    peer = Peer()
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, window),)))
    streams = [2 * number + 1 for number in range(len(sizes))]
    allowed = dict.fromkeys(streams, window) | {0: 65_535}
    got = dict.fromkeys(streams, b"")
    bodies = {stream_id: bytes((stream_id,)) * size for stream_id, size in zip(streams, sizes, strict=True)}
    for stream_id in streams:
        peer.send(peer.request(stream_id))
        peer.connection.respond(stream_id, OK, bodies[stream_id], DONE)
    steps = [*grants, *((number, 60_000) for number in range(1, len(sizes) + 1)), (0, 1_000_000)]
    for number, increment in steps:
        stream_id = 2 * number - 1 if number else 0
        if stream_id in allowed:
            peer.send(grant(stream_id, increment))
            allowed[stream_id] += increment
        for sent in peer.frames():
            if sent.kind == wire.DATA:
                got[sent.stream_id] += sent.payload
        assert sum(len(body) for body in got.values()) <= allowed[0]
        assert all(len(got[stream_id]) <= allowed[stream_id] for stream_id in streams)

    assert got == bodies
    assert peer.connection.sender.unsent_bytes == 0
    assert peer.connection.streams == {}
