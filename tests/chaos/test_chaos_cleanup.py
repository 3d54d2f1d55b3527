"""Nothing of a run outlives it, however the run went."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import ROOT, wait_until

from chaos.guard import processes_in
from chaos.host import turn
from chaos.run import Settings, run
from chaos.scenarios import SCENARIOS
from chaos.targets import ActdTarget, await_leader

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_killed_run_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL to the command itself while its nodes are stopped: all of them are gone soon."""
    command = [sys.executable, "-m", "tools.chaos", "--minutes=5", "--scenario=calm"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with turn(), subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(processes_in(tmp_path)) >= 15, 60, "three nodes run")
        for found in processes_in(tmp_path):
            if "supervisor" in " ".join(found.cmdline()):
                found.suspend()
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not processes_in(tmp_path), 20, "everything is gone")


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An exception in the middle of a run ends its cluster."""

    def give_up(line: str) -> None:
        raise RuntimeError(f"enough of {line}")

    with pytest.raises(RuntimeError, match="enough"):
        run(Settings(SCENARIOS["kill-nodes"], 1, 5.0), tmp_path / "run", give_up)
    assert not processes_in(tmp_path)


def test_a_node_can_be_hurt_in_every_way(tmp_path: Path) -> None:
    """Signals reach each process of a node, a killed node starts again, switches are the node's own."""
    with turn():
        target = ActdTarget(tmp_path / "run", 3, 1, {})
        try:
            target.start()
            await_leader(target, 60.0)
            assert {"launcher", "supervisor", *target.actors} <= set(target.tree("n1"))
            assert not target.signal("n1", "snapshot_receiver", signal.SIGKILL)
            target.kill("n1")
            assert not target.running("n1")
            assert target.tree("n1") == {}
            target.launch("n1")
            wait_until(lambda: target.status("n1") is not None, 60, "n1 answers again")
            target.board("n2").set("disk_full", 1)
            assert target.board("n1").get("disk_full") == 0
        finally:
            target.close()
    assert not processes_in(tmp_path)
