"""Shrinking a failing run: what is not needed goes, what is needed stays, and the result was run."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.actor import Actor
from actors.wal import WalActor
from protocol.identity import NodeIdentity
from sim.disk import SimDisk
from sim.lease_run import run_lease_seed
from sim.member_run import run_member_seed
from sim.minimize import RUNS_MAX, minimize, pinned
from sim.node import SimNode
from sim.parts import ProductionParts
from sim.run import Options, Report, run_seed
from sim.trouble import SimulationFailed
from sim.weather import draw_config


class _Forgets(ProductionParts):
    """Every life of a node begins with an empty log."""

    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return WalActor(SimDisk(random.Random(1)), self._config.storage, identity)


def _run(seed: int, options: Options) -> Report:
    return run_seed(seed, options, parts=_Forgets(draw_config(seed, 3, options.knobs)))


def test_a_failing_run_is_shrunk_to_what_it_needs() -> None:
    """A log that forgets needs one restart: one fault kind, hardly a knob and one client are left."""
    options = Options(nodes=3)
    seed, report = next(
        (seed, report) for seed in range(1, 20) if (report := _run(seed, options)).failure and len(report.kinds) > 3
    )
    assert report.failure is not None
    told: list[str] = []
    smaller = minimize(lambda candidate: _run(seed, candidate), options, report, told.append)
    assert smaller.report.failure is not None
    assert smaller.report.failure.rule == report.failure.rule
    assert len(smaller.options.faults or ()) <= 1
    assert len(smaller.options.knobs or ()) <= 1
    assert smaller.options.ticks < options.ticks
    assert smaller.options.clients == 1
    assert smaller.runs <= RUNS_MAX
    assert len(told) >= 3
    again = _run(seed, smaller.options)
    assert again.digest == smaller.report.digest, "the smaller run is replayed by its options"


@pytest.mark.parametrize("run", [run_member_seed, run_lease_seed])
def test_what_a_run_was_can_be_asked_for_in_every_mode(run: Callable[[int, Options], Report]) -> None:
    """A search begins with exactly the faults, values, nodes and clients that the seed chose by itself."""
    options = Options(ticks=30)
    report = run(11, options)
    same = pinned(options, report)
    assert run(11, same).digest == report.digest
    assert run(11, replace(same, clients=1)).digest != report.digest
    assert run(11, replace(same, ticks=20)).digest != report.digest


def test_only_the_same_rule_counts() -> None:
    """A candidate that breaks another rule, or none, is not taken."""
    first = Report(1, nodes=3, clients=2, tick_us=100, kinds=["loss", "stop"], failure=SimulationFailed("a", "x"))

    def run(options: Options) -> Report:
        rule = "a" if "loss" in (options.faults or ()) else "b"
        return Report(1, tick_us=100, virtual_us=10**6, failure=SimulationFailed(rule, ""))

    smaller = minimize(run, Options(), first)
    assert smaller.options.faults == {"loss"}
    assert smaller.options == replace(smaller.options, ticks=1, nodes=1, clients=1)


def test_the_command_shrinks_and_prints_what_replays_it() -> None:
    """`--minimize` on a run that holds prints nothing to replay; an unknown fault kind is named."""
    command = [sys.executable, "-m", "tools.simulate", "--seed", "3", "--ticks", "10", "--minimize"]
    good = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert re.search(r"trace digest\s+[0-9a-f]{64}", good.stderr)
    assert "replay" not in good.stderr
    bad = subprocess.run([*command, "--faults", "locusts"], capture_output=True, text=True, check=False, timeout=100)
    assert bad.returncode == 2
    assert "locusts" in bad.stderr
    for wrong, named in ((["--core"], "--core"), (["--leases", "--members"], "modes")):
        refused = subprocess.run([*command, *wrong], capture_output=True, text=True, check=False, timeout=100)
        assert refused.returncode == 2
        assert named in refused.stderr
