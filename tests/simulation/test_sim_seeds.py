"""Two hundred seeds of the whole cluster: safe under faults, then live and converged."""

import pytest

from sim.run import run_seed

SEEDS_PER_TEST = 2


@pytest.mark.parametrize("first", range(1, 201, SEEDS_PER_TEST))
def test_seeds_keep_every_promise(first: int) -> None:
    """No seed breaks a promise; a failure names the one command that replays it."""
    for seed in range(first, first + SEEDS_PER_TEST):
        report = run_seed(seed)
        story = "\n".join(report.story)
        assert report.failure is None, f"{story}\n{report.failure}\npython -m tools.simulate --seed {seed} --status"
        assert report.acknowledged > 0, f"seed {seed} tested nothing: no call was answered"
