"""Consensus alone while its membership changes under a hostile schedule, and the bugs that this must notice."""

from collections import Counter

import pytest

from raft import member_changes
from raft.core import Raft
from sim.core_run import run_core_seed
from sim.core_wishes import CoreWishes

SEEDS_PER_TEST = 10


@pytest.mark.parametrize("first", range(1, 101, SEEDS_PER_TEST))
def test_memberships_change_and_no_promise_is_broken(first: int) -> None:
    """Learners, promotions, removals, demotions and exchanges under loss, cuts and crashes: safe, then converged."""
    for seed in range(first, first + SEEDS_PER_TEST):
        report = run_core_seed(seed)
        assert report.failure is None, f"{report.failure}\npython -m tools.simulate --core --seed {seed}"


def test_schedules_make_every_change() -> None:
    """Over some seeds each shape of change was begun, joint configurations were left by hand, and leaders changed."""
    counts: Counter[str] = Counter()
    for seed in range(1, 21):
        counts.update(run_core_seed(seed).counts)
    for shape in ("added", "promoted", "removed", "demoted", "exchanged", "left"):
        assert counts[f"membership_{shape}"] > 1, f"{shape}: {counts}"
    assert counts["leaders"] > 40
    assert counts["fault_power_cut"] > 20


def test_one_seed_is_one_outcome() -> None:
    """The digest is the same twice, and another seed's is another."""
    first, second = run_core_seed(5), run_core_seed(6)
    assert first.digest == run_core_seed(5).digest
    assert first.digest != second.digest


def test_a_configuration_that_was_followed_by_another_still_counts() -> None:
    """An entry may be handed over when the configuration that committed it is no longer the newest (seed 232)."""
    report = run_core_seed(232)
    assert report.failure is None, str(report.failure)


@pytest.mark.parametrize("first", range(1, 41, SEEDS_PER_TEST))
def test_wishes_for_other_members_come_true_or_are_refused(first: int) -> None:
    """Asked of any member under the same schedules: answered once, truly, and every promised vote is given."""
    for seed in range(first, first + SEEDS_PER_TEST):
        report = run_core_seed(seed, mix=CoreWishes(seed))
        assert report.failure is None, f"{report.failure}\npython -m tools.simulate --wishes --seed {seed}"


def test_wishes_meet_every_answer_that_matters() -> None:
    """Over some seeds each kind of change was made and refused, and leaders were lost with wishes under way."""
    counts: Counter[str] = Counter()
    for seed in range(1, 16):
        counts.update(run_core_seed(seed, mix=CoreWishes(seed)).counts)
    for shape in ("add", "remove", "update", "promote", "publish", "leader_changed", "not_enough_started_members"):
        assert counts[f"membership_{shape}"] > 1, f"{shape}: {counts}"


def _wishes_caught_by(first: int, last: int) -> int | None:
    return next((seed for seed in range(first, last + 1) if run_core_seed(seed, mix=CoreWishes(seed)).failure), None)


def test_an_answer_before_the_commit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that is only in the leader's log may be lost with it."""
    honest = member_changes.go_on

    def hasty(raft: Raft) -> None:
        honest(raft)
        member_changes.settled(raft)

    monkeypatch.setattr(member_changes, "go_on", hasty)
    assert _wishes_caught_by(31, 80) is not None


def test_a_forgotten_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was added to vote gets its vote, whoever leads by then."""
    monkeypatch.setattr(member_changes, "tick", lambda raft: member_changes.go_on(raft))
    assert _wishes_caught_by(1, 10) is not None
