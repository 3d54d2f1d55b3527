"""Planted bugs of consensus: who may lead, what is committed, what a read may rely on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from plants import CORES, PARTITIONS, RESTLESS_CORES, SLOW_PARTITIONS, Nodes, planted

from actors.actor import Actor
from actors.raft import RaftActor
from gateway.core import GatewayCore
from protocol.config import RaftConfig
from protocol.identity import NodeIdentity
from protocol.peer import AppendEntries, RequestVote
from protocol.types import LogMark, LogPosition, Millis
from raft import core as raft_core
from raft import election, following, membership, quorum, read_index, replication, snapshots
from raft.core import Raft
from raft.transitions import Role
from sim.clients import Call
from sim.core_cluster import CoreCluster, Wire
from sim.network import NetworkWeather
from sim.node import SimNode
from sim.parts import ProductionParts
from sim.run import Options, Report
from sim.trouble import SimulationFailed

CORE = "core safety"
ROUGH = NetworkWeather(delay_us_mean=2000, loss=0.05, duplicate=0.1, late=0.1, late_us_max=300_000, reorder=True)


class _CommitsAlone(ProductionParts):
    """One member believes that it is the whole cluster."""

    def make_raft(self, node: SimNode, identity: NodeIdentity) -> Actor:
        if node.name == "n2":
            alone = tuple(founder for founder in identity.founders if founder.member == identity.member)
            identity = identity._replace(founders=alone)
        return super().make_raft(node, identity)


@planted(
    "a member that believes it is the whole cluster",
    PARTITIONS,
    {"committed is on a majority", "election safety", "state machine safety"},
    4,
)
def commits_alone(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """It elects itself and commits alone."""
    return _CommitsAlone


@planted(
    "two leaders whose proposals are both acknowledged: a leader commits what is on its own disk",
    PARTITIONS,
    {"committed is on a majority", "state machine safety"},
    3,
)
def commits_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked; beside a partition both sides acknowledge."""

    def own_durable(_voters: Any, _outgoing: Any, durable: Any) -> Any:
        return max(durable.values())

    monkeypatch.setattr(replication, "committed_index", own_durable)


class Figure:
    """The schedule of the thesis' figure 3.7, with as many entries as the seed says; `CoreSafety` looks on."""

    name = "the schedule of figure 3.7"

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Five members; the first comes back and finds that its old entry is on a majority now."""
        assert parts is None, "cores have no parts"
        report = Report(seed)
        try:
            self._play(1 + seed % 3)
        except AssertionError as error:
            report.failure = SimulationFailed(CORE, str(error))
        return report

    def _play(self, entries: int) -> None:
        """(a) to (e): the letters of the figure."""
        cluster = CoreCluster(5, config=RaftConfig(append_entries_max=entries))
        cluster.elect(1)
        cluster.isolate(1, 2)  # (a) entries of the first term reach one follower only
        for number in range(entries):
            cluster.propose(1, b"old %d" % number, number + 1)
        cluster.settle()
        cluster.crash(1)
        cluster.heal()  # (b) another leader, which does not have them, writes its own, and nobody hears of it
        _win(cluster, 5, 3, 4)
        cluster.wire.clear()
        cluster.crash(5)
        cluster.restart(1)  # (c) the first leads again; its old entries reach a majority, its no-op does not
        _win(cluster, 1, 2, 3)
        newest = cluster.core(1).term
        _settle_without(cluster, lambda wire: wire.to == 4 or (wire.to == 3 and _takes(cluster, wire, newest)))
        cluster.crash(1)
        cluster.restart(5)  # (d) the other comes back, and may replace them, if nobody has said they are committed
        _win(cluster, 5, 3, 4)
        cluster.restart(1)
        cluster.advance(2000)


def _win(cluster: CoreCluster, number: int, *others: int) -> None:
    """Elect a member that then reaches nobody."""
    member = cluster[number]
    for _ in range(2):  # a first attempt may only tell it the term
        for each in (number, *others):
            cluster.core(each).election_due = Millis(cluster.now + 10 * cluster.config.election_timeout_ms)
            cluster.core(each).heard_leader_at = None
        member.core.election_due = cluster.now
        member.core.tick(cluster.now)
        member.turn()
        _settle_without(cluster, lambda _wire: True, lambda: member.core.role is Role.LEADER)
        if member.core.role is Role.LEADER:
            return
    raise AssertionError(f"{number} was not elected")


def _takes(cluster: CoreCluster, wire: Wire, term: int) -> bool:
    """Whether the receiver would take over an entry of that term."""
    message = wire.message
    assert isinstance(message, AppendEntries), "only appends carry entries"
    return message.entries[-1].term == term and cluster.core(wire.to).log.holds(message.previous)


def _carries_entries(wire: Wire) -> bool:
    return isinstance(wire.message, AppendEntries) and bool(wire.message.entries)


def _settle_without(
    cluster: CoreCluster, lost: Callable[[Wire], bool], done: Callable[[], bool] = lambda: False
) -> None:
    """Deliver and persist until nothing is left, or it is done; some appends are lost."""
    for _ in range(1000):
        while cluster.wire and _carries_entries(cluster.wire[0]) and lost(cluster.wire[0]):
            cluster.wire.pop(0)
        busy = cluster.deliver()
        for member in cluster.members.values():
            if member.up:
                busy = member.persist() or busy
                busy = member.apply() or busy
        if not busy or done():
            return
    raise AssertionError("the cluster does not settle")


@planted("entries of an older term committed by counting", Figure(), CORE, 1)
def counts_old_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a majority holds of an earlier term may still be replaced (thesis, figure 3.7)."""

    def advance_commit(raft: Raft) -> None:
        leading = raft.leading
        assert leading is not None, "only a leader counts"
        durable = {member: progress.matched for member, progress in leading.progress.items()}
        durable[raft.member] = raft.log.durable
        configuration = raft.configuration
        index = quorum.committed_index(configuration.voters, configuration.outgoing, durable)
        if index > raft.commit:
            raft.commit = index
            read_index.own_term_committed(raft)
            membership.committed_as_leader(raft)

    monkeypatch.setattr(replication, "advance_commit", advance_commit)


