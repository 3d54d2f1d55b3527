"""Every scenario of real faults on real processes, most clients through either door; a few of them in every run."""

import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.run import Settings, Verdict, run
from chaos.scenarios import SCENARIOS

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]
"""A run waits for its turn: no more clusters at once than the cores carry."""
SECONDS = 10.0
DOORS = ("grpc", "zmq")
ALL = [(name, door) for name in SCENARIOS if name != "calm" for door in DOORS]
QUICK_SEED = int(os.environ.get("ACTD_CHAOS_SEED", "5"))
QUICK = random.Random(QUICK_SEED).sample([pair for pair in ALL if SCENARIOS[pair[0]].nodes == 3], 4)
"""What every run of the suite sees; another seed shows it others."""


def shown(verdict: Verdict) -> str:
    """Everything that helps to understand a failure."""
    events = [f"{event.at_us / 1e6:8.1f} s {event.kind} {event.text}" for event in verdict.events]
    tails = [f"--- {name}\n{text[-4000:]}" for name, text in verdict.logs.items()]
    return "\n".join([*verdict.safety, *verdict.liveness, *events, str(verdict.standstills), *tails])


def mounting_is_allowed(directory: Path) -> bool:
    """Whether this user may mount a tmpfs."""
    words = ["mount", "-t", "tmpfs", "-o", "size=65536", "actd-chaos", str(directory)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(directory)], check=True)
    return True


def judge(name: str, door: str, seed: int, directory: Path) -> None:
    """Run a scenario; it must keep every promise and do real work through both doors."""
    if SCENARIOS[name].small_disks and not mounting_is_allowed(directory):
        pytest.skip("small disks need the right to mount a tmpfs")
    verdict = run(Settings(SCENARIOS[name], seed, SECONDS, door=door), directory / "run")
    assert verdict.ok, shown(verdict)
    assert verdict.faults, "a scenario without faults shows little"
    outcomes = verdict.outcomes()
    assert all(outcomes[f"{each} ok"] for each in DOORS), outcomes


@pytest.mark.parametrize(("name", "door"), QUICK)
def test_quick_selection(name: str, door: str, tmp_path: Path) -> None:
    """A seeded few of the scenarios: every promise is kept."""
    judge(name, door, QUICK_SEED, tmp_path)


def test_three_become_one_and_three_again(tmp_path: Path) -> None:
    """Members are removed under load, the leader first, and come back anew: nothing acknowledged is lost."""
    scenario = replace(SCENARIOS["members"], nodes=3)
    verdict = run(Settings(scenario, QUICK_SEED, 5.0), tmp_path / "run")
    assert verdict.ok, shown(verdict)
    assert verdict.faults["shrink-and-grow"], "members came and went"


@pytest.mark.chaos
@pytest.mark.parametrize(("name", "door"), ALL)
def test_every_scenario(name: str, door: str, tmp_path: Path) -> None:
    """Each scenario through either door: every promise is kept."""
    judge(name, door, 1 + DOORS.index(door), tmp_path)
