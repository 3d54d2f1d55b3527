"""Small honest services for tests of streaming calls."""

from gateway.streams import Stream, StreamHandler, StreamMethod, StreamTable
from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis

ECHO = StreamMethod(901, "test.Test", "Echo")
END = b"end"
FAIL = b"fail"


class Echo:
    """Says everything twice; ends when the client has said all, or says so; remembers what it was told."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.told: list[str] = []

    def on_message(self, body: bytes, now: Millis) -> None:
        """Answer."""
        self.told.append(f"message {body[:20].decode()}")
        if body == END:
            self.stream.end()
        elif body == FAIL:
            self.stream.end(ErrorCode.COMPACTED)
        else:
            self.stream.send(body)
            self.stream.send(body[: len(body) // 2], body[len(body) // 2 :])

    def on_half_close(self, now: Millis) -> None:
        """End as well."""
        self.told.append("half_close")
        self.stream.end()

    def on_room(self, now: Millis) -> None:
        """Nothing waits for room."""
        self.told.append("room")

    def on_cancel(self) -> None:
        """Remember it."""
        self.told.append("cancel")


class Flood:
    """Sends `count` numbered messages of a size as fast as the client takes them, then ends."""

    def __init__(self, stream: Stream, count: int, size: int) -> None:
        self.stream = stream
        self.left = count
        self.count = count
        self.size = size
        self.held_max = 0
        """The most that was ever unsent."""
        self.cancelled = False

    def on_message(self, body: bytes, now: Millis) -> None:
        """Begin."""
        self._produce()

    def on_half_close(self, now: Millis) -> None:
        """The request was all there is."""

    def on_room(self, now: Millis) -> None:
        """Go on."""
        self._produce()

    def on_cancel(self) -> None:
        """Stop."""
        self.cancelled = True

    def _produce(self) -> None:
        while self.left and self.stream.may_send():
            self.stream.send(b"%08d" % (self.count - self.left), bytes(self.size - 8))
            self.left -= 1
            self.held_max = max(self.held_max, self.stream.unsent_bytes)
        if not self.left:
            self.stream.end()


def echo_table(streams_max: int = 10, leader: int = 1) -> tuple[StreamTable, list[Echo]]:
    """A table that serves `ECHO`, and the services it has made."""
    table = StreamTable(streams_max, election_timeout_ms=1000)
    made: list[Echo] = []

    def opener(stream: Stream, _now: Millis) -> StreamHandler:
        made.append(Echo(stream))
        return made[-1]

    table.serve(ECHO, opener)
    table.lead(MemberId(leader), Millis(0))
    return table, made
