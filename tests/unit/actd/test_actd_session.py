"""The client's conversation without a socket: greetings, retries, failover, and what a caller is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from actd import calls
from actd.calls import Call
from actd.errors import ActdError, CallTimedOut, ClientClosed, ProtocolFault, RequestRefused, Unavailable
from actd.session import (
    BATCH_BYTES_MAX,
    HELLO_S,
    IDLE_S,
    LEAVE_S,
    NOT_SERVED_S,
    OPEN_CALLS_SENT_MAX,
    RETRY_S,
    SILENCE_S,
    Greeting,
    Session,
)
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    TAKEN_STEP_BYTES,
    CallBatch,
    ClientHello,
    ClientHelloReply,
    ClientRefused,
    RepliesTaken,
    ReplyBatch,
    ReplyPiece,
)
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.message import Message
from protocol.types import ClusterId, MemberId
from protocol.wire import rpc_pb2 as rpc

PUT = calls.put("k", "v")
GET = calls.get("k")
STORED = rpc.PutResponse(header=rpc.ResponseHeader(revision=7)).SerializeToString()
FOUND = rpc.RangeResponse(header=rpc.ResponseHeader(revision=7)).SerializeToString()


class Talk:
    """A session, the clock, and the door's part of the conversation."""

    def __init__(self, *endpoints: str, cluster: int = 0) -> None:
        self.session = Session(endpoints or ("tcp://a",), cluster, "test")
        self.now = 100.0
        self.ended: list[tuple[Any, ActdError | None]] = []
        self.connections: list[str] = []

    def ask(self, call: Call[Any], timeout_s: float = 10.0) -> None:
        """Begin a call."""
        self.session.add(call, self.now + timeout_s, lambda result, error: self.ended.append((result, error)))

    def turn(self, passed_s: float = 0.0) -> list[Message]:
        """Let time pass and do what a transport does; return what is sent."""
        self.now += passed_s
        self.session.tick(self.now)
        if self.session.reconnect:
            self.connections.append(self.session.endpoint)
            self.session.connected(self.now)
        return [codec.decode(frame) for frame in self.session.take_frames(self.now)]

    def hear(self, message: Message) -> None:
        """A frame from the door."""
        self.session.received(codec.encode(message), self.now)

    def greet(self, conversation: int = 1, *doors: str, **limits: int) -> None:
        """The door answers the hello."""
        fields = {"calls_open_max": 10_000, "request_bytes_max": 1 << 20, "unread_bytes_max": 1 << 25, **limits}
        self.hear(
            ClientHelloReply(
                protocol_version=1,
                cluster=ClusterId(1),
                member=MemberId(2),
                name="n",
                conversation=conversation,
                doors=doors,
                **fields,
            )
        )

    def begin(self, *asked: Call[Any]) -> list[int]:
        """Connect, greet, and send these calls; return their ids."""
        for call in asked:
            self.ask(call)
        self.turn()
        self.greet()
        return [call_id for call_id, _, _, _ in self.sent(self.turn())]

    def sent(self, messages: list[Message]) -> list[tuple[int, int, int, bytes]]:
        """The calls in what was sent."""
        return [call for message in messages if isinstance(message, CallBatch) for call in message.calls]

    def answer(self, call_id: int, code: int = 0, body: bytes = STORED) -> None:
        """The door answers a call."""
        if code:
            body = WIRE_ERRORS[ErrorCode(code)].text.encode()
        self.hear(ReplyBatch(replies=((call_id, code, body),)))

    def refuse(self, code: str, *call_ids: int) -> None:
        """The door refuses."""
        self.hear(ClientRefused(code=code, reason=f"because of {code}", call_ids=call_ids))

    @property
    def error(self) -> ActdError:
        """The error of the only call that has ended."""
        ((result, error),) = self.ended
        assert result is None
        assert error is not None
        return error


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A client of one door; nothing it does leaves a call that cannot end."""
    made = Talk()
    yield made
    made.session.close()
    assert made.session.calls_open == 0


@pytest.fixture
def pair() -> Talk:
    """A client of two doors."""
    return Talk("tcp://a", "tcp://b")


# --- the ordinary way ------------------------------------------------------------------------------


def test_calls_wait_for_the_greeting_and_then_travel_together(talk: Talk) -> None:
    """The first frame is a hello; calls follow its answer, in one batch, with the time they have left."""
    talk.ask(PUT, timeout_s=3.0)
    talk.ask(GET, timeout_s=5.0)
    (hello,) = talk.turn()
    assert hello == ClientHello(protocol_version=1, client="test", cluster=ClusterId(0))
    assert talk.turn() == []
    talk.greet()
    (batch,) = talk.turn(0.1)
    assert isinstance(batch, CallBatch)
    assert [(method, body) for _, method, _, body in batch.calls] == [(1, PUT.body), (2, GET.body)]
    assert [wait_ms for _, _, wait_ms, _ in batch.calls] == [pytest.approx(2900, abs=1), pytest.approx(4900, abs=1)]


def test_answers_end_their_calls_whatever_their_order(talk: Talk) -> None:
    """Each answer goes to the call whose id it names; strangers' ids are nobody's."""
    first, second = talk.begin(PUT, GET)
    talk.answer(second, body=FOUND)
    talk.answer(12345)
    assert talk.ended == [(None, None)]
    talk.answer(first)
    talk.answer(first)
    (result, error) = talk.ended[1]
    assert (result.revision, error) == (7, None)
    assert len(talk.ended) == 2


def test_large_answers_are_put_together(talk: Talk) -> None:
    """Pieces of several calls may be mixed; those of a call that failed, or that nobody made, count for nothing."""
    first, second, third = talk.begin(GET, GET, GET)
    for call_id, piece in ((first, FOUND[:3]), (second, FOUND[:5]), (third, b"?"), (999, b"?"), (first, FOUND[3:6])):
        talk.hear(ReplyPiece(call_id=call_id, piece=piece))
    talk.answer(third, ErrorCode.COMPACTED)
    talk.answer(second, body=FOUND[5:])
    talk.answer(first, body=FOUND[6:])
    (failed, error), *found = talk.ended
    assert failed is None
    assert error is not None
    assert [result for result, _ in found] == [found[0][0]] * 2
    assert talk.session._pieces == {}


def test_pieces_are_taken_and_told(talk: Talk) -> None:
    """The door hears of their bytes as of those of answers."""
    (call_id,) = talk.begin(GET)
    talk.hear(ReplyPiece(call_id=call_id, piece=b"x" * TAKEN_STEP_BYTES))
    (told,) = talk.turn()
    assert isinstance(told, RepliesTaken)
    assert told.bytes_taken > TAKEN_STEP_BYTES


@pytest.mark.parametrize("conversation", [1, 2])
def test_what_was_taken_during_a_greeting_is_told_after_it(talk: Talk, conversation: int) -> None:
    """The door sends no more until it is told; a door that has begun anew must not hear of the earlier conversation."""
    (call_id,) = talk.begin(GET)
    talk.refuse("hello_first")
    assert isinstance(talk.turn()[0], ClientHello)
    talk.hear(ReplyPiece(call_id=call_id, piece=b"x" * TAKEN_STEP_BYTES))
    assert talk.turn() == []
    talk.greet(conversation)
    told = [message.bytes_taken for message in talk.turn() if isinstance(message, RepliesTaken)]
    assert [taken > TAKEN_STEP_BYTES for taken in told] == ([True] if conversation == 1 else [])


def test_pieces_of_a_lost_conversation_are_forgotten(talk: Talk) -> None:
    """A read that is asked again is answered by the new pieces alone."""
    (call_id,) = talk.begin(GET)
    talk.hear(ReplyPiece(call_id=call_id, piece=b"old"))
    talk.greet(conversation=2)
    ((again, *_),) = talk.sent(talk.turn())
    talk.hear(ReplyPiece(call_id=again, piece=FOUND[:4]))
    talk.answer(again, body=FOUND[4:])
    ((result, error),) = talk.ended
    assert (result, error) == (GET.read(FOUND), None)


def test_batches_are_limited_in_number_and_bytes(talk: Talk) -> None:
    """No frame is larger than a door accepts."""
    talk.begin()
    for _ in range(CALLS_PER_BATCH_MAX + 1):
        talk.ask(PUT)
    talk.turn()
    talk.greet()
    batches = [message for message in talk.turn() if isinstance(message, CallBatch)]
    assert [len(batch.calls) for batch in batches] == [CALLS_PER_BATCH_MAX, 1]
    large = calls.put("k", b"x" * 1_000_000)
    for _ in range(6):
        talk.ask(large)
    sizes = [len(codec.encode(message)) for message in talk.turn()]
    assert len(sizes) == 2
    assert max(sizes) <= BATCH_BYTES_MAX + 1000


def test_no_more_is_sent_than_a_door_takes(talk: Talk) -> None:
    """The rest waits here and follows as answers come."""
    for _ in range(OPEN_CALLS_SENT_MAX + 10):
        talk.ask(PUT)
    talk.turn()
    talk.greet(calls_open_max=3)
    ids = [call_id for call_id, _, _, _ in talk.sent(talk.turn())]
    assert len(ids) == 3
    assert talk.turn() == []
    talk.answer(ids[0])
    assert len(talk.sent(talk.turn())) == 1


def test_a_request_over_the_limit_is_refused_here(talk: Talk) -> None:
    """The door would drop the frame and with it the connection; the text is etcd's."""
    talk.ask(calls.put("k", b"x" * 2000))
    talk.ask(PUT)
    talk.turn()
    talk.greet(request_bytes_max=1000)
    assert len(talk.sent(talk.turn())) == 1
    assert isinstance(talk.error, RequestRefused)
    assert (talk.error.code, str(talk.error)) == (ErrorCode.REQUEST_TOO_LARGE, "etcdserver: request is too large")


