"""How a new node asks who it is: the question, what is believed, and when it gives up."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from actors.curve import PEERS, Context, Curve, make_keys, open_curve
from actors.joining import Joined, ask_in_a_process, ask_members
from actors.links import bodies_of, pack_packet
from actors.metrics import ActorMetrics
from chaos.host import free_ports
from protocol import codec, peer
from protocol.addresses import parse_listen_url
from protocol.curve_keys import key_file_text
from protocol.errors import StartRefused
from protocol.identity import Founding, FoundingMember
from protocol.membership import MemberView
from protocol.peer import PEER_HEADER_BYTES, PEER_WIRE_VERSION, PeerHeader, from_stranger
from protocol.security import CurveConfig
from protocol.types import ClusterId, Incarnation, MemberId, StoreId

NEW, OLD = MemberId(7), MemberId(1)


class OldMember:
    """A member's peer port that answers each question with what it was told to."""

    def __init__(
        self, answers: list[tuple[PeerHeader, peer.ClusterDescribed]], keys: CurveConfig | None = None
    ) -> None:
        self._keys = keys or CurveConfig()
        here, there = free_ports(2)
        self.url, self.newcomer = f"http://127.0.0.1:{here}", f"http://127.0.0.1:{there}"
        self.asked: list[tuple[str, ...]] = []
        self._answers = answers
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._curve = self._secure(self._context)
        self._inbox = self._context.socket(zmq.PULL)
        if self._curve is not None:
            self._curve.secure_door(self._inbox, PEERS)
        self._inbox.bind(f"tcp://127.0.0.1:{here}")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _secure(self, context: Context) -> Curve | None:
        return open_curve(self._keys, context, ActorMetrics(), "raft", {})

    def _serve(self) -> None:
        outbox = self._context.socket(zmq.PUSH)
        newcomer = self.newcomer.replace("http", "tcp")
        if self._curve is not None:
            assert self._curve.secure_link(outbox, newcomer, bool)
        outbox.connect(newcomer)
        while not self._stop.is_set():
            if self._inbox.poll(50):
                packet = self._inbox.recv()
                assert from_stranger(PeerHeader.unpack(packet[:PEER_HEADER_BYTES]))
                (body,) = bodies_of(packet, PEER_HEADER_BYTES)
                question = codec.decode(body, peer.STRANGER_KINDS)
                assert isinstance(question, peer.JoinAsked)
                self.asked.append(question.peer_urls)
                for header, described in self._answers:
                    outbox.send(pack_packet(header.pack(), [codec.encode(described)]))
        outbox.close(linger=0)
        self._inbox.close(linger=0)

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        if self._curve is not None:
            self._curve.close()
        self._context.term()

    def ask(self, patience_s: float = 10.0) -> Joined:
        """Ask as a newcomer would."""
        listener = parse_listen_url(self.newcomer)
        dial = lambda url: url.replace("http", "tcp")  # noqa: E731 - loopback URLs and nothing else
        return ask_members((self.newcomer,), [listener], [self.url], dial, patience_s, self._secure)


def head(actor: str = "joiner", version: int = PEER_WIRE_VERSION) -> PeerHeader:
    """The head of an answer."""
    return PeerHeader(version, ClusterId(9), OLD, NEW, StoreId(3), Incarnation(2), actor)


VIEWS = (
    MemberView(OLD, "old", ("http://o:1",), ("http://o:2",), is_learner=False),
    MemberView(NEW, "", ("http://n:1",), (), is_learner=False),
)
DESCRIBED = peer.ClusterDescribed(members=VIEWS, refusal="")


@pytest.fixture
def member(request: pytest.FixtureRequest) -> Iterator[OldMember]:
    """A member that gives the answers of the parameter."""
    made = OldMember(request.param)
    yield made
    made.close()


@pytest.mark.parametrize(
    "member", [[(head("raft"), DESCRIBED), (head(version=1), DESCRIBED), (head(), DESCRIBED)]], indirect=True
)
def test_a_newcomer_learns_its_cluster_and_its_id_and_begins_as_a_learner(member: OldMember) -> None:
    """What is not addressed to a newcomer is passed over: the leader's first appends come here as well."""
    joined = member.ask()
    assert member.asked[0] == (member.newcomer,)
    assert (joined.founding.cluster, joined.member) == (9, NEW)
    assert [founder.is_learner for founder in joined.founding.founders] == [False, True]
    assert [founder.promised for founder in joined.founding.founders] == [False, True]
    again = Joined.unpack(joined.pack())
    assert (again.founding, again.member) == (joined.founding, joined.member)


def test_a_newcomer_with_keys_joins_under_curve(tmp_path: Path) -> None:
    """Question and answer travel encrypted, between nodes that know each other's keys."""
    secret = tmp_path / "all.key_secret"
    secret.write_bytes(key_file_text(make_keys(), secret=True))
    member = OldMember([(head(), DESCRIBED)], CurveConfig(secret_key_file=str(secret)))
    try:
        assert member.ask().member == NEW
    finally:
        member.close()


@pytest.mark.parametrize(
    "member", [[(head(), peer.ClusterDescribed(members=VIEWS, refusal="it was wiped"))]], indirect=True
)
def test_a_refusal_is_final(member: OldMember) -> None:
    """The node must not start; the words are the member's."""
    with pytest.raises(StartRefused, match="it was wiped"):
        member.ask()


@pytest.mark.parametrize("member", [[]], indirect=True)
def test_without_an_answer_the_operator_is_told_what_to_do(member: OldMember) -> None:
    """Silence means that nobody added this node, or cannot reach it."""
    with pytest.raises(StartRefused, match="member add"):
        member.ask(patience_s=0.5)
    assert member.asked


def test_the_question_is_asked_by_a_process_of_its_own() -> None:
    """Answers and refusals come back whole; a stop ends the asking."""
    founder = FoundingMember(OLD, "old", ("http://o:1",), ())
    joined = Joined(Founding(ClusterId(9), (founder,)), NEW)
    assert ask_in_a_process(lambda: joined, lambda: False).founding == joined.founding

    def refused() -> Joined:
        raise StartRefused("no")

    with pytest.raises(StartRefused, match="no"):
        ask_in_a_process(refused, lambda: False)
    forever = threading.Event()
    with pytest.raises(StartRefused, match="stopped"):
        ask_in_a_process(lambda: [forever.wait(), joined][1], lambda: True)  # type: ignore[return-value, list-item]
