"""Links inside a node lose nothing unnoticed; links between nodes drop, count and refuse."""

import struct
from pathlib import Path
from typing import Any

import pytest
import zmq
from clusters import free_ports, wait_until
from zmq_sockets import Context

from actors.links import (
    PACKET_BYTES_MAX,
    RECEIVED_BYTES_PER_TURN_MAX,
    LinkBroken,
    LocalLinks,
    PeerDoor,
    PeerLinks,
    local_address,
    pack_packet,
)
from actors.metrics import ActorMetrics
from protocol.errors import StartRefused
from protocol.identity import NodeIdentity
from protocol.peer import PEER_WIRE_VERSION, PeerHeader
from protocol.types import ClusterId, Incarnation, MemberId, StoreId

WAIT_MS = 10_000
ONE, TWO = MemberId(0x11), MemberId(0x22)


def identity(member: MemberId, cluster: int = 5) -> NodeIdentity:
    """A member of a cluster."""
    return NodeIdentity(ClusterId(cluster), member, f"n{member}", StoreId(3), Incarnation(1), ())


@pytest.fixture
def raft(context: Context, node_dir: Path) -> LocalLinks:
    """The receiving side."""
    assert (node_dir / "run").is_dir(), "links are made where their sockets may lie"
    return LocalLinks(context, "raft", Incarnation(1))


def sender(context: Context, incarnation: int, actor: str = "wal") -> LocalLinks:
    """Another actor with a link to raft."""
    links = LocalLinks(context, actor, Incarnation(incarnation))
    links.connect("raft", Incarnation(1))
    return links


def receive(links: LocalLinks, count: int = 1) -> list[tuple[str, list[memoryview]]]:
    """The next `count` packets."""
    arrived: list[tuple[str, list[memoryview]]] = []
    while len(arrived) < count:
        assert links.inbox.poll(WAIT_MS), f"only {arrived} arrived"
        arrived += links.receive()
    return arrived


def test_a_turn_is_one_packet_per_destination(context: Context, raft: LocalLinks) -> None:
    """What is staged in one turn leaves together, in order, under the sender's name."""
    wal = sender(context, 1)
    for body in (b"a", b"b", b"c"):
        wal.stage("raft", body)
    wal.flush()
    wal.stage("raft", b"d")
    wal.flush()
    wal.flush()
    assert receive(raft, 2) == [("wal", [b"a", b"b", b"c"]), ("wal", [b"d"])]
    assert raft.receive() == []


@pytest.mark.usefixtures("node_dir")
def test_what_is_sent_before_the_reader_is_there_arrives(context: Context) -> None:
    """Actors start in any order: nothing said to one that binds later is lost."""
    wal = sender(context, 1)
    for number in range(100):
        wal.stage("raft", b"%d" % number)
        wal.flush()
    raft = LocalLinks(context, "raft", Incarnation(1))
    assert [bodies for _, bodies in receive(raft, 100)] == [[b"%d" % number] for number in range(100)]


def test_nothing_piles_up_for_one_who_was_never_met_or_has_ended(context: Context, raft: LocalLinks) -> None:
    """Words to an unknown or ended actor go nowhere; a successor hears from the first word on."""
    wal = sender(context, 1)
    wal.stage("gateway", b"nobody")
    wal.stage("raft", b"staged for one that ends")
    wal.disconnect("raft")
    wal.stage("raft", b"after the end")
    wal.flush()
    wal.connect("raft", Incarnation(1))
    wal.stage("raft", b"hello")
    wal.flush()
    assert receive(raft) == [("wal", [b"hello"])]


def test_a_gap_is_noticed(context: Context, raft: LocalLinks) -> None:
    """A missing packet ends the link with words, and is never passed over."""
    raw = context.socket(zmq.PUSH)
    raw.connect(local_address("raft", Incarnation(1)))
    head = struct.Struct(">QQ24s")
    raw.send(pack_packet(head.pack(1, 1, b"wal"), [b"first"]))
    assert receive(raft) == [("wal", [b"first"])]
    raw.send(pack_packet(head.pack(3, 1, b"wal"), [b"third"]))
    assert raft.inbox.poll(WAIT_MS)
    with pytest.raises(LinkBroken, match="from wal: packet 3 after 1"):
        raft.receive()


def test_a_first_packet_that_is_not_the_first_is_a_gap(context: Context, raft: LocalLinks) -> None:
    """A reader on a dead reader's path is handed the rest with a gap: that too is noticed."""
    raw = context.socket(zmq.PUSH)
    raw.connect(local_address("raft", Incarnation(1)))
    raw.send(pack_packet(struct.pack(">QQ24s", 2, 1, b"wal"), [b"second"]))
    assert raft.inbox.poll(WAIT_MS)
    with pytest.raises(LinkBroken, match="packet 2 after 0"):
        raft.receive()


