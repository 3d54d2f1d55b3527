"""A cluster of consensus cores under a hostile scheduler that also changes who belongs to it.

Owns the choice of what happens next: messages lost, doubled and overtaken, power cuts, links cut, clients, cuts of the
log, snapshots; and changes of membership: learners added and promoted, voters removed, demoted and exchanged, joint
configurations left by themselves or by hand. Whole nodes are `sim.world`'s. Invariant: one number is one schedule;
`CoreSafety` looks at every turn, so a schedule that returns has kept every promise.
"""

import random
from typing import Final

from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis, StoreId
from raft import membership
from raft.configuration import Configuration, MemberRecord
from raft.transitions import Role
from sim.core_cluster import CoreCluster, CoreMember

MEMBERS_MAX: Final = 7
"""Members that ever exist in one schedule."""
CONVERGED_WITHIN_ROUNDS: Final = 200
"""Rounds of 50 ms after the healing within which the members of the last configuration agree."""


def draw_core_config(rng: random.Random) -> RaftConfig:
    """Bounds small enough to be reached."""
    return RaftConfig(
        heartbeat_interval_ms=10,
        election_timeout_ms=100,
        commit_news_delay_ms=rng.choice((0, 5, 50)),
        unattended_delay_ms=rng.choice((0, 10, 100)),
        snapshot_count=rng.choice((3, 20, 1000)),
        catchup_entries=rng.choice((0, 2, 10)),
        append_entries_max=rng.choice((1, 3, 128)),
        append_bytes_max=rng.choice((8, 1 << 20)),
        inflight_appends_max=rng.choice((1, 2, 64)),
        unapplied_entries_max=rng.choice((2, 5000)),
        uncommitted_bytes_max=rng.choice((64, 1 << 20)),
    )


