"""A cluster of cores under a hostile scheduler: whatever order things happen in, no promise of Raft is broken.

`CoreSafety` looks at every turn; here only the scheduler is chosen. One number replays one schedule.
"""

import random

import pytest

from protocol.config import RaftConfig
from protocol.types import Millis
from raft.transitions import Role
from sim.core_cluster import CoreCluster, CoreMember

STEPS = 2000


def make_config(rng: random.Random) -> RaftConfig:
    """Bounds small enough to be reached."""
    return RaftConfig(
        heartbeat_interval_ms=10,
        election_timeout_ms=100,
        snapshot_count=rng.choice((3, 20, 1000)),
        catchup_entries=rng.choice((0, 2, 10)),
        append_entries_max=rng.choice((1, 3, 128)),
        append_bytes_max=rng.choice((8, 1 << 20)),
        inflight_appends_max=rng.choice((1, 2, 64)),
        unapplied_entries_max=rng.choice((2, 5000)),
        uncommitted_bytes_max=rng.choice((64, 1 << 20)),
    )


class Scheduler:
    """Does one random thing after another to a cluster."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        size = rng.choice((1, 2, 3, 3, 3, 4, 5))
        self.cluster = CoreCluster(size, seed=seed, config=make_config(rng))
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

    def _crash(self, member: CoreMember) -> None:
        if not member.up:
            return
        for _ in range(self.rng.randrange(len(member.writes) + 1)):
            # The disk had finished some writes of which the core never heard.
            member.disk.write(member.writes.popleft())
        self.cluster.crash(member.member)

    def heal_and_converge(self) -> CoreMember:
        """Make everything sound; return the leader once all members hold the same."""
        cluster = self.cluster
        cluster.heal()
        for member in cluster.members.values():
            if not member.up:
                member.start()
        for _ in range(100):
            cluster.advance(50)
            for member in cluster.members.values():
                if any(each.core.leading for each in cluster.members.values()):
                    self._help(member)
            leaders = [each for each in cluster.members.values() if each.core.role is Role.LEADER]
            if len(leaders) == 1 and len({each.applied_index for each in cluster.members.values()}) == 1:
                return leaders[0]
        raise AssertionError(
            {number: (each.core.term, each.core.role, each.applied_index) for number, each in cluster.members.items()}
        )

    def _help(self, member: CoreMember) -> None:
        """Bring the snapshot that the leader would send."""
        leader = self.cluster.leader
        progress = leader.core.leading.progress.get(member.member) if leader.core.leading else None
        if progress is not None and progress.state.value == "snapshot":
            member.install_from(leader)


@pytest.mark.parametrize("seed", range(60))
def test_random_network_breaks_no_promise(seed: int) -> None:
    """Under loss, copies, reordering, crashes, cuts and snapshots safety holds; healed, the members converge."""
    scheduler = Scheduler(seed)
    scheduler.run(STEPS)
    leader = scheduler.heal_and_converge()

    histories = {tuple(scheduler.cluster.commands(number)) for number in scheduler.cluster.members}
    assert len(histories) == 1, "all members applied the same commands in the same order"
    applied = scheduler.cluster.commands(leader.member)
    assert len(set(applied)) == len(applied), "nothing was proposed twice"
    assert set(applied) <= scheduler.proposed, "nothing comes out of thin air"
    refused = {
        str(sequence).encode() for member in scheduler.cluster.members.values() for sequence, _ in member.refused
    }
    assert not refused & set(applied), "what was refused is in no log"


def test_one_seed_is_one_history() -> None:
    """The same number gives the same schedule and the same outcome."""

    def outcome() -> tuple[object, ...]:
        scheduler = Scheduler(7)
        scheduler.run(800)
        return tuple(
            (each.core.term, each.core.log.last, each.applied_index) for each in scheduler.cluster.members.values()
        )

    assert outcome() == outcome()


def test_schedules_reach_what_they_are_for() -> None:
    """The scheduler really elects, commits, crashes and cuts: over a few seeds all of it has happened."""
    commits = crashes = snapshots = terms = 0
    for seed in range(6):
        scheduler = Scheduler(seed)
        scheduler.run(STEPS)
        members = scheduler.cluster.members.values()
        commits += scheduler.cluster.safety.last_committed
        crashes += sum(each.lives - 1 for each in members)
        snapshots += sum(each.disk.mark.index > 0 for each in members)
        terms += max(each.core.term for each in members)
    assert commits > 150, commits
    assert crashes > 5, crashes
    assert snapshots > 1, snapshots
    assert terms > 10, terms
