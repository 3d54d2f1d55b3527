"""Streaming calls without any door."""

from stream_services import ECHO, END, Flood, echo_table

from gateway.streams import ROOM_BYTES, STREAM_UNSENT_BYTES_MAX, StreamHead, StreamMethod, StreamTable
from protocol.errors import ErrorCode
from protocol.types import NOBODY, MemberId, Millis

NOW = Millis(0)
PLAIN = StreamHead()


def taken(table: StreamTable) -> dict[int, tuple[list[bytes], ErrorCode | None]]:
    """Take what the table has for its door, as a door whose clients read at once."""
    found: dict[int, tuple[list[bytes], ErrorCode | None]] = {}
    dirty, table.dirty = table.dirty, []
    for stream in dirty:
        messages, outcome = table.take(stream)
        found[stream.call_id] = ([b"".join(pieces) for pieces in messages], outcome)
        table.held(stream.call_id, 0, NOW)
    table.check()
    return found


def test_messages_go_both_ways_until_the_service_ends() -> None:
    """What is said comes out in order, and the end behind it, once."""
    table, (echoes) = echo_table()
    table.open(1, ECHO, PLAIN, NOW)
    table.message(1, b"ab", NOW)
    table.message(1, END, NOW)
    table.message(1, b"too late", NOW)

    assert taken(table) == {1: ([b"ab", b"ab"], ErrorCode.OK)}
    assert len(table) == 0
    assert echoes[0].told == ["message ab", "message end"]


def test_half_close_lets_the_service_go_on() -> None:
    """A client that has said everything is still answered."""
    table, echoes = echo_table()
    table.open(1, ECHO, PLAIN, NOW)
    table.half_close(1, NOW)

    assert echoes[0].told == ["half_close"]
    assert taken(table) == {1: ([], ErrorCode.OK)}


def test_cancelled_stream_is_silent() -> None:
    """A client that is gone is told nothing, and its service is told once."""
    table, echoes = echo_table()
    table.open(1, ECHO, PLAIN, NOW)
    table.message(1, b"x", NOW)

    assert table.cancel(1)
    assert not table.cancel(1)

    echoes[0].stream.send(b"late")
    assert taken(table) == {1: ([], ErrorCode.CANCELED)}
    assert echoes[0].told == ["message x", "cancel"]
    assert table.unsent_bytes == 0


def test_streams_over_the_limit_and_unknown_methods_are_refused() -> None:
    """What cannot be served ends with a status instead of silence."""
    table, _ = echo_table(streams_max=1)
    table.open(1, ECHO, PLAIN, NOW)
    table.open(2, ECHO, PLAIN, NOW)
    assert taken(table) == {2: ([], ErrorCode.TOO_MANY_REQUESTS)}
    table.cancel(1)

    table.open(3, StreamMethod(999, "no", "No"), PLAIN, NOW)

    assert taken(table) == {3: ([], ErrorCode.UNIMPLEMENTED)}


def test_deadline_ends_the_stream() -> None:
    """A stream whose client stops waiting ends then, and those without a deadline go on."""
    table, echoes = echo_table()
    table.open(1, ECHO, StreamHead(deadline=Millis(50)), NOW)
    table.open(2, ECHO, PLAIN, NOW)
    assert table.deadline == 50

    table.wake(Millis(49))
    assert taken(table) == {}
    table.wake(Millis(50))

    assert taken(table) == {1: ([], ErrorCode.DEADLINE_EXCEEDED)}
    assert echoes[0].told == ["cancel"]
    assert table.deadline is None


def test_deadlines_of_streams_that_are_gone_are_forgotten() -> None:
    """Opening and cancelling streams with distant deadlines for ever holds no memory."""
    table, _ = echo_table()
    for call_id in range(10_000):
        table.open(call_id, ECHO, StreamHead(deadline=Millis(10**9)), NOW)
        table.cancel(call_id)
        table.dirty.clear()

    assert len(table._deadlines) < 100


def test_stream_that_requires_a_leader_ends_without_one() -> None:
    """It is refused where none is known, and ends once none was known for three election timeouts."""
    table, echoes = echo_table(leader=NOBODY)
    table.open(1, ECHO, StreamHead(require_leader=True), NOW)
    assert taken(table) == {1: ([], ErrorCode.NO_LEADER)}

    table.lead(MemberId(3), Millis(10))
    table.open(2, ECHO, StreamHead(require_leader=True), Millis(10))
    table.open(3, ECHO, PLAIN, Millis(10))
    table.lead(NOBODY, Millis(1000))
    assert table.deadline == 4000
    table.wake(Millis(3999))
    assert taken(table) == {}
    table.wake(Millis(4000))

    assert taken(table) == {2: ([], ErrorCode.NO_LEADER)}
    assert echoes[0].told == ["cancel"]


def test_short_loss_of_the_leader_is_borne() -> None:
    """An election does not end streams."""
    table, _ = echo_table()
    table.open(1, ECHO, StreamHead(require_leader=True), NOW)
    table.lead(NOBODY, Millis(1000))
    table.lead(MemberId(2), Millis(3000))

    assert table.deadline is None
    table.wake(Millis(10_000))
    assert taken(table) == {}


def test_producer_is_paused_and_told_to_go_on() -> None:
    """A producer sends no more than the room, and is told when the client has taken enough."""
    table, _ = echo_table()
    floods: list[Flood] = []

    def opener(stream, _now):  # type: ignore[no-untyped-def]
        floods.append(Flood(stream, 500, 10_000))
        return floods[-1]

    table.serve(ECHO, opener)
    table.open(1, ECHO, PLAIN, NOW)
    table.message(1, b"go", NOW)
    received: list[bytes] = []
    outcome = None
    rounds = 0
    while outcome is None:
        rounds += 1
        (stream,) = set(table.dirty)
        table.dirty = []
        messages, outcome = table.take(stream)
        size = sum(len(piece) for pieces in messages for piece in pieces)
        received += [b"".join(pieces)[:8] for pieces in messages]
        table.held(1, size, NOW)  # the client takes nothing at first
        assert outcome is not None or not table.dirty
        table.held(1, 0, NOW)

    assert received == [b"%08d" % number for number in range(500)]
    assert rounds >= 4
    assert floods[0].held_max < ROOM_BYTES + 10_000


def test_client_that_asks_without_reading_is_cut_off() -> None:
    """Answers to a client's own requests are bounded too."""
    table, echoes = echo_table()
    table.open(1, ECHO, PLAIN, NOW)
    for _ in range(STREAM_UNSENT_BYTES_MAX // 2_000_000 + 2):
        table.message(1, bytes(1_000_000), NOW)

    _, outcome = table.take(table.dirty[0])

    assert outcome is ErrorCode.TOO_MANY_REQUESTS
    assert echoes[0].told[-1] == "cancel"


def test_end_of_all_streams_comes_behind_their_messages() -> None:
    """A gateway that stops tells every client, after what it had said before."""
    table, _ = echo_table()
    for call_id in (1, 2):
        table.open(call_id, ECHO, PLAIN, NOW)
        table.message(call_id, b"m", NOW)

    table.end_all(ErrorCode.STOPPED)

    assert taken(table) == {1: ([b"m", b"m"], ErrorCode.STOPPED), 2: ([b"m", b"m"], ErrorCode.STOPPED)}
