"""The faults themselves: each kind strikes and does what its name says, and what was broken is mended."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from protocol.errors import Corruption
from protocol.types import Entry, EntryKind, HardState, Index, MemberId, Millis, Term
from sim.disk import DiskFull, SimDisk
from sim.faulty_disk import FaultyDisk
from sim.parts import ProductionParts
from sim.rot import rot_log
from sim.run import Options, Report, run_seed
from sim.weather import FAIR, KINDS, KNOBS, STRIKES, describe, draw_config, draw_weather, hostile_knobs, plain_config
from sim.world import World
from storage.wal import Wal, WalOwner

OWNER = WalOwner(1, 2, 3)
CUTTING = Options(nodes=3, ticks=60, knobs=frozenset({"raft.snapshot_count"}))
"""A short run whose log is cut early or late, as the seed says; everything else is as by default."""


def _run(seed: int, *kinds: str) -> Report:
    report = run_seed(
        seed, Options(nodes=3, ticks=60, knobs=frozenset({"raft.snapshot_count"}), faults=frozenset(kinds))
    )
    assert report.failure is None, str(report.failure)
    return report


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "chunk_rot"])
def test_every_kind_strikes_when_it_is_chosen(kind: str) -> None:
    """A fault kind that is asked for happens within a few seeds, and no promise breaks."""
    counts: Counter[str] = Counter()
    kinds = [kind, "power_cut", "cluster_cut"] if kind == "recovery_cut" else [kind]
    for seed in range(1, 12):
        counts.update(_run(seed, *kinds).counts)
        if counts[f"fault_{kind}"]:
            return
    pytest.fail(f"{kind} never struck: {counts}")


def test_nothing_strikes_when_nothing_is_chosen() -> None:
    """Without faults there are none, one leader is elected, and every call is answered."""
    report = run_seed(3, Options(nodes=3, ticks=40, faults=frozenset(), knobs=frozenset()))
    assert report.failure is None, str(report.failure)
    assert not [kind for kind in report.counts if kind.startswith("fault_")]
    assert report.counts["leaders"] == 1


def test_leaving_a_kind_out_moves_no_other() -> None:
    """Kinds and knobs have luck of their own, so that a minimizer takes them away one by one."""
    for seed in range(20):
        drawn = draw_weather(seed, 1000)
        pinned = draw_weather(seed, 1000, frozenset(drawn.kinds))
        assert pinned == drawn
        fewer = draw_weather(seed, 1000, frozenset(drawn.kinds[1:]))
        assert all(fewer.rates[kind] == rate for kind, rate in drawn.rates.items() if kind in drawn.kinds[1:])
        knobs = hostile_knobs(seed)
        assert draw_config(seed, 3, frozenset(knobs)) == draw_config(seed, 3)


def test_seeds_draw_every_kind_and_every_knob() -> None:
    """Over some seeds each kind is active and each knob hostile, and each is left alone as well."""
    kinds: Counter[str] = Counter()
    knobs: Counter[str] = Counter()
    for seed in range(200):
        kinds.update(draw_weather(seed, 1000).kinds)
        knobs.update(hostile_knobs(seed))
    assert set(kinds) == set(KINDS)
    assert set(knobs) == set(KNOBS)
    assert max(kinds.values()) < 100, "no kind is active in most seeds"
    assert set(STRIKES) < set(KINDS)
    assert "raft.snapshot_count" in describe(draw_config(1, 3))


# --- clocks ----------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """One node that nothing happens to by itself."""
    config = plain_config(1)
    return World(1, config, FAIR, ProductionParts(config))


def test_a_clock_that_is_set_never_goes_back_and_knows_when_it_will_show_what(world: World) -> None:
    """Jumps, skew and stalls: local time is monotone, and `world_time_us` is the first instant that shows a time."""
    node, luck = world.nodes[0], random.Random(5)
    shown = node.now_ms()
    for _ in range(300):
        world.now_us += luck.randrange(2_000_000)
        assert node.now_ms() >= shown
        node.set_clock(ahead_us=luck.choice((0, luck.randrange(10**6))), rate=luck.choice((None, 1, 500, 2000)))
        shown = node.now_ms()
        deadline = Millis(shown + luck.randrange(1, 1000))
        at_us = node.world_time_us(deadline)
        now_us = world.now_us
        world.now_us = at_us
        assert node.now_ms() >= deadline
        world.now_us = at_us - 1
        assert node.now_ms() < deadline
        world.now_us = now_us


def test_a_jump_of_the_clock_wakes_an_actor_at_once(world: World) -> None:
    """An election timeout that a jump leaps over is noticed now, not when the old clock would have shown it."""
    node = world.nodes[0]
    node.boot()
    world.run_until(50_000)
    raft = node.processes["raft"]
    before = raft.actor.deadline
    assert before is not None
    assert before > node.now_ms()
    node.set_clock(ahead_us=10_000_000)
    world.run_until(world.now_us + 10_000)
    assert world.leader() is node, "the only member stood for election at once"


# --- disks -----------------------------------------------------------------------------------------


def test_a_full_disk_is_an_excuse_to_halt() -> None:
    """What does not fit is refused, and the disk remembers that whoever halts now has a reason."""
    disk = SimDisk(random.Random(1), capacity_bytes=100)
    port = FaultyDisk(disk, lambda: 0)
    file = port.open("file", create=True)
    file.write_at(0, b"x" * 100)
    assert not port.failed
    with pytest.raises(DiskFull):
        file.write_at(100, b"x")
    assert port.failed


def test_rot_of_the_log_is_noticed_wherever_it_is() -> None:
    """A flipped bit of a frame that has another behind it is refused with the file's name; flipped back, it is read."""
    for seed in range(60):
        disk = SimDisk(random.Random(seed))
        wal = Wal.open(disk, OWNER, 4096)
        for index in range(1, 12):
            entry = Entry(Term(1), Index(index), EntryKind.COMMANDS, b"x" * 300)
            wal.append(HardState(Term(1), MemberId(1), Index(index - 1)), (entry,))
        wal.close()
        rot = rot_log(disk, random.Random(seed))
        assert rot is not None
        with pytest.raises(Corruption, match=r"wal/.*\.wal"):
            Wal.open(disk, OWNER, 4096)
        rot.undo()
        assert len(Wal.open(disk, OWNER, 4096).recovered) == 11


