"""The HTTP/2 core against everything a socket can bring: any cut of a proper stream, and any improper one."""

from http2_peer import POST, Peer, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import http2_frames as wire
from gateway.http2_limits import Http2Limits

KINDS = st.integers(0, 10)
FLAGS = st.sampled_from([0, 1, 4, 5, 8, 9, 0x0C, 0x0D, 0x20, 0x24, 0x25, 0x2D, 0xFF])
STREAM_IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 1 << 30, (1 << 31) - 1, (1 << 32) - 1])
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", bytes(4), bytes(8), b"\x82\x86\x84", b"\0\0\0\1", b"\x7f\xff\xff\xff"]),
)
SMALL = Http2Limits(control_burst_frames=30, reset_burst_streams=10, concurrent_streams_max=4)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame that is whole but need not make sense."""
    return frame(draw(KINDS), draw(FLAGS), draw(STREAM_IDS), draw(PAYLOADS))


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What a client sends: proper requests, senseless frames and plain garbage, in any order."""
    client = Peer(greet=False)
    parts = [wire.PREFACE, wire.settings(())] if draw(st.booleans()) else []
    stream_id = -1
    for _ in range(draw(st.integers(0, 12))):
        choice = draw(st.integers(0, 9))
        if choice < 5:
            stream_id += 2
            fields = [*POST, (b"x", draw(st.binary(max_size=8)))] if draw(st.booleans()) else POST
            body = draw(st.binary(max_size=50))
            parts.append(client.headers(stream_id, fields) + frame(wire.DATA, wire.END_STREAM, stream_id, body))
        elif choice < 9:
            parts.append(draw(frames()))
        else:
            parts.append(draw(st.binary(max_size=30)))
    return parts


@settings(deadline=None)
@given(conversations(), st.data())
def test_any_bytes_in_any_pieces_are_survived(parts: list[bytes], data: st.DataObject) -> None:
    """Never an exception, never half a frame out, never a word to the handler after the end, never an open leak."""
    peer = Peer(SMALL, greet=False)
    stream = b"".join(parts)
    position = 0
    while position < len(stream):
        size = data.draw(st.integers(1, 60))
        peer.send(stream[position : position + size])
        position += size
        for event in peer.events[-3:]:
            if event[0] == "request":
                peer.connection.respond(int(str(event[1])), b"\x88", b"answer", b"\x88")
        peer.frames()
    peer.connection.check_stalls(peer.now + 1)
    peer.frames()

    assert peer.events.count(("closed",)) == int(peer.connection.closed)
    if peer.connection.closed:
        assert peer.events[-1] == ("closed",)
        assert peer.connection.streams == {}
    assert len(peer.connection.streams) <= SMALL.concurrent_streams_max
    peer.connection.lost()
    assert peer.events[-1] == ("closed",)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.data())
def test_pieces_do_not_change_requests(bodies: list[bytes], data: st.DataObject) -> None:
    """However the network cuts the stream, each request arrives once, with its body."""
    peer = Peer()
    stream = b"".join(peer.request(2 * number + 1, body) for number, body in enumerate(bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        peer.send(stream[start:end])

    got: dict[int, bytes] = {}
    for event in peer.events:
        if event[0] == "request":
            assert event[1] not in got
            got[int(str(event[1]))] = bytes(event[3])  # type: ignore[call-overload]
        elif event[0] == "data":
            stream_id = int(str(event[1]))
            got[stream_id] = got.get(stream_id, b"") + bytes(event[2])  # type: ignore[call-overload]
    assert got == {2 * number + 1: body for number, body in enumerate(bodies)}