def test_the_door_is_told_what_was_taken(talk: Talk) -> None:
    """Each time it is a step more, and in all."""
    (call_id,) = talk.begin(GET)
    body = rpc.RangeResponse(kvs=[{"value": b"x" * TAKEN_STEP_BYTES}]).SerializeToString()  # type: ignore[list-item]
    reply = ReplyBatch(replies=((call_id, 0, body),))
    talk.hear(reply)
    assert talk.turn() == [RepliesTaken(bytes_taken=len(codec.encode(reply)))]
    talk.hear(ReplyBatch(replies=()))
    assert talk.turn() == []


# --- errors ----------------------------------------------------------------------------------------


def test_a_refused_request_is_not_tried_again(talk: Talk) -> None:
    """It is wrong in itself; code and text are the door's."""
    (call_id,) = talk.begin(PUT)
    talk.answer(call_id, ErrorCode.LEASE_NOT_FOUND)
    error = talk.error
    assert isinstance(error, RequestRefused)
    assert (error.code, error.retryable, error.outcome_unknown) == (ErrorCode.LEASE_NOT_FOUND, False, False)
    assert str(error) == "etcdserver: requested lease not found"


@pytest.mark.parametrize("code", [ErrorCode.TOO_MANY_REQUESTS, ErrorCode.NO_LEADER, ErrorCode.UNHEALTHY])
@pytest.mark.parametrize("call", [PUT, GET])
def test_what_certainly_did_not_happen_is_tried_again(talk: Talk, call: Call[Any], code: ErrorCode) -> None:
    """Reads and writes alike, after a pause, under another id."""
    (first,) = talk.begin(call)
    talk.answer(first, code)
    assert talk.turn() == []
    ((second, _, _, body),) = talk.sent(talk.turn(RETRY_S))
    assert (body, talk.ended) == (call.body, [])
    assert second != first


