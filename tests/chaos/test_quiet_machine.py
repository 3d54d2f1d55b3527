"""Bars for a machine that does nothing else: how soon a cluster serves, and what it costs while nobody asks."""

import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import Cluster

from tools.bench_targets import Actd, Etcd, Target, cpu_seconds

pytestmark = [pytest.mark.processes, pytest.mark.long, pytest.mark.timeout(300)]
Record = Callable[[str, object], None]
STARTS = 5
START_S_MAX = 3.0
IDLE_S = 60.0
IDLE_CORE_SHARE_MAX = 0.03


def test_three_nodes_serve_within_three_seconds(tmp_path: Path, record_property: Record) -> None:
    """From the command to a write through a leader, the median of five fresh clusters."""
    took: list[float] = []
    for number in range(STARTS):
        cluster = Cluster(tmp_path / f"fresh{number}")
        began = time.monotonic()
        try:
            cluster.launch()
            with cluster.client() as client:
                client.put("first", "write")
            took.append(time.monotonic() - began)
        finally:
            cluster.close()
    record_property("start_s", [round(one, 2) for one in took])
    assert statistics.median(took) < START_S_MAX, took


def idle_core_share(target: Target) -> float:
    """Start a cluster, let it settle, and return how much of a core it uses while nobody asks it anything."""
    patience = threading.Event()
    target.start()
    try:
        patience.wait(5)
        pids = target.pids()
        before = cpu_seconds(pids)
        patience.wait(IDLE_S)
        assert target.pids() == pids, "nothing was restarted"
        return (cpu_seconds(pids) - before) / IDLE_S
    finally:
        target.stop()


def test_an_idle_cluster_costs_next_to_nothing(tmp_path: Path, record_property: Record) -> None:
    """Three idle nodes use no more than 3 % of a core, or than etcd does on the same machine if that is more."""
    ours = idle_core_share(Actd(tmp_path / "actd"))
    record_property("actd_core_share", round(ours, 4))
    bar = IDLE_CORE_SHARE_MAX
    etcd = shutil.which("etcd")
    if ours > bar and etcd is not None:
        theirs = idle_core_share(Etcd(tmp_path / "etcd", etcd))
        record_property("etcd_core_share", round(theirs, 4))
        bar = max(bar, theirs)
    assert ours <= bar, f"{ours:.2%} of a core; {os.cpu_count()} cores, load {os.getloadavg()}"
