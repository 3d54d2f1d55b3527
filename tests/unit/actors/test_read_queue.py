"""Reads that are not answered at once: they wait, go on in slices, leave in pieces, and stop when nobody takes them."""

from random import Random

import pytest

from actors import read_queue
from actors.effects import Effect, Send
from actors.read_queue import JOBS_MAX, MESSAGE_ANSWERS_BYTES_MAX, SMALL_BYTES_MAX, UNTAKEN_BYTES_MAX, ReadQueue
from protocol.command import ReadKind
from protocol.errors import ErrorCode
from protocol.local import AnswerPiece, ReadsServed
from protocol.message import Message
from protocol.types import Incarnation
from protocol.wire.rpc_pb2 import RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import StoreDriver
from storage.range_read import PIECE_BYTES, SLICE_ROWS
from storage.reads import StatusFields

BATCH = (Incarnation(1), 5)
STATUS = StatusFields(0, 0)
LARGE_BYTES = 400_000
KEYS = [b"big/%03d" % number for number in range(20)]
ALL = RangeRequest(key=b"big/", range_end=b"big0")


class Reader:
    """A store with large values, its queue, and a gateway that puts answers together."""

    def __init__(self) -> None:
        disk = SimDisk(Random(1))
        self.driver = StoreDriver(lambda: SimEngine(disk, "store"))
        for number, key in enumerate(KEYS):
            self.driver.put(key, bytes([number]) * LARGE_BYTES)
        self.queue = ReadQueue()
        self.answers: dict[int, tuple[int, bytes]] = {}
        self.sent: list[Message] = []
        self.untaken_bytes = 0
        self._ahead: dict[int, bytes] = {}

    def ask(self, *requests: RangeRequest | TxnRequest) -> None:
        """Ask for all in one batch."""
        kinds = {RangeRequest: ReadKind.RANGE, TxnRequest: ReadKind.TXN}
        commands = [(int(kinds[type(request)]), request.SerializeToString()) for request in requests]
        self.hear(self.queue.serve(self.driver.store, BATCH, commands, STATUS))

    def hear(self, effects: list[Effect]) -> None:
        """Take what the queue says, as a gateway does."""
        for effect in effects:
            assert isinstance(effect, Send)
            message = effect.message
            self.sent.append(message)
            if isinstance(message, AnswerPiece):
                self._ahead[message.position] = self._ahead.get(message.position, b"") + message.piece
                self.untaken_bytes += len(message.piece)
                continue
            assert isinstance(message, ReadsServed)
            for position, code, body in message.results:
                assert position not in self.answers, "a read is answered once"
                self.answers[position] = (code, self._ahead.pop(position, b"") + body)

    def work(self) -> None:
        """Advance for as long as that gets anywhere, taking nothing."""
        while self.queue.has_work:
            self.hear(self.queue.advance(self.driver.store, STATUS))

    def take(self) -> None:
        """Take all that is there."""
        self.queue.taken(self.untaken_bytes)
        self.untaken_bytes = 0

    def pairs(self, position: int) -> list[tuple[bytes, bytes]]:
        """What a Range was answered."""
        code, body = self.answers[position]
        assert code == ErrorCode.OK
        return [(pair.key, pair.value) for pair in RangeResponse.FromString(body).kvs]

    @property
    def largest_message_bytes(self) -> int:
        """The most that was said at once."""
        sizes = [len(message.piece) for message in self.sent if isinstance(message, AnswerPiece)]
        sizes += [
            sum(len(body) for *_, body in message.results) for message in self.sent if isinstance(message, ReadsServed)
        ]
        return max(sizes)


@pytest.fixture
def reader() -> Reader:
    """A store of 20 keys with 400 KB each."""
    return Reader()


EVERYTHING = [(key, bytes([number]) * LARGE_BYTES) for number, key in enumerate(KEYS)]


def test_answers_over_the_size_of_a_message_wait_for_the_next(reader: Reader) -> None:
    """Two hundred large reads of one batch are each answered, and never is more said at once than may be."""
    reader.ask(*(RangeRequest(key=KEYS[number % 20]) for number in range(200)))
    assert 0 < len(reader.answers) < 20
    while len(reader.answers) < 200:
        reader.work()
        reader.take()
    assert [reader.pairs(number) for number in range(200)] == [[EVERYTHING[number % 20]] for number in range(200)]
    assert reader.largest_message_bytes < MESSAGE_ANSWERS_BYTES_MAX + LARGE_BYTES + 1000


def test_a_large_answer_leaves_in_pieces(reader: Reader) -> None:
    """A range of 8 MB is put together to what it was, with count and header."""
    reader.ask(ALL)
    reader.work()
    assert reader.pairs(0) == EVERYTHING
    response = RangeResponse.FromString(reader.answers[0][1])
    assert (response.count, response.header.revision) == (20, 21)
    assert reader.largest_message_bytes <= PIECE_BYTES + LARGE_BYTES + 1000