def test_a_new_life_of_a_sender_starts_anew_and_silences_the_old(context: Context, raft: LocalLinks) -> None:
    """After the first word of incarnation 9, nothing of incarnation 4 is heard any more."""
    old, new = sender(context, 4, "gateway"), sender(context, 9, "gateway")
    old.stage("raft", b"old 1")
    old.flush()
    assert receive(raft) == [("gateway", [b"old 1"])]
    new.stage("raft", b"new 1")
    new.flush()
    assert receive(raft) == [("gateway", [b"new 1"])]
    old.stage("raft", b"old 2")
    old.flush()
    assert raft.inbox.poll(WAIT_MS)
    assert raft.receive() == []
    new.stage("raft", b"new 2")
    new.flush()
    assert receive(raft) == [("gateway", [b"new 2"])]


def test_closing_delivers_last_words_and_removes_the_socket(context: Context, raft: LocalLinks, node_dir: Path) -> None:
    """A drained close loses nothing that was flushed, and leaves no file."""
    wal = sender(context, 1)
    assert sorted(path.name for path in (node_dir / "run").iterdir()) == ["raft.1", "wal.1"]
    for number in range(1000):
        wal.stage("raft", b"%04d" % number + b"x" * 1000)
        wal.flush()
    wal.close(drain=True)
    assert len(receive(raft, 1000)) == 1000
    raft.close(drain=False)
    assert list((node_dir / "run").iterdir()) == []


# --- between nodes -----------------------------------------------------------------------------------


class Neighbour:
    """One member's door and another's links to it."""

    def __init__(self, context: Context, host: str = "127.0.0.1") -> None:
        self.address = f"tcp://{host}:{free_ports(1)[0]}"
        self.door_metrics, self.link_metrics = ActorMetrics(), ActorMetrics()
        self.door = PeerDoor(context, identity(TWO), self.address, self.door_metrics)
        self.links = PeerLinks(context, identity(ONE), {ONE: "", TWO: self.address}, self.link_metrics)

    def say(self, *bodies: bytes, bulk: bool = False, actor: str = "raft") -> None:
        """Send until the link takes it: it drops what comes before it is connected."""
        label = f'etcd_network_peer_sent_bytes_total{{To="{TWO:x}"}}'
        before = self.link_metrics.counters.get(label, 0)

        def left() -> bool:
            for body in bodies:
                self.links.stage(TWO, body, bulk=bulk, actor=actor)
            self.links.flush()
            return self.link_metrics.counters.get(label, 0) > before

        wait_until(left, 10, "a frame leaves")

    def heard(self) -> list[tuple[PeerHeader, list[memoryview]]]:
        """What arrives next."""
        assert self.door.inbox.poll(WAIT_MS), "nothing arrived"
        return self.door.receive()


def test_frames_say_who_speaks(context: Context) -> None:
    """A peer's frames arrive together, with cluster, member, store and incarnation of the sender."""
    neighbour = Neighbour(context)
    neighbour.say(b"vote", b"beat", actor="snapshot_receiver")
    [(header, bodies)] = neighbour.heard()
    assert bodies == [b"vote", b"beat"]
    assert header == PeerHeader(
        PEER_WIRE_VERSION, ClusterId(5), ONE, TWO, StoreId(3), Incarnation(1), "snapshot_receiver"
    )
    assert neighbour.door_metrics.counters[f'etcd_network_peer_received_bytes_total{{From="{ONE:x}"}}'] == len(
        pack_packet(header.pack(), bodies)
    )


def test_peers_meet_over_ipv6(context: Context) -> None:
    """The loopback of IPv6 serves as well."""
    try:
        neighbour = Neighbour(context, "[::1]")
    except StartRefused:
        pytest.skip("this machine has no IPv6 loopback")
    neighbour.say(b"hello")
    assert neighbour.heard()[0][1] == [b"hello"]


