"""Authentication under faults: tokens fresh and stale, rights that change, and members that agree on all of it."""

from collections import Counter

import pytest

from sim.auth_run import run_auth_seed
from sim.trouble import SimulationFailed
from storage.auth_guard import Guard

SEEDS = (7, 8, 12)


def run_all() -> Counter[str]:
    """Run every seed; return what they met together."""
    met: Counter[str] = Counter()
    for seed in SEEDS:
        met.update(run_auth_seed(seed, nodes=3))
    return met


def test_rights_hold_under_faults() -> None:
    """Every answer is what an independent model says of the log; stale identities, refusals and writes all occur."""
    met = run_all()
    assert met["acknowledged"] > 30
    assert met["denied"] > 30
    assert met["refused_for_age"] > 3


def test_one_seed_gives_one_run() -> None:
    """The same calls, answers and refusals twice."""
    assert run_auth_seed(10, nodes=3) == run_auth_seed(10, nodes=3)


def test_planted_bug_rights_are_asked_without_their_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not look at the auth revision lets requests of the past in: the model notices."""
    honest = Guard._has_limits

    def ageless(guard: Guard, identity):  # type: ignore[no-untyped-def]
        current = guard._book.revision
        return honest(guard, identity._replace(revision=current) if identity.revision > 0 else identity)

    monkeypatch.setattr(Guard, "_has_limits", ageless)
    with pytest.raises(SimulationFailed, match="answers are the model's"):
        run_all()
