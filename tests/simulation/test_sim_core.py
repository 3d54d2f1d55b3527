"""Consensus alone while its membership changes under a hostile schedule, and the bugs that this must notice."""

from collections import Counter

import pytest

from sim.core_run import run_core_seed

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
