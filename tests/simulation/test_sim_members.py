"""Members that come and go while clients, faults and hostile knobs go on: fixed seeds, and some nobody has seen."""

import os
from collections import Counter

import pytest

from sim.member_run import run_member_seed
from sim.run import Report

SEEDS_PER_TEST = 5
RANDOM_SEEDS_FROM = int(os.environ["ACTD_RANDOM_SEEDS_FROM"])
"""Drawn by `tests/conftest.py`; told at the head of the run and by every failure."""


def _keeps_every_promise(seed: int) -> Report:
    report = run_member_seed(seed)
    story = "\n".join(report.story)
    replay = f"python -m tools.simulate --members --seed {seed} --status"
    assert report.failure is None, f"{story}\n{report.failure}\n{replay}"
    return report


@pytest.mark.parametrize("first", range(1, 41, SEEDS_PER_TEST))
def test_members_come_and_go_and_no_promise_is_broken(first: int) -> None:
    """Each few seeds together change members, and clients are served meanwhile."""
    met: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_PER_TEST):
        report = _keeps_every_promise(seed)
        met.update(report.counts)
        assert report.acknowledged > 0, f"seed {seed} tested nothing: no call was answered"
    assert met["members_member_add"] > 0
    assert met["members_member_remove"] > 0
    assert met["joined"] > 0


@pytest.mark.parametrize("seed", [172, 276, 1302, 1330])
def test_seeds_that_have_failed_keep_every_promise(seed: int) -> None:
    """Members that were removed or had just joined, and did not know where the others were (`docs/bugs-found.md`)."""
    _keeps_every_promise(seed)


@pytest.mark.parametrize("offset", range(0, 10, SEEDS_PER_TEST))
def test_seeds_nobody_has_seen_keep_every_promise_with_changing_members(offset: int) -> None:
    """The same for seeds that differ from run to run."""
    for seed in range(RANDOM_SEEDS_FROM + offset, RANDOM_SEEDS_FROM + offset + SEEDS_PER_TEST):
        _keeps_every_promise(seed)


def test_one_seed_is_one_trace() -> None:
    """A run with changing members repeats to the bit."""
    assert run_member_seed(7).digest == run_member_seed(7).digest
