"""Which faults make up a scenario, and when they strike: a plan that a seed decides before anything runs.

Pure. Knows faults and workloads by name only.
"""

import random
from dataclasses import dataclass, field
from typing import Final

from chaos.faults import ACTD_ONLY, FAULTS
from chaos.workloads import WORKLOADS


@dataclass(frozen=True)
class Scenario:
    """A kind of weather.

    Args:
        faults: what may happen, by name; one after the other in random order, all of them before any comes again.
        at_once: how many of them may overlap.
        fault_s: least and most length of one.
        quiet_s: least and most time between the end of one and the beginning of the next.
    """

    name: str
    faults: tuple[str, ...]
    workloads: tuple[str, ...] = tuple(name for name in WORKLOADS if name != "leases")
    """Leases only where no clock jumps: a leader whose clock does may end them early, as etcd's may."""
    at_once: int = 1
    nodes: int = 3
    fault_s: tuple[float, float] = (2.5, 4.0)
    quiet_s: tuple[float, float] = (0.5, 1.5)
    small_disks: bool = False
    """Whether each node's data lies on a file system of its own that can be filled; this needs the right to mount."""
    compacts: bool = True
    """Whether history is compacted all the time."""
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    """Sections of the cluster file that differ from those of all scenarios."""


@dataclass(frozen=True)
class Strike:
    """One fault of a plan; times are seconds after the load began."""

    fault: str
    begins_s: float
    ends_s: float
    seed: str


PARTITIONS: Final = ("halves", "leader-alone", "one-way", "ring", "bridge")
EVERYTHING: Final = tuple(name for name in FAULTS if name not in ("file-system-full", "shrink-and-grow"))
"""All that needs no right to mount, and leaves the members what they are: others would be hurt while they are few."""
SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario("calm", ()),
        Scenario("kill-actors", ("kill-raft", "kill-wal", "kill-applier", "kill-gateway"), fault_s=(1.5, 2.5)),
        Scenario("pause-actors", ("pause-raft", "pause-wal", "pause-applier", "pause-gateway")),
        Scenario("kill-nodes", ("kill-node",)),
        Scenario("kill-all", ("kill-all",), fault_s=(0.5, 1.5), quiet_s=(4.0, 5.0)),
        Scenario("pause-nodes", ("pause-node", "pause-all")),
        Scenario("halves", ("halves", "leader-alone"), fault_s=(4.0, 6.0)),
        Scenario("one-way", ("one-way",), fault_s=(4.0, 6.0)),
        Scenario("ring-and-bridge", ("ring", "bridge"), fault_s=(3.0, 5.0)),
        Scenario("bad-network", ("delay", "loss")),
        Scenario("slow-disk", ("fsync-delay",)),
        Scenario("broken-disk", ("fsync-error", "disk-full")),
        Scenario("full-disk", ("file-system-full",), small_disks=True),
        Scenario("clock-jumps", ("clock-jump",), fault_s=(0.5, 1.0)),
        Scenario(
            "watchers",
            ("kill-gateway", "kill-applier", "kill-node", "pause-gateway", "halves"),
            workloads=("watch", "objects"),
            at_once=2,
        ),
        Scenario(
            "leases",
            ("kill-node", "kill-raft", "kill-applier", "pause-node", "leader-alone"),
            workloads=("leases", "objects"),
            at_once=2,
            compacts=False,
        ),
        Scenario("broken-transfer", ("broken-transfer",), fault_s=(3.0, 5.0)),
        Scenario("kill-in-partition", ("leader-alone", "kill-node", "kill-raft", "halves"), at_once=2),
        Scenario("bad-day", ("delay", "pause-node", "kill-wal", "fsync-delay", "one-way", "clock-jump"), at_once=3),
        Scenario("five-nodes", ("ring", "bridge", "halves", "kill-node"), nodes=5, fault_s=(4.0, 6.0)),
        Scenario("members", ("shrink-and-grow",), nodes=5, fault_s=(2.0, 4.0)),
        Scenario("combined", EVERYTHING, at_once=3, fault_s=(2.0, 8.0), quiet_s=(2.0, 8.0)),
    )
}
"""Every scenario by its name."""


def plan(scenario: Scenario, kind: str, seed: int, seconds: float) -> list[Strike]:
    """Return when which fault strikes a target of this kind, in the order of beginnings.

    Every strike ends before `seconds`; faults that the target does not know are left out.
    """
    names = [name for name in scenario.faults if kind == "actd" or name not in ACTD_ONLY]
    strikes: list[Strike] = []
    for lane in range(scenario.at_once if names else 0):
        rng = random.Random(f"{seed} {scenario.name} {lane}")
        left: list[str] = []
        # The first strike comes and ends in time however short the run is: one without faults shows little.
        at = min(0.5 + rng.uniform(*scenario.quiet_s) * (lane + 1), seconds / 3)
        length_max = 0.99 * (seconds - at)
        while True:
            left = left or rng.sample(names, len(names))
            length = min(rng.uniform(*scenario.fault_s), length_max)
            length_max = scenario.fault_s[1]
            if at + length > seconds:
                break
            strikes.append(Strike(left.pop(), at, at + length, f"{seed} {lane} {len(strikes)}"))
            at += length + rng.uniform(*scenario.quiet_s)
    return sorted(strikes, key=lambda strike: strike.begins_s)
