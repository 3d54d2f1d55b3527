"""Plans: a seed decides everything, every fault has its turn, and none outlasts the run."""

import pytest

from chaos.faults import FAULTS
from chaos.scenarios import EVERYTHING, SCENARIOS, plan


def test_there_are_enough_scenarios() -> None:
    """Twelve at least that hurt, and all faults are part of one."""
    hurting = [scenario for scenario in SCENARIOS.values() if scenario.faults]
    assert len(hurting) >= 12
    assert {fault for scenario in hurting for fault in scenario.faults} == set(FAULTS)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
@pytest.mark.parametrize("kind", ["actd", "etcd"])
def test_a_plan_is_decided_by_its_seed(name: str, kind: str) -> None:
    """The same seed gives the same plan; strikes end in time."""
    scenario = SCENARIOS[name]
    made = plan(scenario, kind, 7, 12.0)
    assert made == plan(scenario, kind, 7, 12.0)
    assert all(0 < strike.begins_s < strike.ends_s <= 12.0 for strike in made)
    if scenario.faults and kind == "actd":
        assert made


def test_every_fault_has_its_turn() -> None:
    """Ten minutes of everything that needs no special right leave nothing out."""
    made = plan(SCENARIOS["combined"], "actd", 1, 600.0)
    assert {strike.fault for strike in made} == set(EVERYTHING)


@pytest.mark.parametrize("seed", range(1, 9))
def test_even_a_short_run_has_a_fault(seed: int) -> None:
    """Ten seconds are enough for at least one strike of every scenario that has faults, and it ends in time."""
    for name, scenario in SCENARIOS.items():
        strikes = plan(scenario, "actd", seed, 10.0)
        assert bool(strikes) == bool(scenario.faults), name
        assert all(strike.ends_s <= 10.0 for strike in strikes), name