@pytest.mark.parametrize("code", [ErrorCode.LEADER_CHANGED, ErrorCode.TIMEOUT, ErrorCode.DUPLICATE_BATCH])
def test_an_unknown_outcome_is_told_for_writes_and_repeated_for_reads(talk: Talk, code: ErrorCode) -> None:
    """A write is never done twice behind the caller's back."""
    put, get = talk.begin(PUT, GET)
    talk.answer(put, code)
    talk.answer(get, code)
    assert talk.error.outcome_unknown
    assert [body for _, _, _, body in talk.sent(talk.turn(RETRY_S))] == [GET.body]


def test_a_retry_that_would_come_too_late_is_an_error(talk: Talk) -> None:
    """The caller hears the door's reason instead of a time-out."""
    talk.ask(GET, timeout_s=1.0)
    talk.turn()
    talk.greet()
    ((call_id, _, _, _),) = talk.sent(talk.turn())
    talk.now += 0.99
    talk.answer(call_id, ErrorCode.TOO_MANY_REQUESTS)
    assert isinstance(talk.error, Unavailable)
    assert talk.error.retryable


@pytest.mark.parametrize(("call", "unknown"), [(PUT, True), (GET, False)])
def test_a_call_ends_when_its_time_is_over(talk: Talk, call: Call[Any], unknown: bool) -> None:
    """To the moment; a write that was sent may have happened."""
    talk.ask(call, timeout_s=0.3)
    talk.turn()
    talk.greet()
    talk.turn()
    assert talk.session.deadline(talk.now) == pytest.approx(talk.now + 0.3)
    talk.turn(0.29)
    assert talk.ended == []
    talk.turn(0.02)
    assert isinstance(talk.error, CallTimedOut)
    assert talk.error.outcome_unknown is unknown


