"""The peer network's and the faulty disk's own promises."""

import random

import pytest

from protocol.errors import DiskFailed
from sim.disk import SimDisk
from sim.faulty_disk import FaultyDisk
from sim.network import CALM, INFLIGHT_FRAMES_MAX, NetworkWeather, PeerNetwork
from sim.trace import Trace
from sim.trouble import PowerCut


def _network(weather: NetworkWeather, seed: int = 1) -> PeerNetwork:
    return PeerNetwork(random.Random(seed), weather)


def test_a_calm_link_keeps_order_and_loses_nothing() -> None:
    """Without faults every frame arrives once, in order, after it was sent."""
    network = _network(CALM)
    arrivals = [network.arrivals(now * 10_000, 1, 2, bulk=False) for now in range(200)]
    assert all(len(times) == 1 for times in arrivals)
    times = [times[0] for times in arrivals]
    assert times == sorted(times)
    assert all(at > sent * 10_000 for sent, at in enumerate(times))


def test_a_bad_link_loses_doubles_and_reorders() -> None:
    """Each fault of the weather shows."""
    network = _network(NetworkWeather(loss=0.2, duplicate=0.2, late=0.2, late_us_max=500_000, reorder=True))
    arrivals = [network.arrivals(now * 10_000, 1, 2, bulk=True) for now in range(300)]
    firsts = [times[0] for times in arrivals if times]
    assert {len(times) for times in arrivals} == {0, 1, 2}
    assert firsts != sorted(firsts)
    assert network.met["fault_loss"] > 20
    assert network.met["fault_late"] > 20


def test_a_cut_is_directed_by_kind_and_nests() -> None:
    """A cut loses one direction of one kind of link, until it is mended as often as it was cut."""
    network = _network(CALM)
    network.cut(1, 2, bulk=True)
    network.cut(1, 2, bulk=True)
    network.mend(1, 2, bulk=True)
    assert network.arrivals(0, 1, 2, bulk=True) == []
    assert len(network.arrivals(0, 2, 1, bulk=True)) == 1
    assert len(network.arrivals(0, 1, 2, bulk=False)) == 1
    network.mend(1, 2, bulk=True)
    assert len(network.arrivals(0, 1, 2, bulk=True)) == 1


def test_a_link_has_a_high_water_mark() -> None:
    """What is over the mark is dropped and counted, not queued."""
    network = _network(CALM)
    sent = sum(len(network.arrivals(0, 1, 2, bulk=False)) for _ in range(INFLIGHT_FRAMES_MAX + 50))
    assert sent == INFLIGHT_FRAMES_MAX
    assert network.met["frame_overfull"] == 50


def test_a_fuse_cuts_the_power_between_two_operations() -> None:
    """The operations before the fuse burns down happen; the next one raises."""
    disk = FaultyDisk(SimDisk(random.Random(1)), lambda: 100)
    disk.light_fuse(3)
    disk.make_dir("d")
    file = disk.open("d/f", create=True)
    file.write_at(0, b"abc")
    with pytest.raises(PowerCut):
        file.sync()
    assert disk.disk.exists("d/f")


def test_a_planted_sync_failure_strikes_once_and_is_remembered() -> None:
    """The failure is raised once, syncs nothing, and the world knows that the actor has a reason to halt."""
    disk = FaultyDisk(SimDisk(random.Random(1)), lambda: 100)
    file = disk.open("f", create=True)
    disk.fail_next_sync()
    with pytest.raises(DiskFailed):
        file.sync()
    assert disk.failed
    file.sync()
    assert disk.take_waited_us() == 200
    assert disk.take_waited_us() == 0


def test_the_trace_depends_on_every_event_and_its_order() -> None:
    """Two events in another order, or one byte of detail, give another digest."""

    def digest(*events: tuple[int, bytes]) -> str:
        trace = Trace()
        for at_us, detail in events:
            trace.note(at_us, "n1", "raft", "Heartbeat", detail)
        return trace.digest

    plain = digest((1, b"a"), (2, b"b"))
    assert plain == digest((1, b"a"), (2, b"b"))
    assert len({plain, digest((2, b"b"), (1, b"a")), digest((1, b"a"), (2, b"c")), digest((1, b"a"))}) == 4
