"""The raft actor, with messages in and effects out: what it translates, what it orders, what it tells whom."""

import random
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from actors.actor import Source
from actors.effects import Effect, Halt, Send, SendPeer, SpawnHelper
from actors.raft import Phase, RaftActor
from protocol import codec, local, peer
from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.identity import FoundingMember, NodeIdentity
from protocol.message import Message
from protocol.types import (
    LOG_START,
    NOBODY,
    ClusterId,
    Entry,
    EntryKind,
    HardState,
    Incarnation,
    Index,
    LogMark,
    LogPosition,
    MemberId,
    Millis,
    Revision,
    StoreId,
    Term,
)
from raft.configuration import founding_configuration

N1, N2, N3 = MemberId(1), MemberId(2), MemberId(3)
STORES = {N1: StoreId(101), N2: StoreId(102), N3: StoreId(103)}
NO_MARK = LogMark(Index(0), Term(0), b"", "")
M = TypeVar("M", bound=Message)


class Desk:
    """One actor, what it asked for, and a disk and an applier that answer at once when told to."""

    def __init__(self, size: int = 3, config: RaftConfig | None = None) -> None:
        self.config = config or RaftConfig()
        founders = tuple(
            FoundingMember(MemberId(each), f"n{each}", (f"http://n{each}:2380",), (f"http://n{each}:2379",))
            for each in range(1, size + 1)
        )
        self.founders = founders
        identity = NodeIdentity(ClusterId(9), N1, "n1", STORES[N1], Incarnation(4), founders)
        self.actor = RaftActor(identity, self.config, random.Random(1))
        self.now = Millis(5000)
        self.effects: list[Effect] = []
        self.take(self.actor.start(self.now))

    # --- driving -----------------------------------------------------------------------------------

    def take(self, effects: list[Effect]) -> None:
        """Collect effects, as encoded bytes would arrive."""
        for effect in effects:
            if isinstance(effect, Send):
                effect = Send(effect.to, codec.decode(codec.encode(effect.message)))
            self.effects.append(effect)

    def turn(self, *messages: Message, sender: MemberId = NOBODY, store: StoreId | None = None) -> None:
        """Hand over messages and end the turn."""
        for message in messages:
            source = Source("raft", sender, STORES.get(sender, StoreId(0)) if store is None else store)
            self.take(self.actor.handle(message, source, self.now))
        deadline = self.actor.deadline
        if deadline is not None and deadline <= self.now:
            self.take(self.actor.wake(self.now))
        self.take(self.actor.end_turn(self.now))
        self.actor.check_invariants()

    def wait(self, until: Millis | None = None) -> None:
        """Let time pass until the deadline, or `until`."""
        due = self.actor.deadline if until is None else until
        assert due is not None, "nothing to wait for"
        self.now = Millis(max(self.now, due))
        self.turn()

    def open(self, entries: tuple[Entry, ...] = (), mark: LogMark = NO_MARK, **state: Any) -> None:
        """Answer the questions of a start."""
        hard_state = HardState(state.get("term", Term(0)), NOBODY, state.get("commit", Index(0)))
        self.turn(local.LogRecovered(mark=mark, hard_state=hard_state, entries=entries, final=True))
        self.turn(local.StoreOpened(applied=state.get("applied", mark.index), revision=Revision(1)))

    def persist(self) -> None:
        """The disk has finished everything it was given."""
        writes = self.sent(local.PersistEntries)
        if writes:
            self.turn(local.EntriesPersisted(ticket=writes[-1].ticket, last=writes[-1].last))

    def apply(self) -> None:
        """The applier has done everything it was given."""
        core = self.actor.core
        if core is not None and core.handed > core.applied:
            self.turn(local.EntriesApplied(applied=core.handed))

    def lead(self) -> None:
        """Win an election with the vote of member 2."""
        self.wait()
        core = self.actor.core
        assert core is not None
        asked = Term(core.term + 1)
        self.turn(
            peer.RequestVoteReply(term=core.term, asked=asked, granted=True, pre_vote=True), sender=N2, store=StoreId(0)
        )
        self.persist()
        self.turn(
            peer.RequestVoteReply(term=asked, asked=asked, granted=True, pre_vote=False), sender=N2, store=StoreId(0)
        )
        self.persist()
        assert core.leading is not None, "it was elected"
        self.acknowledge_all()

    def acknowledge_all(self, *followers: MemberId) -> None:
        """Followers have everything on disk."""
        core = self.actor.core
        assert core is not None
        for follower in followers or (N2, N3):
            reply = peer.AppendEntriesReply(
                term=core.term, matched=core.log.last.index, rejected=False, conflict=LOG_START
            )
            self.turn(reply, sender=follower, store=StoreId(0))

    def follow(self, term: int = 1) -> None:
        """Hear member 2 as leader."""
        self.turn(peer.Heartbeat(term=Term(term), commit=Index(0), round=0), sender=N2)
        self.persist()

    # --- looking -----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Look only at what comes from here on."""
        self.effects = []

    def sent(self, kind: type[M], to: str | None = None) -> list[M]:
        """Messages of this kind to actors of this node."""
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, Send) and isinstance(effect.message, kind) and to in (None, effect.to)
        ]

    def to_peers(self, kind: type[M]) -> list[tuple[MemberId, M]]:
        """Messages of this kind to other members, sent at once."""
        found = []
        for effect in self.effects:
            if isinstance(effect, SendPeer):
                message = codec.decode(effect.body)
                if isinstance(message, kind):
                    found.append((effect.to, message))
        return found

    def halts(self) -> list[Halt]:
        """Why it ended."""
        return [effect for effect in self.effects if isinstance(effect, Halt)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Member 1 of three, started empty; all invariants hold when the test ends."""
    desk = Desk()
    desk.open()
    yield desk
    desk.actor.check_invariants()


# --- starting --------------------------------------------------------------------------------------


def test_start_reads_the_log_then_opens_the_store() -> None:
    """The log is read first, then the store is opened with the log's mark, then it runs."""
    desk = Desk()
    assert desk.sent(local.RecoverLog, "wal")
    mark = LogMark(Index(3), Term(1), founding_configuration(desk.founders).encode(), "")
    first = Entry(Term(1), Index(4), EntryKind.NOOP, b"")
    desk.turn(local.LogRecovered(mark=mark, hard_state=HardState(Term(1), N1, Index(3)), entries=(first,), final=False))
    assert not desk.sent(local.OpenStore)
    assert desk.sent(local.RecoverLog, "wal"), "there is more to be told"
    second = Entry(Term(2), Index(5), EntryKind.NOOP, b"")
    desk.turn(local.LogRecovered(mark=mark, hard_state=HardState(Term(2), N1, Index(3)), entries=(second,), final=True))
    assert desk.sent(local.OpenStore, "applier") == [local.OpenStore(mark=mark)]
    desk.turn(local.StoreOpened(applied=Index(4), revision=Revision(7)))

    core = desk.actor.core
    assert desk.actor.phase is Phase.RUNNING
    assert core is not None
    assert (core.term, core.voted_for, core.commit, core.log.last.index) == (2, N1, 4, 5)
    assert [each.leader for each in desk.sent(local.LeadershipChanged, "gateway")] == [NOBODY]


@pytest.mark.parametrize("applied", [2, 6], ids=["before the mark", "behind the log"])
def test_store_that_does_not_fit_the_log_stops_the_node(applied: int) -> None:
    """A store that is behind the log's mark or ahead of its end is not this log's; the node refuses to run."""
    desk = Desk()
    mark = LogMark(Index(3), Term(1), founding_configuration(desk.founders).encode(), "")
    desk.open((Entry(Term(1), Index(4), EntryKind.NOOP, b""),), mark, applied=Index(applied), term=Term(1))
    (halt,) = desk.halts()
    assert halt.failed
    assert halt.fatal
    assert f"applied {applied}" in halt.reason


def test_requests_before_the_start_are_refused() -> None:
    """Until it runs proposals, reads and transfers are refused, peers are not answered."""
    desk = Desk()
    desk.turn(local.ProposeBatch(sequence=1, payload=b""), local.RequestReads(sequence=2, payload=b""))
    desk.turn(local.TransferLeadership(sequence=3, target=N2))
    desk.turn(peer.Heartbeat(term=Term(1), commit=Index(0), round=0), sender=N2)
    assert [(each.sequence, each.code) for each in desk.sent(local.ProposalRefused)] == [(1, ErrorCode.NO_LEADER)]
    assert [(each.sequence, each.code) for each in desk.sent(local.ReadsRefused)] == [(2, ErrorCode.NO_LEADER)]
    assert [each.code for each in desk.sent(local.LeadershipTransferEnded)] == [ErrorCode.NOT_LEADER]
    assert not desk.to_peers(peer.HeartbeatReply)


def test_single_node_leads_at_once() -> None:
    """A node alone elects itself with its first write, without a time-out."""
    desk = Desk(1)
    desk.open()
    before = desk.now
    desk.persist()
    desk.persist()
    assert desk.now == before
    assert desk.actor.core is not None
    assert desk.actor.core.leading is not None
    assert desk.sent(local.LeadershipChanged)[-1].leader == N1


# --- the write path --------------------------------------------------------------------------------


def test_turn_of_a_leader_is_one_write_and_one_append_per_follower(desk: Desk) -> None:
    """Several batches of one turn leave as one write and one append per follower, before any fsync.

    The follower that the quorum does without gets its own a little later.
    """
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.forget()
    desk.turn(*(local.ProposeBatch(sequence=each, payload=b"%d" % each) for each in range(5)))

    (write,) = desk.sent(local.PersistEntries)
    assert [entry.data for entry in write.entries][-5:] == [b"0", b"1", b"2", b"3", b"4"]
    ((first, append),) = desk.to_peers(peer.AppendEntries)
    assert append.entries == write.entries
    desk.wait(Millis(desk.now + desk.config.unattended_delay_ms))
    assert sorted((to, len(each.entries)) for to, each in desk.to_peers(peer.AppendEntries)) == [(N2, 5), (N3, 5)]
    assert first in (N2, N3)


def test_committed_entries_go_to_the_applier_once(desk: Desk) -> None:
    """What is committed and durable here is handed over in order, once."""
    desk.lead()
    desk.persist()
    desk.turn(local.ProposeBatch(sequence=1, payload=b"x"))
    desk.acknowledge_all()
    assert b"x" not in [entry.data for apply in desk.sent(local.ApplyEntries) for entry in apply.entries]
    desk.persist()
    handed = [entry for apply in desk.sent(local.ApplyEntries) for entry in apply.entries]
    assert [entry.index for entry in handed] == list(range(1, handed[-1].index + 1))
    assert [entry.data for entry in handed].count(b"x") == 1


def test_proposal_without_a_leader_is_refused(desk: Desk) -> None:
    """Nobody leads: the gateway is told so, under its own sequence."""
    desk.turn(local.ProposeBatch(sequence=8, payload=b"x"))
    assert [(each.sequence, each.code) for each in desk.sent(local.ProposalRefused)] == [(8, ErrorCode.NO_LEADER)]
    assert desk.actor.metrics.counters["etcd_server_proposals_failed_total"] == 1


def test_follower_forwards_and_passes_the_refusal_on(desk: Desk) -> None:
    """A follower's batch goes to the leader on the bulk link; the refusal comes back under the gateway's sequence."""
    desk.follow()
    desk.turn(local.ProposeBatch(sequence=8, payload=b"x"))
    ((to, forward),) = desk.to_peers(peer.ForwardProposal)
    assert (to, forward.payload) == (N2, b"x")
    reply = peer.ForwardProposalReply(term=Term(1), context=forward.context, code=ErrorCode.TOO_MANY_REQUESTS)
    desk.turn(reply, sender=N2)
    assert [(each.sequence, each.code) for each in desk.sent(local.ProposalRefused)] == [
        (8, ErrorCode.TOO_MANY_REQUESTS)
    ]


def test_acknowledgement_travels_with_the_write(desk: Desk) -> None:
    """A follower's answer is handed to the WAL with the entries, one for all appends of the turn."""
    desk.follow()
    desk.forget()
    for index in (1, 2):
        entry = Entry(Term(1), Index(index), EntryKind.COMMANDS, b"x")
        previous = LogPosition(Term(1 if index > 1 else 0), Index(index - 1))
        append = peer.AppendEntries(term=Term(1), previous=previous, entries=(entry,), commit=Index(0), quiet=False)
        desk.take(desk.actor.handle(append, Source("raft", N2, STORES[N2]), desk.now))
    desk.turn()

    (write,) = desk.sent(local.PersistEntries)
    (held,) = write.outbound
    reply = codec.decode(held.body)
    assert isinstance(reply, peer.AppendEntriesReply)
    assert (held.to, reply.matched, reply.rejected) == (N2, 2, False)
    assert not desk.to_peers(peer.AppendEntriesReply)


def test_senseless_peer_message_is_dropped_and_counted(desk: Desk) -> None:
    """An append with a gap is a fault of its sender: counted, and nothing changes."""
    entry = Entry(Term(1), Index(5), EntryKind.COMMANDS, b"x")
    desk.turn(
        peer.AppendEntries(term=Term(1), previous=LOG_START, entries=(entry,), commit=Index(0), quiet=False), sender=N2
    )
    assert desk.actor.metrics.counters["actd_peer_faults_total"] == 1
    assert not desk.halts()


# --- reads -----------------------------------------------------------------------------------------


def test_read_goes_to_the_applier_behind_the_entries_it_needs(desk: Desk) -> None:
    """A confirmed read is put on the applier's link after the entries committed before it."""
    desk.lead()
    desk.persist()
    desk.turn(local.ProposeBatch(sequence=1, payload=b"x"))
    desk.acknowledge_all()
    desk.forget()
    desk.turn(local.RequestReads(sequence=2, payload=b"r"))
    ((_, heartbeat), _) = desk.to_peers(peer.Heartbeat)
    core = desk.actor.core
    assert core is not None
    desk.turn(peer.HeartbeatReply(term=core.term, round=heartbeat.round), sender=N3)
    assert not desk.sent(local.ServeReads), "the entry is committed but not durable here"
    desk.persist()
    to_applier = [e.message.kind for e in desk.effects if isinstance(e, Send) and e.to == "applier"]
    assert to_applier == ["ApplyEntries", "ServeReads"]


def test_reads_of_a_lost_office_are_refused(desk: Desk) -> None:
    """Reads that were not confirmed when the leader was deposed are refused, before the news of the new leader."""
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.turn(local.RequestReads(sequence=2, payload=b"r"))
    desk.forget()
    desk.turn(peer.Heartbeat(term=Term(9), commit=Index(0), round=0), sender=N3)
    kinds = [effect.message.kind for effect in desk.effects if isinstance(effect, Send) and effect.to == "gateway"]
    assert kinds == ["ReadsRefused", "LeadershipChanged"]
    assert desk.actor.metrics.counters["etcd_server_read_indexes_failed_total"] == 1


# --- what the gateway is told ----------------------------------------------------------------------


def test_gateway_hears_every_change_of_leadership(desk: Desk) -> None:
    """Term and leader are told once each time they change, with the members."""
    desk.follow(1)
    desk.follow(1)
    desk.turn(peer.Heartbeat(term=Term(2), commit=Index(0), round=0), sender=N3)
    told = desk.sent(local.LeadershipChanged)
    assert [(each.term, each.leader) for each in told] == [(0, NOBODY), (1, N2), (2, N3)]
    assert [view.name for view in told[0].members] == ["n1", "n2", "n3"]
    assert desk.actor.metrics.counters["etcd_server_leader_changes_seen_total"] == 2


def test_new_gateway_is_told_and_old_requests_are_forgotten(desk: Desk) -> None:
    """A gateway that started anew hears who leads; what its predecessor asked for is not served."""
    desk.follow()
    desk.turn(local.RequestReads(sequence=2, payload=b"r"))
    ((_, question),) = desk.to_peers(peer.RequestReadIndex)
    desk.forget()
    desk.turn(local.ActorStarted(actor="gateway", incarnation=Incarnation(9)))
    assert [each.leader for each in desk.sent(local.LeadershipChanged)] == [N2]
    desk.turn(peer.ReadIndexReply(term=Term(1), context=question.context, index=Index(0), code=0), sender=N2)
    assert not desk.sent(local.ServeReads)


def test_transfer_is_answered(desk: Desk) -> None:
    """A transfer ends with an answer: success when the target leads, else why not."""
    desk.turn(local.TransferLeadership(sequence=1, target=N2))
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.turn(local.TransferLeadership(sequence=2, target=MemberId(77)))
    desk.turn(local.TransferLeadership(sequence=3, target=N2))
    desk.acknowledge_all()
    assert {to for to, _ in desk.to_peers(peer.TimeoutNow)} == {N2}
    desk.turn(peer.Heartbeat(term=Term(9), commit=Index(0), round=0), sender=N2)
    assert [(each.sequence, each.code) for each in desk.sent(local.LeadershipTransferEnded)] == [
        (1, ErrorCode.NOT_LEADER),
        (2, ErrorCode.BAD_LEADER_TRANSFEREE),
        (3, ErrorCode.OK),
    ]


@pytest.mark.parametrize("stalled", ["gateway", "applier"])
def test_leader_of_an_unwell_node_hands_over(desk: Desk, stalled: str) -> None:
    """When a sibling misses its beats the leader hands over, and the node does not press for office."""
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.turn(local.ActorStalled(actor=stalled, stalled=True))
    core = desk.actor.core
    assert core is not None
    assert core.transfer.target in (N2, N3)
    assert core.reluctant
    desk.turn(local.ActorStalled(actor=stalled, stalled=False))
    assert not core.reluctant


def test_leader_whose_applier_stands_still_hands_over(desk: Desk) -> None:
    """Entries handed over and not applied for an election timeout end the office."""
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    core = desk.actor.core
    assert core is not None
    assert core.handed > core.applied
    for _ in range(12):
        desk.wait()
        for follower in (N2, N3):
            desk.turn(peer.HeartbeatReply(term=core.term, round=0), sender=follower, store=StoreId(0))
        desk.persist()
    assert core.transfer.target != NOBODY


def test_stop_hands_over_first(desk: Desk) -> None:
    """A leader that is stopped names a successor, and ends when it has one."""
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.turn(local.StopActor())
    desk.acknowledge_all()
    assert not desk.halts()
    desk.turn(peer.Heartbeat(term=Term(9), commit=Index(0), round=0), sender=N3)
    assert [halt.failed for halt in desk.halts()] == [False]


def test_stop_of_a_follower_is_immediate(desk: Desk) -> None:
    """A follower just ends."""
    desk.follow()
    desk.turn(local.StopActor())
    assert [halt.reason for halt in desk.halts()] == ["stopped"]
    assert desk.actor.deadline is None


# --- identity --------------------------------------------------------------------------------------


def test_leader_logs_the_data_directories(desk: Desk) -> None:
    """The leader commits its own store id and that of each member it hears, one at a time."""
    desk.lead()
    for _ in range(8):
        desk.persist()
        desk.acknowledge_all()
        core = desk.actor.core
        assert core is not None
        for follower in (N2, N3):
            desk.turn(peer.HeartbeatReply(term=core.term, round=0), sender=follower)
    core = desk.actor.core
    assert core is not None
    assert {member: record.store for member, record in core.configuration.members.items()} == STORES


def test_another_data_directory_is_refused(desk: Desk) -> None:
    """A member that speaks from another directory than the logged one is not heard, and is told why, not too often."""
    test_leader_logs_the_data_directories(desk)
    desk.forget()
    core = desk.actor.core
    assert core is not None
    for _ in range(3):
        desk.turn(peer.Heartbeat(term=Term(50), commit=Index(0), round=0), sender=N2, store=StoreId(999))
    assert core.term < 50
    ((to, refused),) = desk.to_peers(peer.PeerRefused)
    assert to == N2
    assert "wiped or replaced" in refused.reason
    assert desk.actor.metrics.counters["actd_peer_refused_total"] == 3


# --- cuts and snapshots ----------------------------------------------------------------------------


def lead_and_apply(desk: Desk, count: int, *followers: MemberId) -> None:
    """Lead, and commit and apply some entries with these followers; the others have been silent for long."""
    desk.lead()
    desk.persist()
    desk.apply()
    desk.now = Millis(desk.now + desk.config.election_timeout_ms + 100)
    desk.acknowledge_all(*followers)
    for number in range(count):
        desk.turn(local.ProposeBatch(sequence=number, payload=b"x"))
        desk.persist()
        desk.acknowledge_all(*followers)
        desk.apply()


def test_log_is_cut_behind_a_flush() -> None:
    """After enough entries the store is flushed, and the log cut where the flush allows."""
    desk = Desk(config=RaftConfig(snapshot_count=10, catchup_entries=3))
    desk.open()
    lead_and_apply(desk, 12, N2, N3)
    (flush,) = desk.sent(local.FlushStore, "applier")
    desk.turn(local.StoreFlushed(ticket=flush.ticket, durable=Index(12)))
    (cut,) = desk.sent(local.CutLog, "wal")
    assert cut.mark.index == 9
    assert cut.mark.stage == ""
    core = desk.actor.core
    assert core is not None
    assert core.log.first_index == 10


def snapshot_desk() -> Desk:
    """A leader whose follower 3 needs a snapshot."""
    desk = Desk(config=RaftConfig(snapshot_count=5, catchup_entries=0))
    desk.open()
    lead_and_apply(desk, 12, N2)
    desk.turn(local.StoreFlushed(ticket=desk.sent(local.FlushStore)[-1].ticket, durable=Index(12)))
    core = desk.actor.core
    assert core is not None
    assert core.leading is not None
    desk.forget()
    for _ in range(6):
        desk.wait()
        rejection = peer.AppendEntriesReply(
            term=core.term, matched=Index(core.leading.progress[N3].next_index - 1), rejected=True, conflict=LOG_START
        )
        desk.turn(rejection, sender=N3, store=StoreId(0))
        desk.turn(peer.HeartbeatReply(term=core.term, round=0), sender=N2, store=StoreId(0))
    return desk


def test_snapshot_is_built_then_sent_by_a_helper() -> None:
    """A follower behind the cut gets one snapshot: built by the applier, sent by a helper, dropped at the end."""
    desk = snapshot_desk()
    core = desk.actor.core
    assert core is not None
    (build,) = desk.sent(local.BuildSnapshot, "applier")
    desk.turn(local.SnapshotBuilt(name=build.name, index=core.applied, term=core.term))
    (spawn,) = [effect for effect in desk.effects if isinstance(effect, SpawnHelper)]
    assert spawn.helper == "snapshot_sender"
    assert (spawn.arguments["to"], spawn.arguments["index"]) == (N3, core.applied)
    desk.turn(local.SnapshotSendEnded(to=N3, name=build.name, delivered=False))
    assert [each.name for each in desk.sent(local.DropSnapshot, "applier")] == [build.name]
    desk.forget()
    for _ in range(30):
        desk.wait()
        for follower in (N2, N3):
            desk.turn(peer.HeartbeatReply(term=core.term, round=0), sender=follower, store=StoreId(0))
    assert not desk.sent(local.BuildSnapshot), "the helper has not ended, so no other is started"
    desk.turn(local.HelperEnded(helper="snapshot_sender", failure=""))
    assert len(desk.sent(local.BuildSnapshot)) == 1, "tried again"


def test_snapshot_that_could_not_be_built_is_tried_later() -> None:
    """Index 0 says that the applier failed; the follower is not forgotten."""
    desk = snapshot_desk()
    (build,) = desk.sent(local.BuildSnapshot)
    desk.turn(local.SnapshotBuilt(name=build.name, index=Index(0), term=Term(0)))
    assert not [effect for effect in desk.effects if isinstance(effect, SpawnHelper)]
    assert desk.sent(local.DropSnapshot)
    assert desk.actor.deadline is not None


def offer(index: int, *, transfer: int = 1, configuration: bytes | None = None) -> peer.OfferSnapshot:
    """An offered snapshot."""
    founders = Desk().founders
    return peer.OfferSnapshot(
        transfer=transfer,
        name=f"s{transfer}",
        index=Index(index),
        term=Term(1),
        configuration=founding_configuration(founders).encode() if configuration is None else configuration,
        files=(("image", 3, 4),),
    )


def staged(index: int) -> local.SnapshotStaged:
    """A snapshot that is complete on this node's disk."""
    return local.SnapshotStaged(
        stage="s1", index=Index(index), term=Term(1), configuration=offer(index).configuration, sender=N2
    )


def test_install_goes_mark_first_then_store_then_position(desk: Desk) -> None:
    """A staged snapshot: mark on disk, then the swap, then the leader is told; nothing is applied or read meanwhile."""
    desk.follow()
    desk.turn(offer(50), sender=N2)
    (spawn,) = [effect for effect in desk.effects if isinstance(effect, SpawnHelper)]
    assert (spawn.helper, spawn.arguments["sender"], spawn.arguments["index"]) == ("snapshot_receiver", N2, 50)
    desk.turn(staged(50))
    (cut,) = desk.sent(local.CutLog, "wal")
    assert (cut.mark.index, cut.mark.stage) == (50, "s1")
    assert not desk.sent(local.InstallSnapshot)
    entry = Entry(Term(1), Index(51), EntryKind.COMMANDS, b"x")
    desk.turn(
        peer.AppendEntries(
            term=Term(1), previous=LogPosition(Term(1), Index(50)), entries=(entry,), commit=Index(51), quiet=False
        ),
        sender=N2,
    )
    desk.turn(local.RequestReads(sequence=9, payload=b"r"))
    ((_, question),) = desk.to_peers(peer.RequestReadIndex)
    desk.turn(peer.ReadIndexReply(term=Term(1), context=question.context, index=Index(40), code=0), sender=N2)
    desk.turn(local.LogCut(ticket=cut.ticket, mark_index=Index(50)))
    assert [each.stage for each in desk.sent(local.InstallSnapshot, "applier")] == ["s1"]
    desk.persist()
    assert not desk.sent(local.ApplyEntries), "the store is being swapped"
    assert not desk.sent(local.ServeReads), "and a read now would see the old one"
    desk.forget()
    desk.turn(local.SnapshotInstalled(index=Index(50), revision=Revision(9)))
    to_applier = [effect.message.kind for effect in desk.effects if isinstance(effect, Send) and effect.to == "applier"]
    assert to_applier == ["ApplyEntries", "ServeReads"]
    assert [(to, reply.matched) for to, reply in desk.to_peers(peer.AppendEntriesReply)] == [(N2, 51)]


def test_needless_offer_is_refused_with_the_position(desk: Desk) -> None:
    """An offer of what is here already is refused, and the leader told where we stand."""
    desk.follow()
    desk.turn(offer(0), sender=N2)
    refusals = [effect for effect in desk.effects if isinstance(effect, SendPeer) and effect.actor == "snapshot_sender"]
    assert [codec.decode(refusal.body).state for refusal in refusals] == ["refused"]  # type: ignore[attr-defined]
    assert not [effect for effect in desk.effects if isinstance(effect, SpawnHelper)]


def test_one_receiver_at_a_time(desk: Desk) -> None:
    """A repeated offer goes to the running receiver; the leader's other offer ends it; then the next may start."""
    desk.follow()
    desk.turn(offer(50), sender=N2)
    desk.turn(offer(50), sender=N2)
    assert len(desk.sent(peer.OfferSnapshot, "snapshot_receiver")) == 1
    desk.turn(offer(60, transfer=2), sender=N3)
    assert not desk.sent(local.StopActor)
    desk.turn(offer(60, transfer=2), sender=N2)
    assert len(desk.sent(local.StopActor, "snapshot_receiver")) == 1
    desk.turn(local.HelperEnded(helper="snapshot_receiver", failure=""))
    desk.turn(offer(60, transfer=2), sender=N2)
    assert len([effect for effect in desk.effects if isinstance(effect, SpawnHelper)]) == 2


def test_offer_with_a_senseless_configuration_is_a_fault(desk: Desk) -> None:
    """An offer whose configuration cannot be read is dropped and counted, not installed."""
    desk.follow()
    desk.turn(offer(50, configuration=b"\xff"), sender=N2)
    assert desk.actor.metrics.counters["actd_peer_faults_total"] == 1
    assert not [effect for effect in desk.effects if isinstance(effect, SpawnHelper)]


def test_gauges_follow_the_state(desk: Desk) -> None:
    """The gauges say who leads and how far the commit is."""
    gauges = desk.actor.metrics.gauges
    desk.actor.measure()
    assert (gauges["etcd_server_has_leader"], gauges["etcd_server_is_leader"]) == (0, 0)
    desk.lead()
    desk.persist()
    desk.acknowledge_all()
    desk.actor.measure()
    assert (gauges["etcd_server_has_leader"], gauges["etcd_server_is_leader"]) == (1, 1)
    assert gauges["etcd_server_is_learner"] == 0
    assert gauges["etcd_server_proposals_committed_total"] >= 1
    assert "etcd_server_proposals_pending" in gauges
