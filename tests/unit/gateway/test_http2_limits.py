"""Floods and stalls: what a client may ask of us before the connection ends, and that honest work never does."""

import pytest
from http2_peer import POST, Peer, frame

from gateway import http2_frames as wire
from gateway.http2_frames import H2Error
from gateway.http2_hpack import encode_fields
from gateway.http2_limits import Budget, Http2Limits

SMALL = Http2Limits(
    control_burst_frames=50,
    control_frames_per_s=10,
    reset_burst_streams=20,
    reset_streams_per_s=5,
    continuation_frames_max=4,
    header_block_bytes_max=4096,
    header_list_bytes_max=2048,
)
OK = encode_fields([(b":status", b"200")])

FLOODS = {
    "PING": wire.ping(b"12345678", ack=False),
    "PING acknowledgement": wire.ping(b"12345678", ack=True),
    "SETTINGS": wire.settings(()),
    "PRIORITY": frame(wire.PRIORITY, 0, 1, b"\0\0\0\3\0"),
    "WINDOW_UPDATE": wire.window_update(0, 1),
    "empty DATA": frame(wire.DATA, 0, 1),
    "unknown kind": frame(0x77, 0, 0),
    "GOAWAY": frame(wire.GOAWAY, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection(name: str) -> None:
    """Frames that ask for attention and carry no work run a client dry."""
    peer = Peer(SMALL)
    peer.send(peer.headers(1))

    peer.send(FLOODS[name] * 200)

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM
    assert peer.connection.closed


@pytest.mark.parametrize("name", ["PING", "WINDOW_UPDATE", "PING acknowledgement"])
def test_control_frames_of_a_working_client_are_earned(name: str) -> None:
    """The same frames between requests are how clients work."""
    peer = Peer(SMALL)

    for number in range(200):
        stream_id = 2 * number + 1
        peer.send(peer.request(stream_id) + FLOODS[name] * 8)
        peer.connection.send_headers(stream_id, OK, end_stream=True)
        peer.frames()

    assert not peer.connection.closed


def test_large_answers_earn_the_window_updates_they_need() -> None:
    """A client that reads one large answer through a small window is not mistaken for a flood."""
    peer = Peer(SMALL)
    peer.send(peer.request(1))
    peer.connection.respond(1, OK, b"x" * 3_000_000, OK)

    for _ in range(1000):
        peer.frames()
        if not peer.connection.streams:
            break
        peer.send(wire.window_update(0, 4096) + wire.window_update(1, 4096))

    assert not peer.connection.closed
    assert peer.connection.streams == {}


def test_slow_pings_are_welcome_for_ever() -> None:
    """Keep-alive pings at any pace the refill allows never end the connection."""
    peer = Peer(SMALL)

    for _ in range(500):
        peer.now += 100
        peer.send(FLOODS["PING"])

    assert not peer.connection.closed


def test_rapid_reset_ends_the_connection() -> None:
    """Opening and cancelling streams without end costs the connection (CVE-2023-44487)."""
    peer = Peer(SMALL)

    for number in range(40):
        stream_id = 2 * number + 1
        peer.send(peer.request(stream_id) + wire.rst_stream(stream_id, H2Error.CANCEL))

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM
    assert len([event for event in peer.events if event[0] == "request"]) <= 25


def test_provoked_resets_end_the_connection() -> None:
    """Making us reset streams is no cheaper for the client than resetting them (CVE-2025-8671)."""
    peer = Peer(SMALL)

    for number in range(40):
        stream_id = 2 * number + 1
        peer.send(peer.request(stream_id) + frame(wire.WINDOW_UPDATE, 0, stream_id, b"\0\0\0\0"))

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM


def test_continuation_flood_ends_the_connection() -> None:
    """A header block without end is stopped by number and by size (CVE-2024-27316)."""
    for piece in (b"", b"\x00\x01a\x7f" + b"v" * 1000):
        peer = Peer(SMALL)
        peer.send(frame(wire.HEADERS, 0, 1, b"\x82"))

        peer.send(frame(wire.CONTINUATION, 0, 1, piece) * 10)

        assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM


def test_header_list_over_the_limit_is_answered() -> None:
    """Too many header bytes get 431, and the connection lives on."""
    peer = Peer(SMALL)

    for stream_id in (1, 3):
        peer.send(peer.headers(stream_id, [*POST, (b"x", b"v" * 3000)], end_stream=True))
        (answer,) = peer.frames()
        assert (b":status", b"431") in peer.fields(answer.payload)

    peer.send(peer.request(5))
    assert [event[1] for event in peer.events if event[0] == "request"] == [5]


def test_settings_that_touch_many_streams_cost_accordingly() -> None:
    """Changing the initial window walks all open streams, so it cannot be had for the price of one frame."""
    peer = Peer(Http2Limits(control_burst_frames=600, control_frames_per_request=0))
    for number in range(640):
        peer.send(peer.headers(2 * number + 1))

    peer.send(b"".join(wire.settings(((wire.INITIAL_WINDOW_SIZE, 1000 + turn % 2),)) for turn in range(100)))

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM


def test_client_that_never_says_settings_is_closed() -> None:
    """A connection that opens and stays silent does not stay open."""
    peer = Peer(SMALL, greet=False)
    peer.send(wire.PREFACE)
    assert peer.connection.needs_watch

    peer.connection.check_stalls(peer.now + SMALL.preface_ms_max + 1)

    assert peer.goaway() is H2Error.SETTINGS_TIMEOUT


def test_header_block_that_is_never_completed_is_closed() -> None:
    """Half a header block blocks the whole connection, so it may take only so long."""
    peer = Peer(SMALL)
    peer.send(frame(wire.HEADERS, 0, 1, b"\x82"))

    peer.connection.check_stalls(peer.now + SMALL.preface_ms_max + 1)

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM


def test_answer_to_a_closed_window_is_given_up() -> None:
    """A client that asks and then opens no window loses the answer; one that reads slowly does not."""
    limits = Http2Limits(stall_ms_max=1000)
    peer = Peer(limits)
    peer.send(wire.settings(((wire.INITIAL_WINDOW_SIZE, 10),)) + peer.request(1) + peer.request(3))
    for stream_id in (1, 3):
        peer.connection.respond(stream_id, OK, b"x" * 100, OK)
    for _ in range(6):
        peer.now += 600
        peer.send(wire.window_update(3, 1))
        peer.frames()
        peer.connection.check_stalls(peer.now)

    assert ("reset", 1) in peer.events
    assert ("reset", 3) not in peer.events
    assert peer.connection.sender.unsent_bytes < 100


def test_client_that_reads_nothing_is_closed() -> None:
    """Answers that pile up for one client are bounded in bytes."""
    peer = Peer(Http2Limits(unsent_bytes_max=1_000_000))
    for number in range(20):
        peer.send(peer.request(2 * number + 1))
        peer.connection.respond(2 * number + 1, OK, b"x" * 100_000, OK)

    peer.connection.check_stalls(peer.now)

    assert peer.goaway() is H2Error.ENHANCE_YOUR_CALM
    assert peer.connection.streams == {}


def test_budget_refills_with_time_and_work() -> None:
    """Tokens come back by the clock and by what was earned, up to the burst."""
    budget = Budget(burst=2, per_s=1)
    assert [budget.spend(1000) for _ in range(3)] == [True, True, False]

    assert budget.spend(3100)
    assert not budget.spend(3100)
    assert budget.spend(3100, earned=5)