@pytest.mark.parametrize(
    "options",
    [
        {"sort_target": RangeRequest.MOD, "sort_order": RangeRequest.DESCEND},
        {"limit": 15},
        {"revision": 16},
        {"min_mod_revision": 3},
        {"keys_only": True, "sort_target": RangeRequest.VALUE, "sort_order": RangeRequest.DESCEND},
    ],
)
def test_in_pieces_every_option_means_the_same(reader: Reader, options: dict[str, int]) -> None:
    """Whatever a read asks for, its pieces are the answer it would have whole."""
    request = RangeRequest(key=ALL.key, range_end=ALL.range_end, **options)  # type: ignore[arg-type]
    reader.ask(request)
    reader.work()
    whole = reader.driver.read(ReadKind.RANGE, request, RangeResponse)
    assert RangeResponse.FromString(reader.answers[0][1]) == whole.response


def test_a_large_txn_of_ranges_leaves_in_pieces_too(reader: Reader) -> None:
    """Each of its answers is whole, in its place."""
    reader.ask(TxnRequest(success=[RequestOp(request_range=ALL), RequestOp(request_range=RangeRequest(key=KEYS[3]))]))
    reader.work()
    response = TxnResponse.FromString(reader.answers[0][1])
    assert [len(answer.response_range.kvs) for answer in response.responses] == [20, 1]
    assert reader.largest_message_bytes <= PIECE_BYTES + LARGE_BYTES + 1000


def test_the_count_of_a_page_of_large_rows_is_of_its_first_moment(reader: Reader) -> None:
    """A page that is long by bytes alone counts what was there when it began."""
    reader.ask(RangeRequest(key=ALL.key, range_end=ALL.range_end, limit=10))
    reader.driver.put(b"big/new")
    reader.work()
    response = RangeResponse.FromString(reader.answers[0][1])
    assert (len(response.kvs), response.count, response.more) == (10, 20, True)


def test_nothing_more_is_read_while_nobody_takes_it(reader: Reader) -> None:
    """A gateway that has fallen behind is not buried; when it takes what is there, the rest follows."""
    reader.ask(*[ALL] * 40)
    reader.work()
    assert len(reader.answers) < 40
    assert reader.untaken_bytes < UNTAKEN_BYTES_MAX + PIECE_BYTES + LARGE_BYTES
    while len(reader.answers) < 40:
        assert not reader.queue.has_work
        reader.take()
        assert reader.queue.has_work
        reader.work()
    assert all(reader.pairs(number) == EVERYTHING for number in range(40))


def test_a_new_gateway_owes_nothing(reader: Reader) -> None:
    """What was on its way to one that died does not hold up its successor."""
    reader.ask(*[ALL] * 40)
    reader.work()
    assert not reader.queue.has_work
    reader.queue.gateway_started()
    assert reader.queue.has_work


def test_only_so_many_long_reads_are_in_progress_and_short_ones_pass_them(reader: Reader) -> None:
    """Each may hold as much as an answer may have; whoever comes later waits, unless it is short."""
    for number in range(2 * SLICE_ROWS):
        reader.driver.put(b"row/%05d" % number)
    rows = RangeRequest(key=b"row/", range_end=b"row0")
    short = RangeRequest(key=b"row/", range_end=b"row0", limit=1)
    reader.ask(*[rows] * (JOBS_MAX + read_queue.IN_VAIN_MAX - 1), short, *[rows] * 30, RangeRequest(key=b"row/00001"))
    assert len(reader.queue._jobs) == JOBS_MAX
    short_at = JOBS_MAX + read_queue.IN_VAIN_MAX - 1
    assert set(reader.answers) == {short_at, short_at + 31}
    reader.work()
    assert len(reader.answers) == short_at + 32
    assert len({reader.answers[at][1] for at in range(short_at)}) == 1


def test_the_end_answers_whoever_is_in_progress_and_whoever_waits(reader: Reader) -> None:
    """Before the store goes, everybody is told."""
    reader.ask(*[ALL] * 30)
    reader.hear(reader.queue.end(ErrorCode.STOPPED, reader.driver.store))
    assert {code for code, _ in reader.answers.values()} == {ErrorCode.STOPPED}
    assert len(reader.answers) == 30
    assert not reader.queue.has_work


def test_large_answers_to_commands_go_ahead_in_pieces(reader: Reader) -> None:
    """Codes and small bodies stay; a large body is sent first, and in its place nothing is left."""
    large = bytes(range(256)) * (PIECE_BYTES // 100)
    results = ((0, b"small"), (0, large), (int(ErrorCode.KEY_NOT_FOUND), b""), (0, b"x" * (SMALL_BYTES_MAX + 1)))
    effects, left = reader.queue.in_pieces(BATCH, results)
    assert left == ((0, b"small"), (0, b""), (int(ErrorCode.KEY_NOT_FOUND), b""), (0, b""))
    reader.hear(effects)
    assert reader._ahead == {1: large, 3: results[3][1]}
    assert reader.largest_message_bytes == PIECE_BYTES