def test_a_call_that_was_never_sent_certainly_did_not_happen(talk: Talk) -> None:
    """No door was found; the error names the last."""
    talk.ask(PUT, timeout_s=0.2)
    talk.turn()
    talk.turn(0.25)
    assert not talk.error.outcome_unknown
    assert "tcp://a" in str(talk.error)


def test_a_call_that_waits_for_its_retry_ends_in_time_too(talk: Talk) -> None:
    """Being put off is not being forgotten."""
    talk.ask(PUT, timeout_s=0.2)
    talk.turn()
    talk.greet()
    ((call_id, _, _, _),) = talk.sent(talk.turn())
    talk.answer(call_id, ErrorCode.NO_LEADER)
    talk.turn(0.21)
    assert isinstance(talk.error, CallTimedOut)
    assert not talk.error.outcome_unknown


def test_an_unreadable_answer_is_the_doors_fault(talk: Talk) -> None:
    """The write did take effect, so the error does not say that it did not."""
    (call_id,) = talk.begin(PUT)
    talk.answer(call_id, body=b"\xff")
    assert isinstance(talk.error, ProtocolFault)
    assert talk.error.outcome_unknown


@pytest.mark.parametrize("sent", [False, True])
def test_closing_ends_every_call_and_says_what_is_known(talk: Talk, sent: bool) -> None:
    """A write that was sent may have happened; one that was not, did not."""
    if sent:
        talk.begin(PUT)
    else:
        talk.ask(PUT)
    talk.session.close()
    assert isinstance(talk.error, ClientClosed)
    assert talk.error.outcome_unknown is sent
    talk.ask(PUT)
    assert isinstance(talk.ended[1][1], ClientClosed)


# --- silence and failover --------------------------------------------------------------------------