@planted("a vote for a candidate whose log is shorter", CORES, CORE, 300, first=5)
def votes_for_shorter_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate's log is not compared."""
    honest = election.on_request_vote

    def on_request_vote(raft: Raft, sender: Any, message: Any) -> None:
        assert isinstance(message, RequestVote)
        honest(raft, sender, message.model_copy(update={"last": max(message.last, raft.log.last)}))

    _handle(monkeypatch, "RequestVote", on_request_vote)


def _handle(monkeypatch: pytest.MonkeyPatch, kind: str, handler: Any) -> None:
    monkeypatch.setitem(raft_core._HANDLERS, kind, handler)


@planted(
    "an append that comes late and cuts off what was acknowledged behind it",
    Nodes(rates={"leader_cut": 0.5}, network=ROUGH),
    {
        "becomes live",
        "leader completeness",
        "committed entries stay",
        "no actor raises",
        "last position",
        "committed is on a majority",
        "no actor halts",
    },
    30,
    first=2,
)
def truncates_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower makes its log end where an append ends, although nothing in it differs."""
    honest = following._take_over

    def take_over(raft: Raft, message: AppendEntries) -> None:
        honest(raft, message)
        end = message.previous.index + len(message.entries)
        if message.entries and raft.commit <= end < raft.log.last.index:
            raft.log.truncate(end + 1)
            raft.gate.truncated(end + 1)
            membership.truncated(raft, end + 1)

    monkeypatch.setattr(following, "_take_over", take_over)


@planted("a joint commit by the new half alone", CORES, CORE, 60, first=4)
def commits_by_the_new_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves of a joint configuration must hold an entry (thesis, section 4.3)."""
    honest = quorum.committed_index
    monkeypatch.setattr(replication, "committed_index", lambda voters, _outgoing, durable: honest(voters, (), durable))


@planted("membership changes that overlap", RESTLESS_CORES, CORE, 200, first=16)
def overlaps_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change before the last one is committed makes two majorities that do not meet (thesis, section 4.1)."""
    monkeypatch.setattr(membership, "change_in_flight", lambda _raft: False)


@planted("a snapshot installed without its configuration", CORES, CORE, 20, first=3)
def installs_without_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log and store move on, the membership stays what it was."""
    honest = snapshots.install

    def install(raft: Raft, stage: str, position: LogPosition, _configuration: bytes) -> LogMark | None:
        return honest(raft, stage, position, raft.configuration.encode())

    monkeypatch.setattr(snapshots, "install", install)


# --- reads ------------------------------------------------------------------------------------------


class _ReadsLocally(ProductionParts):
    """Linearizable reads are served without asking the leader."""

    def submit(self, gateway: GatewayCore, call: Call, now: Millis) -> None:
        body = call.request.body
        if call.request.method == "range" and not call.request.serializable:
            object.__setattr__(call.request, "body", body + b"\x38\x01")
        super().submit(gateway, call, now)


PAUSES = Nodes(rates={"partition": 1.0, "clock_skew": 1.0})
STALLS = Nodes(rates={"partition": 1.0, "clock_stall": 1.5, "clock_skew": 1.0})
LAGS = Nodes(
    rates={"bulk_cut": 0.8},
    network=replace(ROUGH, delay_us_mean=60_000, loss=0.0, duplicate=0.5, late=0.4, late_us_max=1_000_000),
)
STALE = {"linearizable reads are fresh", "linearizable"}


@planted("local reads sold as linearizable", SLOW_PARTITIONS, STALE, 24, first=5)
def reads_locally(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """A read of a partitioned member shows less than was acknowledged before it began."""
    return _ReadsLocally


@planted("a lease of reads without a quorum", PAUSES, STALE, 100, first=5)
def reads_by_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has led once serves reads until it hears of another leader."""
    monkeypatch.setattr(read_index, "_confirmed", lambda _raft, _round: True)
    monkeypatch.setattr(replication, "quorum_heard", lambda _raft: True)


@planted("a stale answer to a read's question accepted", LAGS, STALE, 80, first=9)
def accepts_stale_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions have one name, so a late answer to an old one answers the next."""
    honest = read_index.ask

    def ask(raft: Raft) -> None:
        if not raft.reads.questions:
            raft.reads.context = 0
        honest(raft)

    monkeypatch.setattr(read_index, "ask", ask)


@planted("a read confirmed by a round that began before it", STALLS, STALE, 200, first=17)
def confirms_by_old_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer of this term counts, however old (etcd#20418)."""
    honest = read_index._confirmed
    monkeypatch.setattr(read_index, "_confirmed", lambda raft, _round: honest(raft, 1))


# --- who is believed --------------------------------------------------------------------------------

IMPOSTORS = Nodes(
    "nodes with an impostor",
    options=Options(nodes=3, ticks=80, faults=frozenset({"impostor", "partition", "leader_cut"})),
)


@planted(
    "a wiped data directory that is believed in its member's name",
    IMPOSTORS,
    {"committed is on a majority", "state machine safety", "election safety", "leader completeness"},
    60,
    first=23,
)
def believes_wiped_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """It votes and acknowledges without the memory of what it had promised."""
    monkeypatch.setattr(RaftActor, "_store_trusted", lambda *_arguments: True)
