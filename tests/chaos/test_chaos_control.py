"""The control: real etcd under the same clients, faults and checks. What it fails is wrong with us, not with it."""

import os
import shutil
from pathlib import Path

import pytest

from chaos.run import Settings, run
from chaos.scenarios import SCENARIOS

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]
ETCD_SCENARIOS = ("kill-nodes", "kill-all", "pause-nodes", "halves", "one-way", "ring-and-bridge", "bad-network")


@pytest.fixture
def etcd() -> None:
    """Without etcd there is nothing to compare with; on CI that is a failure."""
    if shutil.which("etcd") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have etcd: apt-get install etcd-server")
        pytest.skip("etcd is not installed: apt-get install etcd-server")


@pytest.mark.usefixtures("etcd")
@pytest.mark.chaos
@pytest.mark.parametrize("name", ETCD_SCENARIOS)
def test_etcd_keeps_every_promise(name: str, tmp_path: Path) -> None:
    """The checkers find nothing in etcd's answers."""
    verdict = run(Settings(SCENARIOS[name], 1, 10.0, target="etcd"), tmp_path / "run")
    assert verdict.ok, [*verdict.safety, *verdict.liveness]
    assert verdict.faults
    assert verdict.outcomes()["grpc ok"]