def test_rot_is_met_and_noticed_by_whole_nodes() -> None:
    """A node whose log or store rotted while it was off refuses to start until the disk is repaired."""
    noticed = 0
    for seed in range(1, 8):
        noticed += _run(seed, "wal_rot", "store_rot").counts.get("rot_noticed", 0)
    assert noticed >= 2


def test_a_bad_chunk_never_becomes_a_store() -> None:
    """Snapshots whose chunks are damaged on their way are refused by their checksum, and sent again."""
    counts: Counter[str] = Counter()
    kinds = frozenset({"chunk_rot", "partition", "power_cut", "pause_node", "bulk_cut"})
    options = replace(CUTTING, ticks=80, knobs=CUTTING.knobs | {"raft.catchup_entries"}, faults=kinds)
    for seed in range(1, 30):
        report = run_seed(seed, options)
        assert report.failure is None, str(report.failure)
        counts.update(report.counts)
        if counts["fault_chunk_rot"] >= 3 and counts["log_snapshot_installed"]:
            return
    pytest.fail(f"too few chunks were sent: {counts}")


# --- wrong frames ----------------------------------------------------------------------------------


def test_frames_that_are_not_ours_are_refused_and_counted() -> None:
    """Other clusters, versions, members and nonsense reach no actor, and cost nobody the leadership."""
    counts: Counter[str] = Counter()
    for seed in range(1, 6):
        counts.update(_run(seed, "wrong_frames").counts)
    assert counts["frame_refusals"] > 3
    assert counts["frame_faults"] > 3
    assert counts["leaders"] == 5, "one leader a seed: nobody believed a term of a million"
