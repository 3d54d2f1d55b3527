"""What may never happen in a cluster of cores, whatever is lost, doubled, delayed or crashed (thesis, figure 3.2).

Owns what was seen so far: leaders by term, votes on the wire, entries, the committed history, reads. Knows cores only
from outside, except for their logs. Invariant: it raises `AssertionError` at the turn that breaks a rule.
"""

from typing import TYPE_CHECKING

from protocol.types import Entry, Index, LogPosition, MemberId, Term
from raft import membership
from raft.configuration import Configuration
from raft.quorum import VoteResult, vote_result
from raft.transitions import Role

if TYPE_CHECKING:
    from sim.core_cluster import CoreCluster, CoreMember


class CoreSafety:
    """Watches every turn of every member."""

    def __init__(self, cluster: "CoreCluster") -> None:
        self.cluster = cluster
        self.leaders: dict[Term, MemberId] = {}
        self.committed: dict[int, Entry] = {}
        self.last_committed = 0
        self._commit_term: dict[int, Term] = {}
        self._entries: dict[LogPosition, tuple[Entry, int]] = {}
        self._terms: dict[tuple[MemberId, int], Term] = {}
        self._votes: dict[tuple[MemberId, Term], MemberId] = {}
        self._read_floor: dict[tuple[MemberId, int], int] = {}
        self._memberships: dict[int, Configuration] = {}
        self._membership_checked_to: dict[tuple[MemberId, int], int] = {}
        self._checked_to: dict[tuple[MemberId, int], LogPosition] = {}

    def on_turn(self, member: "CoreMember") -> None:
        """Look at a member after its turn."""
        core = member.core
        life = (member.member, member.lives)
        assert core.term >= self._terms.get(life, 0), f"{member.member} went back to term {core.term}"
        self._terms[life] = core.term
        term, voted_for, _ = member.disk.hard_state
        if voted_for:
            # Only a vote on disk has counted: one that was lost in a crash had not left the member.
            first = self._votes.setdefault((member.member, term), voted_for)
            assert first == voted_for, f"{member.member} voted twice in term {term}"
        if core.role is Role.LEADER:
            first = self.leaders.setdefault(core.term, member.member)
            assert first == member.member, f"term {core.term} has leaders {first} and {member.member}"
            self._check_completeness(member)
        self._check_matching(member)
        self._check_membership(member)
        self._check_reads(member)

    def _check_membership(self, member: "CoreMember") -> None:
        """Whoever has committed the same has the same membership there, whether from the log or from a snapshot."""
        core = member.core
        life = (member.member, member.lives)
        if self._membership_checked_to.get(life) == core.commit:
            return
        self._membership_checked_to[life] = core.commit
        current = membership.configuration_at(core, core.commit)
        first = self._memberships.setdefault(core.commit, current)
        assert first == current, f"{member.member} has {current} at {core.commit}, others had {first}"

    def _check_completeness(self, member: "CoreMember") -> None:
        """Leader completeness: a leader holds what was committed in earlier terms (thesis, section 3.6.3)."""
        core = member.core
        for index in range(max(core.log.first_index, self.last_committed - 50), self.last_committed + 1):
            entry = self.committed.get(index)
            if entry is not None and self._commit_term[index] < core.term:
                held = core.log.term_at(entry.index)
                assert held == entry.term, f"leader {member.member} of {core.term} lacks committed {entry.position}"

    def _check_matching(self, member: "CoreMember") -> None:
        """Log matching: an index and a term name one entry, and one entry before it (thesis, section 3.5)."""
        log = member.core.log
        known = self._checked_to.get((member.member, member.lives))
        if known == log.last:
            return
        self._checked_to[member.member, member.lives] = log.last
        if log.last.index < log.first_index:
            return
        for entry in log.between(Index(max(log.first_index, log.last.index - 20)), log.last.index):
            before = log.term_at(Index(entry.index - 1))
            first = self._entries.setdefault(entry.position, (entry, before or 0))
            assert first[0] == entry, f"two entries at {entry.position}"
            if before is not None and first[1]:
                assert first[1] == before, f"two histories before {entry.position}"

    def on_committed(self, member: "CoreMember", entries: tuple[Entry, ...]) -> None:
        """State machine safety: all apply the same entry at an index, and it is on the disks of a majority."""
        for entry in entries:
            assert member.disk.holds(entry.position), f"{member.member} applies {entry.position} before its fsync"
            first = self.committed.get(entry.index)
            if first is None:
                self.committed[entry.index] = entry
                self._commit_term[entry.index] = member.core.term
                self.last_committed = max(self.last_committed, entry.index)
                self._check_majority(entry)
            else:
                assert first == entry, f"{member.member} applies another entry at {entry.index}"

    def _check_majority(self, entry: Entry) -> None:
        """A majority holds the entry, of both halves where it is joint, in some configuration that is in force.

        Which one the leader counted in is its own affair: the newest of its log, which not everybody has yet, and
        which another may have followed once it was committed, before the entry is handed over.
        """
        holders = {each.member: True for each in self.cluster.members.values() if each.disk.holds(entry.position)}
        configurations = [
            configuration
            for each in self.cluster.members.values()
            for index, configuration in each.core.configurations
            if index <= max(entry.index, each.core.commit) or index == each.core.configurations[-1][0]
        ]
        carried = any(vote_result(each.voters, each.outgoing, holders) is VoteResult.WON for each in configurations)
        assert carried, f"{entry.position} is committed on {sorted(holders)} alone"

    def on_read(self, member: "CoreMember", sequence: int) -> None:
        """A read begins: it must see everything committed so far."""
        self._read_floor[member.member, sequence] = self.last_committed

    def _check_reads(self, member: "CoreMember") -> None:
        for released in member.reads:
            floor = self._read_floor.get((member.member, released.sequence))
            if floor is not None:
                assert released.index >= floor, f"read {released.sequence} at {released.index} misses {floor}"
                del self._read_floor[member.member, released.sequence]