def test_a_silent_door_is_asked_once_and_then_left(pair: Talk) -> None:
    """Reads go to the next door; a write that was sent is unknown; one that was not goes there too."""
    pair.begin(PUT, GET)
    (hello,) = pair.turn(SILENCE_S)
    assert isinstance(hello, ClientHello)
    late = calls.put("late", "v")
    pair.ask(late)
    assert pair.turn(HELLO_S / 2) == []
    (hello,) = pair.turn(HELLO_S / 2)
    assert isinstance(hello, ClientHello)
    assert pair.connections == ["tcp://a", "tcp://b"]
    assert isinstance(pair.error, Unavailable)
    assert pair.error.outcome_unknown
    pair.greet(conversation=9)
    assert sorted(body for _, _, _, body in pair.sent(pair.turn())) == sorted([GET.body, late.body])


def test_a_slow_door_is_not_left(pair: Talk) -> None:
    """Its answer to the hello shows that it lives; calls go on waiting there."""
    (call_id,) = pair.begin(PUT)
    for _ in range(5):
        pair.turn(SILENCE_S)
        pair.greet()
        pair.turn()
    assert pair.connections == ["tcp://a"]
    pair.answer(call_id)
    assert [error for _, error in pair.ended] == [None]


def test_doors_are_tried_in_turn_until_one_answers(pair: Talk) -> None:
    """Doors a hello has named are among them."""
    pair.begin()
    pair.ask(PUT)
    pair.turn()
    pair.greet(1, "tcp://a", "tcp://c")
    assert pair.session.endpoints == ["tcp://a", "tcp://b", "tcp://c"]
    pair.turn()
    pair.turn(SILENCE_S)
    for _ in range(4):
        pair.ask(GET)
        pair.turn(HELLO_S)
    assert pair.connections == ["tcp://a", "tcp://b", "tcp://c", "tcp://a", "tcp://b"]


def test_a_door_that_has_begun_anew_is_noticed_by_its_number(talk: Talk) -> None:
    """What was sent before will not be answered: reads are asked again, writes are unknown, at once."""
    talk.begin(PUT, GET)
    talk.turn(SILENCE_S)
    talk.greet(conversation=2)
    assert talk.error.outcome_unknown
    assert [body for _, _, _, body in talk.sent(talk.turn())] == [GET.body]
    assert talk.connections == ["tcp://a"]


def test_calls_a_door_did_not_begin_are_sent_again_even_if_they_are_writes(talk: Talk) -> None:
    """A door that was restarted says hello_first and names them."""
    first, second = talk.begin(PUT, GET)
    talk.refuse("hello_first", first, second)
    (hello,) = talk.turn()
    assert isinstance(hello, ClientHello)
    talk.greet(conversation=2)
    assert [body for _, _, _, body in talk.sent(talk.turn())] == [PUT.body, GET.body]
    assert talk.ended == []


def test_after_a_long_silence_the_door_is_greeted_before_it_is_asked(talk: Talk) -> None:
    """It may have forgotten an idle client; a hello costs less than a refusal."""
    (call_id,) = talk.begin(PUT)
    talk.answer(call_id)
    talk.now += IDLE_S + 1
    talk.ask(PUT)
    (hello,) = talk.turn()
    assert isinstance(hello, ClientHello)
    talk.greet()
    assert len(talk.sent(talk.turn())) == 1


def test_a_stopping_door_is_left_when_it_has_answered(pair: Talk) -> None:
    """Open calls get their answers; new ones and refused ones go to the next door."""
    open_call, refused = pair.begin(PUT, calls.put("l", "v"))
    pair.refuse("stopping", refused)
    pair.ask(GET)
    assert pair.turn(LEAVE_S / 2) == []
    pair.answer(open_call)
    assert [error for _, error in pair.ended] == [None]
    pair.turn()
    assert pair.connections == ["tcp://a", "tcp://b"]
    pair.greet(conversation=5)
    assert len(pair.sent(pair.turn())) == 2