class CoreMix:
    """Does one random thing after another to a cluster."""

    def __init__(self, seed: int, *, changes: bool = False) -> None:
        self.rng = rng = random.Random(seed)
        size = rng.choice((1, 2, 3, 3, 3, 4, 5))
        config = draw_core_config(rng)
        learners = (size,) if changes and size > 2 and rng.random() < 0.3 else ()
        self.cluster = CoreCluster(size, seed=seed, config=config, learners=learners)
        self.changes = rng.choice((0.02, 0.1)) if changes else 0.0
        self.changed: dict[str, int] = {}
        """Changes that were begun, by their shape, and those that were refused."""
        self.loss = rng.choice((0.0, 0.05, 0.3))
        self.copies = rng.choice((0.0, 0.1))
        self.shuffle = rng.choice((0.0, 0.2, 1.0))
        self.crashes = rng.choice((0.0, 0.001, 0.005))
        self.partitions = rng.choice((0.0, 0.002, 0.01))
        self.sequence = 0
        self.proposed: set[bytes] = set()

    def run(self, steps: int) -> None:
        """Do `steps` things."""
        for _ in range(steps):
            self._one()

    def _one(self) -> None:
        rng, cluster = self.rng, self.cluster
        if self.changes and rng.random() < self.changes:
            self._change()
        if rng.random() < self.crashes:
            self._crash(rng.choice(list(cluster.members.values())))
        down = [member for member in cluster.members.values() if not member.up]
        if down and rng.random() < 0.03:
            rng.choice(down).start()
        if cluster.cut_off:
            if rng.random() < 0.02:
                cluster.heal()
        elif rng.random() < self.partitions:
            cluster.isolate(*rng.sample(sorted(cluster.members), rng.randrange(len(cluster.members) + 1)))
        alive = [member for member in cluster.members.values() if member.up]
        if not alive:
            return
        member = rng.choice(alive)
        action = rng.random()
        if action < 0.55:
            for _ in cluster.members:
                self._deliver()
        elif action < 0.70:
            member.persist()
        elif action < 0.78:
            member.apply()
        elif action < 0.86:
            self._pass_time()
        elif action < 0.95:
            self._client(member)
        else:
            self._housekeeping(member)

    def _deliver(self) -> None:
        cluster, rng = self.cluster, self.rng
        if not cluster.wire:
            return
        position = rng.randrange(len(cluster.wire)) if rng.random() < self.shuffle else 0
        if rng.random() < self.loss:
            cluster.wire.pop(position)
        else:
            cluster.deliver(position, keep=rng.random() < self.copies)

    def _pass_time(self) -> None:
        cluster = self.cluster
        cluster.now = Millis(cluster.now + (self.rng.choice((1, 1, 2, 5)) if self.rng.random() < 0.95 else 60))
        for member in cluster.members.values():
            if member.up and member.core.deadline <= cluster.now and self.rng.random() < 0.8:
                member.core.tick(cluster.now)
                member.turn()

    def _client(self, member: CoreMember) -> None:
        self.sequence += 1
        if self.rng.random() < 0.4:
            self.cluster.read(member.member, self.sequence)
            return
        payload = f"{self.sequence}".encode()
        self.proposed.add(payload)
        self.cluster.propose(member.member, payload, self.sequence)

    def _housekeeping(self, member: CoreMember) -> None:
        rng, cluster = self.rng, self.cluster
        if rng.random() < 0.5:
            member.cut_log()
            return
        donor = rng.choice(list(cluster.members.values()))
        if donor is not member and donor.up:
            member.install_from(donor)

    # --- membership ------------------------------------------------------------------------------

    def _change(self) -> None:
        """Ask whoever believes to lead for another membership."""
        leaders = [each for each in self.cluster.members.values() if each.up and each.core.role is Role.LEADER]
        if not leaders:
            return
        leader = self.rng.choice(leaders)
        current = leader.core.configuration
        if current.joint:
            shape, code = "left", membership.leave_joint(leader.core)
        else:
            shape, voters, learners = self._wanted(current)
            code = membership.change_members(
                leader.core,
                tuple(voters),
                tuple(learners),
                {each: _record(each) for each in (*voters, *learners)},
                auto_leave=self.rng.random() < 0.7,
            )
            if code is ErrorCode.OK:
                self._start_newcomers()
        leader.turn()
        shape = shape if code is ErrorCode.OK else "refused"
        self.changed[shape] = self.changed.get(shape, 0) + 1

    def _wanted(self, current: Configuration) -> tuple[str, list[MemberId], list[MemberId]]:
        """Another membership than the current one: one step of a kind, or a bold exchange."""
        rng = self.rng
        voters, learners = list(current.voters), list(current.learners)
        outside = [MemberId(each) for each in range(1, MEMBERS_MAX + 1) if each not in (*voters, *learners)]
        shape = rng.choice(("added", "promoted", "promoted", "removed", "demoted", "exchanged"))
        if shape == "added" and outside:
            learners.append(rng.choice(outside))
        elif shape == "promoted" and learners:
            chosen = rng.sample(learners, rng.randint(1, len(learners)))
            voters, learners = [*voters, *chosen], [each for each in learners if each not in chosen]
        elif shape == "removed" and len(voters) > 1:
            voters.remove(rng.choice(voters))
        elif shape == "demoted" and len(voters) > 1:
            demoted = rng.choice(voters)
            voters.remove(demoted)
            learners.append(demoted)
        elif shape == "exchanged":
            everyone = [*voters, *learners]
            voters = rng.sample(everyone, rng.randint(1, len(everyone)))
            learners = [each for each in everyone if each not in voters and rng.random() < 0.5]
        return shape, voters, learners

    def _start_newcomers(self) -> None:
        """Switch on empty machines for members that are new."""
        for member in self._known():
            if member not in self.cluster.members:
                self.cluster.add_member(member)

    def _known(self) -> list[MemberId]:
        """Everybody some core's configuration names."""
        named = {each for one in self.cluster.members.values() for each in one.core.configuration.everyone()}
        return sorted(named)

    # --- faults and time -------------------------------------------------------------------------

    def _crash(self, member: CoreMember) -> None:
        if not member.up:
            return
        for _ in range(self.rng.randrange(len(member.writes) + 1)):
            # The disk had finished some writes of which the core never heard.
            member.disk.write(member.writes.popleft())
        self.cluster.crash(member.member)

    def heal_and_converge(self) -> CoreMember:
        """Make everything sound; return the leader once all members of its configuration hold the same.

        Raises:
            AssertionError: they do not within the bound.
        """
        cluster = self.cluster
        cluster.heal()
        for member in cluster.members.values():
            if not member.up:
                member.start()
        for _ in range(CONVERGED_WITHIN_ROUNDS):
            cluster.advance(50)
            leaders = [each for each in cluster.members.values() if each.core.leading]
            for member in list(cluster.members.values()) if leaders else []:
                self._help(member)
            leaders = [each for each in cluster.members.values() if each.core.role is Role.LEADER]
            if len(leaders) == 1 and self._settled(leaders[0]):
                return leaders[0]
        raise AssertionError(
            {number: (each.core.term, each.core.role, each.applied_index) for number, each in cluster.members.items()}
        )

    def _settled(self, leader: CoreMember) -> bool:
        """Whether the leader's members hold what it holds; a joint configuration is left by hand where it must be."""
        core, members = leader.core, self.cluster.members
        if core.configuration.joint:
            if not core.configuration.auto_leave and membership.may_change(core):
                membership.leave_joint(core)
                leader.turn()
            return False
        inside = [members[each] for each in core.configuration.everyone()]
        same = len({each.applied_index for each in inside}) == 1
        return same and core.commit == core.log.last.index and core.configuration.is_voter(leader.member)

    def _help(self, member: CoreMember) -> None:
        """Bring the snapshot that the leader would send."""
        leader = self.cluster.leader
        progress = leader.core.leading.progress.get(member.member) if leader.core.leading else None
        if progress is not None and progress.state.value == "snapshot":
            member.install_from(leader)


def _record(member: MemberId) -> MemberRecord:
    return MemberRecord(f"n{member}", (f"http://n{member}:2380",), (f"http://n{member}:2379",), StoreId(0))
