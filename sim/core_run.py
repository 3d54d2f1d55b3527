"""One seed of consensus alone: a hostile schedule with changes of membership, then convergence, then the histories.

Owns the verdict and its report; the schedule is `sim.core_mix`'s. Invariant: digest and verdict depend on the seed and
the number of steps alone.
"""

import hashlib
from typing import Final

from protocol.errors import InvariantViolation
from sim.core_mix import CoreMix
from sim.run import Report
from sim.trouble import SimulationFailed

STEPS: Final = 1500
"""Things that happen before everything heals."""


def run_core_seed(seed: int, *, steps: int = STEPS, mix: CoreMix | None = None) -> Report:
    """Run one seed to its verdict; never raises for a broken promise, which is in the report.

    Args:
        seed: the schedule.
        steps: how long it is before everything heals.
        mix: the schedule itself, for tests that plant bugs into it.
    """
    mix = mix or CoreMix(seed, changes=True)
    cluster = mix.cluster
    began = cluster.now
    report = Report(seed, nodes=len(cluster.founding.everyone()), events=steps)
    try:
        mix.run(steps)
        _check_histories(mix)
    except (AssertionError, InvariantViolation) as error:
        report.failure = SimulationFailed("core safety", str(error))
    members = cluster.members.values()
    report.virtual_us = (cluster.now - began) * 1000
    report.calls = mix.sequence
    report.entries = cluster.safety.last_committed
    report.acknowledged = len(cluster.commands(max(members, key=lambda each: each.applied_index).member))
    report.counts = {f"membership_{shape}": count for shape, count in sorted(mix.changed.items())}
    report.counts["leaders"] = len(cluster.safety.leaders)
    report.counts["fault_power_cut"] = sum(each.lives - 1 for each in members)
    outcome = [(each.member, each.core.term, each.core.log.last, each.applied) for each in members]
    report.digest = hashlib.sha256(repr(outcome).encode()).hexdigest()
    return report


def _check_histories(mix: CoreMix) -> None:
    """Heal; then all members of the last configuration hold the same commands, each asked for and none twice."""
    leader = mix.heal_and_converge()
    cluster = mix.cluster
    inside = leader.core.configuration.everyone()
    histories = {tuple(cluster.commands(number)) for number in inside}
    assert len(histories) == 1, f"members {inside} applied different commands"
    applied = cluster.commands(leader.member)
    assert len(set(applied)) == len(applied), "a command was applied twice"
    assert set(applied) <= mix.proposed, "a command came out of thin air"
    refused = {b"%d" % sequence for member in cluster.members.values() for sequence, _ in member.refused}
    assert not refused & set(applied), "what was refused is in the log"