def test_what_an_absent_peer_does_not_take_is_dropped_and_counted(context: Context) -> None:
    """Nothing waits for a member that is not there; nothing is sent to one we do not know."""
    metrics = ActorMetrics()
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    links = PeerLinks(context, identity(ONE), {ONE: "", TWO: address}, metrics)
    links.connect_all()
    for _ in range(5):
        links.stage(TWO, b"x", bulk=False, actor="raft")
        links.flush()
    links.stage(MemberId(0x99), b"x", bulk=False, actor="raft")
    links.flush()
    assert metrics.counters == {f'etcd_network_peer_sent_failures_total{{To="{TWO:x}"}}': 5}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cluster": ClusterId(6)}, "you belong to cluster 6, this is 5"),
        ({"receiver": MemberId(0x33)}, "you look for member 33, this is 22"),
        ({"sender": TWO}, "member 22 runs twice"),
        ({"version": PEER_WIRE_VERSION + 1}, f"this node speaks {PEER_WIRE_VERSION}"),
    ],
)
def test_strangers_are_refused_with_the_reason(context: Context, change: dict[str, Any], told: str) -> None:
    """Another cluster, a wrong address, a doubled member, another version: dropped, counted, and told why."""
    neighbour = Neighbour(context)
    header = PeerHeader(PEER_WIRE_VERSION, ClusterId(5), ONE, TWO, StoreId(3), Incarnation(1), "raft")
    stranger = context.socket(zmq.PUSH)
    stranger.connect(neighbour.address)
    stranger.send(pack_packet(header._replace(**change).pack(), [b"vote"]))
    assert neighbour.heard() == []
    [(member, reason)] = neighbour.door.refused
    assert member == change.get("sender", ONE)
    assert told in reason
    assert neighbour.door_metrics.counters == {"actd_peer_refused_total": 1}


@pytest.mark.parametrize("head", [b"", b"x" * 68, b"actp"])
def test_noise_is_counted_and_dropped(context: Context, head: bytes) -> None:
    """Frames without a header of ours harm nothing, and the next good one is heard."""
    neighbour = Neighbour(context)
    noise = context.socket(zmq.PUSH)
    noise.connect(neighbour.address)
    noise.send(head)
    assert neighbour.heard() == []
    assert neighbour.door_metrics.counters == {"actd_peer_faults_total": 1}
    neighbour.say(b"hello", bulk=True)
    assert neighbour.heard()[0][1] == [b"hello"]


def test_an_address_in_use_is_named(context: Context) -> None:
    """Two nodes cannot listen on one peer address, and the second one says which."""
    neighbour = Neighbour(context)
    with pytest.raises(StartRefused, match=rf"peer address {neighbour.address}: Address already in use"):
        PeerDoor(context, identity(TWO), neighbour.address, ActorMetrics())


def test_large_bodies_of_a_turn_have_packets_of_their_own(context: Context, raft: LocalLinks) -> None:
    """What a receiver copies in one go is bounded, and so is what it takes in one turn; nothing is lost."""
    wal = sender(context, 1)
    bodies = [bytes([number]) * (700_000 if number % 3 else 10) for number in range(24)]
    for body in bodies:
        wal.stage("raft", body)
    wal.flush()
    turns: list[int] = []
    arrived: list[bytes] = []
    while len(arrived) < len(bodies):
        assert raft.pending or raft.inbox.poll(WAIT_MS)
        packets = raft.receive()
        sizes = [sum(map(len, packet)) for _, packet in packets]
        assert max(sizes, default=0) <= PACKET_BYTES_MAX
        turns.append(sum(sizes))
        arrived += [bytes(body) for _, packet in packets for body in packet]
    assert arrived == bodies
    assert max(turns) <= RECEIVED_BYTES_PER_TURN_MAX + PACKET_BYTES_MAX


def test_links_follow_members_to_new_addresses_and_remember_former_ones(context: Context) -> None:
    """A new member is reached, a moved one at its new address, and one that was removed until its address is reused."""
    first, second = Neighbour(context), Neighbour(context)
    links = first.links = PeerLinks(context, identity(ONE), {}, first.link_metrics, lambda url: f"tcp://{url}")
    here, there = first.address.removeprefix("tcp://"), second.address.removeprefix("tcp://")
    links.know({TWO: here})
    first.say(b"here")
    assert first.heard()[0][1] == [b"here"]
    links.know({TWO: there})
    first.say(b"there")
    assert second.heard()[0][1] == [b"there"]
    links.know({})
    first.say(b"farewell")
    assert second.heard()[0][1] == [b"farewell"]
    links.know({MemberId(0x77): there})
    before = dict(first.link_metrics.counters)
    links.stage(TWO, b"x", bulk=False, actor="raft")
    links.flush()
    assert first.link_metrics.counters == before, "another member lives there now"


def test_a_question_of_one_who_does_not_know_who_it_is_comes_in(context: Context) -> None:
    """Under a head that names neither cluster nor members, and under no other."""
    neighbour = Neighbour(context)
    nowhere = PeerHeader(PEER_WIRE_VERSION, ClusterId(0), MemberId(0), MemberId(0), StoreId(0), Incarnation(0), "raft")
    newcomer = context.socket(zmq.PUSH)
    newcomer.connect(neighbour.address)
    newcomer.send(pack_packet(nowhere._replace(sender=ONE).pack(), [b"x"]))
    assert neighbour.heard() == []
    newcomer.send(pack_packet(nowhere.pack(), [b"who am I?"]))
    assert neighbour.heard() == [(nowhere, [b"who am I?"])]
