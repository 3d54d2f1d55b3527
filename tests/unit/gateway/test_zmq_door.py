"""The ZeroMQ door: greetings, calls, limits, and what strangers send."""

import os
from collections.abc import Callable, Iterator

import msgpack
import pytest
import zmq
from clusters import wait_until
from zmq_node import CLUSTER, TIMEOUT_S, Peer, SoloNode

from gateway import zmq_door
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    CallBatch,
    CancelCalls,
    ClientHello,
    ClientRefused,
    RepliesTaken,
    ReplyBatch,
    ReplyPiece,
)
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.local import StopActor
from protocol.message import Message
from protocol.types import ClusterId
from protocol.wire import rpc_pb2 as rpc

PUT, RANGE = 1, 2
MakePeer = Callable[..., Peer]


@pytest.fixture
def node() -> Iterator[SoloNode]:
    """A node that serves."""
    made = SoloNode().start()
    yield made
    made.close()


@pytest.fixture
def make_peer(node: SoloNode) -> Iterator[MakePeer]:
    """Makes sockets that are connected to the node."""
    made: list[Peer] = []

    def make(identity: bytes = b"") -> Peer:
        made.append(Peer(node.endpoint, identity))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def peer(make_peer: MakePeer) -> Peer:
    """A client that was greeted."""
    made = make_peer()
    made.greet()
    return made


def put(key: bytes, value: bytes = b"v") -> bytes:
    """A PutRequest."""
    return rpc.PutRequest(key=key, value=value).SerializeToString()


def get(key: bytes) -> bytes:
    """A RangeRequest."""
    return rpc.RangeRequest(key=key).SerializeToString()


def batch(*calls: tuple[int, int, bytes]) -> CallBatch:
    """Calls without deadlines."""
    return CallBatch(calls=tuple((call_id, method, 0, body) for call_id, method, body in calls))


def replies(peer: Peer, count: int) -> list[tuple[int, int, bytes]]:
    """The next answers, from as many frames as they come in."""
    found: list[tuple[int, int, bytes]] = []
    while len(found) < count:
        message = peer.hears()
        assert isinstance(message, ReplyBatch), message
        found += message.replies
    assert len(found) == count
    return found


def refused(peer: Peer) -> ClientRefused:
    """The next message, which is a refusal."""
    message = peer.hears()
    assert isinstance(message, ClientRefused), message
    return message


# --- greetings -------------------------------------------------------------------------------------


def test_a_hello_is_answered_with_who_and_where_and_how_much(node: SoloNode, make_peer: MakePeer) -> None:
    """A client learns the member, all doors and the limits at once."""
    reply = make_peer().greet()
    assert (reply.cluster, reply.member, reply.name) == (CLUSTER, node.member, "n1")
    assert reply.doors == (node.endpoint,)
    assert reply.request_bytes_max == node.config.limits.request_bytes_max
    assert reply.calls_open_max == zmq_door.CALLS_OPEN_MAX


def test_a_repeated_hello_goes_on_with_the_conversation(node: SoloNode, peer: Peer) -> None:
    """Asking whether the door lives changes nothing; open calls stay open."""
    node.hold()
    peer.say(batch((1, PUT, put(b"k"))))
    node.await_asked(1)
    first, second = peer.greet(), peer.greet(cluster=CLUSTER)
    assert first.conversation == second.conversation
    node.release()
    assert [(call_id, code) for call_id, code, _ in replies(peer, 1)] == [(1, 0)]


def test_every_client_and_every_life_has_a_conversation_of_its_own(node: SoloNode, make_peer: MakePeer) -> None:
    """The number tells a client that the door has begun anew, even under the same routing id."""
    numbers = [make_peer(b"one").greet().conversation, make_peer(b"two").greet().conversation]
    node.kill()
    node.start()
    numbers += [make_peer(b"three").greet().conversation]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize(
    ("hello", "code", "words"),
    [
        (ClientHello(protocol_version=2, client="", cluster=ClusterId(0)), "version", "this door speaks 1"),
        (ClientHello(protocol_version=1, client="", cluster=ClusterId(0xAB)), "cluster", "you look for cluster ab"),
    ],
)
def test_who_does_not_belong_here_is_told_why(make_peer: MakePeer, hello: ClientHello, code: str, words: str) -> None:
    """Another version or another cluster is refused in words; nothing is begun for it."""
    stranger = make_peer()
    stranger.say(hello, batch((1, PUT, put(b"k"))))
    first, second = refused(stranger), refused(stranger)
    assert (first.code, second.code) == (code, "hello_first")
    assert words in first.reason