def test_calls_that_a_stopping_door_refuses_keep_their_order(pair: Talk) -> None:
    """Batch after batch comes back, and the next door is sent all of them as they were asked, new ones behind."""
    puts = [calls.put(f"k{number}", "v") for number in range(7)]
    batches = [pair.begin(puts[0])]
    for put in puts[1:6]:
        pair.ask(put)
        batches.append([call_id for call_id, _, _, _ in pair.sent(pair.turn())])
    for batch in batches:
        pair.refuse("stopping", *batch)
    pair.ask(puts[6])
    pair.turn()
    pair.greet(conversation=5)
    assert [body for _, _, _, body in pair.sent(pair.turn())] == [put.body for put in puts]


def test_a_stopping_door_is_not_waited_for_long(pair: Talk) -> None:
    """What it has not answered by then is unknown."""
    pair.begin(PUT)
    pair.refuse("stopping")
    pair.turn(LEAVE_S)
    assert pair.error.outcome_unknown
    assert pair.connections == ["tcp://a", "tcp://b"]


def test_a_door_that_answers_but_does_not_serve_is_left(pair: Talk) -> None:
    """A member that is cut off from the others has no leader, though its door is well."""
    (call_id,) = pair.begin(GET)
    pair.now += NOT_SERVED_S
    pair.answer(call_id, ErrorCode.TIMEOUT)
    pair.turn(RETRY_S)
    assert pair.connections == ["tcp://a", "tcp://b"]
    pair.greet(conversation=5)
    assert [body for _, _, _, body in pair.sent(pair.turn())] == [GET.body]


def test_one_unlucky_call_does_not_condemn_a_door(pair: Talk) -> None:
    """While others are served, nobody leaves."""
    unlucky, lucky = pair.begin(GET, PUT)
    pair.now += NOT_SERVED_S
    pair.answer(lucky)
    pair.answer(unlucky, ErrorCode.TIMEOUT)
    pair.turn(RETRY_S)
    assert pair.session.greeting is Greeting.DONE
    assert pair.connections == ["tcp://a"]


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [("version", ProtocolFault, False), ("cluster", ProtocolFault, False), ("too_many_clients", Unavailable, True)],
)
def test_calls_fail_when_every_door_refuses_us(pair: Talk, code: str, kind: type[ActdError], retryable: bool) -> None:
    """One door that does not take us is no reason; when the last has said no, its reason is told."""
    pair.ask(PUT)
    pair.turn()
    pair.refuse(code)
    assert pair.ended == []
    pair.turn(RETRY_S)
    pair.refuse(code)
    assert type(pair.error) is kind
    assert (pair.error.retryable, pair.error.outcome_unknown) == (retryable, False)
    assert f"because of {code}" in str(pair.error)
    assert pair.connections == ["tcp://a", "tcp://b"]


def test_a_refusal_is_forgotten_once_a_door_has_taken_us(pair: Talk) -> None:
    """It counts until then only."""
    pair.ask(GET)
    pair.turn()
    pair.refuse("too_many_clients")
    pair.turn(RETRY_S)
    pair.greet()
    pair.turn()
    pair.turn(SILENCE_S)
    pair.turn(HELLO_S)
    pair.refuse("too_many_clients")
    assert pair.ended == []


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", codec.encode(CallBatch(calls=()))])
def test_what_no_door_says_ends_the_conversation(talk: Talk, garbage: bytes) -> None:
    """Every call gets an error of its own, and a write that was sent is not said not to have happened."""
    talk.begin(PUT, GET)
    talk.ask(PUT)
    talk.session.received(garbage, talk.now)
    errors = [error for _, error in talk.ended]
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error, ProtocolFault) for error in errors)
    assert [error.outcome_unknown for error in errors if error] == [True, False, False]
    talk.ask(GET)
    talk.turn(RETRY_S)
    talk.greet(conversation=3)
    assert len(talk.sent(talk.turn())) == 1


def test_nothing_is_due_while_nobody_waits(talk: Talk) -> None:
    """An idle client costs nothing: no hello, no timer."""
    (call_id,) = talk.begin(PUT)
    talk.answer(call_id)
    assert talk.session.deadline(talk.now) >= talk.now + 1000
    assert talk.turn(500.0) == []
