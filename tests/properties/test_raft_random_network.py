"""A cluster of cores under a hostile scheduler: whatever order things happen in, no promise of Raft is broken.

`CoreSafety` looks at every turn; here only the scheduler is chosen. One number replays one schedule.
"""

import pytest

from sim.core_mix import CoreMix

STEPS = 2000


@pytest.mark.parametrize("seed", range(60))
def test_random_network_breaks_no_promise(seed: int) -> None:
    """Under loss, copies, reordering, crashes, cuts and snapshots safety holds; healed, the members converge."""
    scheduler = CoreMix(seed)
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
        scheduler = CoreMix(7)
        scheduler.run(800)
        return tuple(
            (each.core.term, each.core.log.last, each.applied_index) for each in scheduler.cluster.members.values()
        )

    assert outcome() == outcome()


def test_schedules_reach_what_they_are_for() -> None:
    """The scheduler really elects, commits, crashes and cuts: over a few seeds all of it has happened."""
    commits = crashes = snapshots = terms = 0
    for seed in range(12):
        scheduler = CoreMix(seed)
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