def test_a_call_before_the_hello_is_certainly_not_begun(node: SoloNode, make_peer: MakePeer) -> None:
    """The refusal names the calls, so that a client may send them again, writes included."""
    stranger = make_peer()
    stranger.say(batch((7, PUT, put(b"k")), (9, RANGE, get(b"k"))))
    answer = refused(stranger)
    assert (answer.code, answer.call_ids) == ("hello_first", (7, 9))
    stranger.say(CancelCalls(call_ids=(7,)))
    assert refused(stranger).call_ids == ()
    assert node.core.asked == []


def test_there_is_a_limit_to_clients(node: SoloNode, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused; those who are here may say hello again."""
    monkeypatch.setattr(zmq_door, "CLIENTS_MAX", 1)
    here = make_peer()
    here.greet()
    late = make_peer()
    late.say(ClientHello(protocol_version=1, client="late", cluster=ClusterId(0)))
    assert refused(late).code == "too_many_clients"
    here.greet()
    assert node.door.clients == 1


# --- calls -----------------------------------------------------------------------------------------


def test_calls_are_carried_out_and_answered_in_one_frame(peer: Peer) -> None:
    """Bodies are etcd's, both ways; the answers of a turn travel together."""
    peer.say(batch((1, PUT, put(b"a", b"1")), (2, PUT, put(b"b", b"2"))))
    message = peer.hears()
    assert isinstance(message, ReplyBatch)
    found = {call_id: rpc.PutResponse.FromString(body) for call_id, code, body in message.replies if not code}
    assert {call_id: response.header.revision for call_id, response in found.items()} == {1: 2, 2: 3}
    peer.say(batch((3, RANGE, get(b"b"))))
    ((_, code, body),) = replies(peer, 1)
    assert (code, rpc.RangeResponse.FromString(body).kvs[0].value) == (0, b"2")


def test_errors_carry_code_and_etcds_text(peer: Peer) -> None:
    """A client need not know the table to say what is wrong."""
    peer.say(batch((1, PUT, b""), (2, 99, b""), (3, PUT, b"\xff")))
    found = {call_id: (code, body.decode()) for call_id, code, body in replies(peer, 3)}
    for call_id, code in ((1, ErrorCode.EMPTY_KEY), (2, ErrorCode.UNIMPLEMENTED), (3, ErrorCode.MALFORMED)):
        assert found[call_id] == (code, WIRE_ERRORS[code].text)


def test_a_call_ends_at_its_deadline(node: SoloNode, peer: Peer) -> None:
    """The milliseconds of a call count from its arrival."""
    node.hold()
    peer.say(CallBatch(calls=((1, PUT, 100, put(b"k")),)))
    ((_, code, _),) = replies(peer, 1)
    assert code == ErrorCode.DEADLINE_EXCEEDED


def test_cancelled_calls_are_not_answered(node: SoloNode, peer: Peer) -> None:
    """Their ids may be used again."""
    node.hold()
    peer.say(batch((1, PUT, put(b"k")), (2, PUT, put(b"l"))))
    node.await_asked(2)
    peer.say(CancelCalls(call_ids=(1, 55)), batch((1, RANGE, get(b"l"))))
    node.await_asked(3)
    node.release()
    answers = {call_id: body for call_id, _, body in replies(peer, 2)}
    assert node.core.cancelled == 1
    assert sorted(answers) == [1, 2]
    rpc.RangeResponse.FromString(answers[1])


def test_open_calls_of_a_client_are_bounded_in_number(
    node: SoloNode, peer: Peer, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over the limit is answered at once; another client is not concerned."""
    monkeypatch.setattr(zmq_door, "CALLS_OPEN_MAX", 2)
    node.hold()
    peer.say(batch(*((call_id, PUT, put(b"k")) for call_id in range(3))))
    assert replies(peer, 1) == [
        (2, ErrorCode.TOO_MANY_REQUESTS, WIRE_ERRORS[ErrorCode.TOO_MANY_REQUESTS].text.encode())
    ]
    other = make_peer()
    other.greet()
    other.say(batch((1, PUT, put(b"k"))))
    node.release()
    assert replies(other, 1)[0][1] == 0
    assert len(replies(peer, 2)) == 2
    peer.say(batch((5, PUT, put(b"k"))))
    assert replies(peer, 1)[0][:2] == (5, 0)


def test_open_calls_of_a_client_are_bounded_in_bytes(
    node: SoloNode, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room comes back with every answer, and with every cancelled call."""
    monkeypatch.setattr(zmq_door, "CALL_BYTES_OPEN_MAX", 1000)
    node.hold()
    large = put(b"k", b"x" * 600)
    peer.say(batch((1, PUT, large), (2, PUT, large)))
    assert replies(peer, 1)[0][:2] == (2, ErrorCode.TOO_MANY_REQUESTS)
    peer.say(CancelCalls(call_ids=(1,)), batch((3, PUT, large)))
    node.await_asked(2)
    node.release()
    assert replies(peer, 1)[0][:2] == (3, 0)
    peer.say(batch((4, PUT, large)))
    assert replies(peer, 1)[0][:2] == (4, 0)


def test_a_call_id_in_use_is_not_taken_twice(node: SoloNode, peer: Peer) -> None:
    """The first call keeps its answer."""
    node.hold()
    peer.say(batch((1, PUT, put(b"k")), (1, PUT, put(b"l"))))
    assert replies(peer, 1)[0][:2] == (1, ErrorCode.TOO_MANY_REQUESTS)
    node.release()
    assert replies(peer, 1)[0][:2] == (1, 0)


# --- answers ---------------------------------------------------------------------------------------


def test_many_answers_are_split_into_frames(node: SoloNode, peer: Peer) -> None:
    """No frame holds more than a batch may."""
    node.hold()
    for start in range(0, 2500, 500):
        peer.say(batch(*((call_id, PUT, put(b"k")) for call_id in range(start, start + 500))))
    node.await_asked(2500)
    node.release()
    sizes: list[int] = []
    while sum(sizes) < 2500:
        message = peer.hears()
        assert isinstance(message, ReplyBatch)
        sizes.append(len(message.replies))
    assert max(sizes) <= CALLS_PER_BATCH_MAX
    assert len(sizes) >= 3


def test_answers_are_split_into_frames_by_bytes(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame stays small enough for every client to accept it."""
    monkeypatch.setattr(zmq_door, "REPLY_FRAME_BYTES_MAX", 1000)
    peer.say(batch((1, PUT, put(b"a", b"x" * 800))))
    replies(peer, 1)
    peer.say(batch(*((call_id, RANGE, get(b"a")) for call_id in range(3))))
    frames: list[tuple[tuple[int, int, bytes], ...]] = []
    while sum(map(len, frames)) < 3:
        message = peer.hears()
        assert isinstance(message, ReplyBatch)
        frames.append(message.replies)
    assert [len(frame) for frame in frames] == [1, 1, 1]


@pytest.fixture
def large_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers over 1,000 bytes are large, and a client may be 3,000 bytes behind."""
    monkeypatch.setattr(zmq_door, "REPLY_FRAME_BYTES_MAX", 1000)
    monkeypatch.setattr(zmq_door, "PIECE_BYTES_MAX", 700)
    monkeypatch.setattr(zmq_door, "PIECES_AHEAD_BYTES", 3000)
    monkeypatch.setattr(zmq_door, "OUTBOX_BYTES_MAX", 100_000)


class Taker:
    """A client that puts pieces together and says what it took when it is told to."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.bytes_taken = 0
        self.answers: dict[int, tuple[int, bytes]] = {}
        self._ahead: dict[int, bytes] = {}

    def take(self, timeout_s: float = TIMEOUT_S) -> Message | None:
        """Take the next frame, if one comes in time."""
        if not self.peer.socket.poll(int(timeout_s * 1000)):
            return None
        frame = self.peer.socket.recv()
        self.bytes_taken += len(frame)
        message = codec.decode(frame)
        if isinstance(message, ReplyPiece):
            assert len(message.piece) <= 700
            self._ahead[message.call_id] = self._ahead.get(message.call_id, b"") + message.piece
        else:
            assert isinstance(message, ReplyBatch)
            for call_id, code, body in message.replies:
                self.answers[call_id] = (code, self._ahead.pop(call_id, b"") + body)
        return message

    def credit(self) -> None:
        """Say what was taken."""
        self.peer.say(RepliesTaken(bytes_taken=self.bytes_taken))


@pytest.mark.usefixtures("large_answers")
def test_large_answers_come_in_pieces_as_the_client_takes_them(node: SoloNode, peer: Peer) -> None:
    """No more is sent than the client keeps up with, small answers pass, and each is put together to what it was."""
    taker = Taker(peer)
    peer.say(batch((1, PUT, put(b"a", b"x" * 50_000)), (2, PUT, put(b"b", b"y" * 2_000)), (3, PUT, put(b"c"))))
    while len(taker.answers) < 3:
        taker.take()
    peer.say(batch((4, RANGE, get(b"a")), (5, RANGE, get(b"b"))))
    while taker.take(0.2) is not None:
        pass
    assert 4 not in taker.answers
    peer.say(batch((6, RANGE, get(b"c"))))
    while 6 not in taker.answers:
        taker.take()
    assert 4 not in taker.answers
    assert not node.on_loop(lambda: node.door.idle)
    while len(taker.answers) < 6:
        taker.credit()
        taker.take()
    values = [rpc.RangeResponse.FromString(taker.answers[call_id][1]).kvs[0].value for call_id in (4, 5, 6)]
    assert values == [b"x" * 50_000, b"y" * 2_000, b"v"]
    assert node.on_loop(lambda: node.door.idle)
    assert node.on_loop(lambda: node.door._held) == 0


@pytest.mark.usefixtures("large_answers")
def test_pieces_that_wait_for_a_client_are_bounded(node: SoloNode, peer: Peer) -> None:
    """What would be over the limit is an error at once; what waits already is still sent."""
    taker = Taker(peer)
    peer.say(batch((1, PUT, put(b"a", b"x" * 50_000))))
    taker.take()
    peer.say(batch(*((call_id, RANGE, get(b"a")) for call_id in range(2, 5))))
    while len(taker.answers) < 4:
        taker.take()
        taker.credit()
    codes = [taker.answers[call_id][0] for call_id in (2, 3, 4)]
    assert codes == [0, ErrorCode.RESPONSE_TOO_LARGE, ErrorCode.RESPONSE_TOO_LARGE] or codes[:2] == [0, 0]
    assert node.on_loop(lambda: node.door._held) == 0


@pytest.mark.usefixtures("large_answers")
def test_a_client_that_takes_no_pieces_is_cut_off(node: SoloNode, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer would lie in memory for ever."""
    peer.say(batch((1, PUT, put(b"a", b"x" * 50_000))))
    replies(peer, 1)
    peer.say(batch((2, RANGE, get(b"a"))))
    assert isinstance(peer.hears(), ReplyPiece)
    node.on_loop(node.door._forget_silent)
    assert node.door.clients == 1
    monkeypatch.setattr(zmq_door, "STALLED_CLIENT_S", -1.0)
    node.on_loop(node.door._forget_silent)
    assert node.door.clients == 0
    assert node.core.metrics.counters["actd_client_slow_total"] == 1
    assert node.on_loop(lambda: node.door._held) == 0


def test_a_client_that_does_not_say_what_it_took_is_cut_off(
    node: SoloNode, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are not piled up for it; after a new hello it begins with nothing open."""
    monkeypatch.setattr(zmq_door, "UNREAD_BYTES_MAX", 5000)
    conversation = peer.greet().conversation
    peer.say(batch((1, PUT, put(b"a", b"x" * 3000))))
    replies(peer, 1)
    for call_id in (2, 3):
        peer.say(batch((call_id, RANGE, get(b"a"))))
        replies(peer, 1)
    peer.say(batch((4, RANGE, get(b"a"))))
    wait_until(lambda: node.door.clients == 0, TIMEOUT_S, "it is forgotten")
    assert node.core.metrics.counters["actd_client_slow_total"] == 1
    assert peer.greet().conversation != conversation


def test_a_client_that_says_what_it_took_may_take_any_amount(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credit comes back with every word of it; more than was sent is a fault."""
    monkeypatch.setattr(zmq_door, "UNREAD_BYTES_MAX", 5000)
    peer.say(batch((1, PUT, put(b"a", b"x" * 3000))))
    taken = 0
    for call_id in range(2, 12):
        frame = peer.socket.recv()
        assert isinstance(codec.decode(frame), ReplyBatch)
        taken += len(frame)
        peer.say(RepliesTaken(bytes_taken=taken), batch((call_id, RANGE, get(b"a"))))
    replies(peer, 1)
    peer.say(RepliesTaken(bytes_taken=1 << 40))
    assert refused(peer).code == "malformed"


def test_unread_answers_are_bounded_over_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """When many hold back a little, those who hold back most are cut off, and others are served."""
    monkeypatch.setattr(zmq_door, "TAKEN_STEP_BYTES", 1000)
    node = SoloNode(request_bytes_max=1 << 20, pending_bytes_max=1 << 20).start()
    lazy, other = Peer(node.endpoint), Peer(node.endpoint)
    try:
        lazy.greet()
        other.greet()
        lazy.say(batch((1, PUT, put(b"a", b"x" * 600_000))))
        replies(lazy, 1)
        for call_id in (2, 3):
            lazy.say(batch((call_id, RANGE, get(b"a"))))
            replies(lazy, 1)
        lazy.say(batch((4, RANGE, get(b"a"))))
        wait_until(lambda: node.door.clients == 1, TIMEOUT_S, "the lazy one is forgotten")
        other.say(batch((1, RANGE, get(b"none"))))
        assert replies(other, 1)[0][1] == 0
    finally:
        lazy.close()
        other.close()
        node.close()


# --- strangers -------------------------------------------------------------------------------------


def hostile_frames() -> dict[str, bytes]:
    """What no client sends, by what is wrong with it."""
    thousand = b"\xdc\x03\xe8"
    nested = thousand + (thousand + (thousand + b"\0" * 1000) * 8)
    return {
        "nothing": b"",
        "random bytes": os.urandom(1000),
        "half a message": codec.encode(batch((1, PUT, put(b"k"))))[:-3],
        "an unknown kind": msgpack.packb(("Nonsense", {})),
        "a kind of the node's own": codec.encode(StopActor()),
        "a kind of the door's own": codec.encode(ReplyBatch(replies=())),
        "an unknown field": msgpack.packb(("CancelCalls", {"call_ids": [], "more": 1})),
        "a field of the wrong type": msgpack.packb(("CancelCalls", {"call_ids": ["x"]})),
        "a number as text": msgpack.packb(
            ("OpenStream", {"call_id": "9" * 60, "method": 1, "require_leader": False, "messages": []})
        ),
        "a call named by text": msgpack.packb(("CallBatch", {"calls": [["9" * 60, 0, 0, b""]]})),
        "too many calls": codec.encode(batch(*((call_id, PUT, b"") for call_id in range(CALLS_PER_BATCH_MAX + 1)))),
        "a million tiny items": msgpack.packb(("CallBatch", {"calls": [None] * 1_000_000})),
        "arrays in arrays": b"\x92\xa9CallBatch\x81\xa5calls" + nested,
        "a map without end": b"\x92\xa9CallBatch\xdf\xff\xff\xff\xff",
        "a very deep array": b"\x91" * 100_000,
    }


@pytest.mark.parametrize("wrong", list(hostile_frames()))
def test_frames_that_make_no_sense_are_refused_and_hurt_nobody(node: SoloNode, peer: Peer, wrong: str) -> None:
    """They are counted and answered; the sender's own next call is served as ever."""
    peer.socket.send(hostile_frames()[wrong])
    assert refused(peer).code == "malformed"
    assert node.core.metrics.counters["actd_client_faults_total"] == 1
    peer.say(batch((1, PUT, put(b"k"))))
    assert replies(peer, 1)[0][1] == 0


def test_messages_of_several_frames_are_refused(peer: Peer) -> None:
    """A message is one frame; a delimiter as REQ sockets send it is one too many."""
    peer.socket.send_multipart([b"", codec.encode(batch((1, PUT, put(b"k"))))])
    assert "2 frames" in refused(peer).reason


def test_a_frame_over_the_limit_ends_the_connection_and_nothing_else(node: SoloNode, make_peer: MakePeer) -> None:
    """It is not even read; the others go on, and so does the sender once it says hello again."""
    other, careless = make_peer(), make_peer()
    other.greet()
    first = careless.greet()
    careless.socket.send(b"x" * (CLIENT_MESSAGE_BYTES_MAX + 1))
    other.say(batch((1, PUT, put(b"k"))))
    assert replies(other, 1)[0][1] == 0
    wait_until(lambda: careless.greet().conversation != first.conversation, TIMEOUT_S, "a new connection")
    assert "actd_client_faults_total" not in node.core.metrics.counters


def test_raw_bytes_on_the_port_hurt_nobody(node: SoloNode, peer: Peer) -> None:
    """What is not even ZeroMQ is dropped by the transport."""
    stream: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.STREAM)
    try:
        stream.setsockopt(zmq.LINGER, 0)
        stream.connect(node.endpoint)
        route = stream.recv_multipart()[0]
        stream.send_multipart([route, b"GET / HTTP/1.1\r\n\r\n"])
        peer.say(batch((1, PUT, put(b"k"))))
        assert replies(peer, 1)[0][1] == 0
    finally:
        stream.close()


def test_a_client_that_is_gone_is_forgotten_with_its_calls(node: SoloNode, make_peer: MakePeer) -> None:
    """The first answer that finds no one tells the door; what else it had open is cancelled."""
    gone = make_peer()
    gone.greet()
    node.hold()
    gone.say(CallBatch(calls=((1, PUT, 200, put(b"k")), (2, PUT, 60_000, put(b"l")))))
    node.await_asked(2)
    gone.close()
    wait_until(lambda: node.door.clients == 0, TIMEOUT_S, "the door notices")
    assert node.core.cancelled == 1
    assert node.door.idle


def test_a_silent_client_is_forgotten_in_time(
    node: SoloNode, peer: Peer, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has calls open is not silent."""
    waiting = make_peer()
    waiting.greet()
    node.hold()
    waiting.say(batch((1, PUT, put(b"k"))))
    node.await_asked(1)
    monkeypatch.setattr(zmq_door, "SILENT_CLIENT_S", -1.0)
    node.on_loop(node.door._forget_silent)
    assert node.door.clients == 1
    peer.say(batch((1, PUT, put(b"k"))))
    assert refused(peer).code == "hello_first"


# --- the end ---------------------------------------------------------------------------------------


def test_a_draining_door_answers_what_is_open_and_begins_nothing(node: SoloNode, peer: Peer) -> None:
    """New calls are refused as not begun, new clients sent on; open calls get their answer."""
    node.hold()
    peer.say(batch((1, PUT, put(b"k"))))
    node.await_asked(1)
    node.drain()
    told = refused(peer)
    assert (told.code, told.call_ids) == ("stopping", ())
    peer.say(batch((2, PUT, put(b"l"))))
    answer = refused(peer)
    assert (answer.code, answer.call_ids) == ("stopping", (2,))
    peer.say(ClientHello(protocol_version=1, client="late", cluster=ClusterId(0)))
    assert refused(peer).code == "stopping"
    node.release()
    assert replies(peer, 1)[0][:2] == (1, 0)
    node.join()


def test_an_address_in_use_is_told_in_words(node: SoloNode) -> None:
    """The loop ends with a reason that names the address."""
    second = SoloNode()
    second.address = node.address
    second.start()
    second.join()
    halt = second.loop._halt
    assert halt is not None
    assert halt.failed
    assert node.address in halt.reason
    second.close()


def test_a_flood_of_calls_is_taken_in_slices(
    node: SoloNode, peer: Peer, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left after a slice is taken in the next turn, behind others; nothing is lost."""
    monkeypatch.setattr(zmq_door, "SLICE_MS_MAX", 0)
    for start in range(0, 200, 2):
        peer.say(batch((start, PUT, put(b"%d" % start)), (start + 1, RANGE, get(b"0"))))
    other = make_peer()
    other.greet()
    assert sorted(call_id for call_id, code, _ in replies(peer, 200) if not code) == list(range(200))
    assert node.store.revision == 101
