"""One seed gives one trace, whatever the process, and whether its modules were compiled (a command) or not (here)."""

import os
import re
import subprocess
import sys

import pytest

from sim.core_run import run_core_seed
from sim.member_run import run_member_seed
from sim.run import Options, run_seed


def _digest_in_subprocess(seed: int, hash_seed: str, *flags: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "COLUMNS": "200"}
    command = [sys.executable, "-m", "tools.simulate", "--seed", str(seed), *flags]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
    found = re.search(r"trace digest\s+([0-9a-f]{64})", result.stdout + result.stderr)
    assert found is not None, f"no digest was printed: {result.stderr}"
    return found.group(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 25, 34])
def test_digest_is_the_same_under_two_hash_seeds(seed: int) -> None:
    """The order of sets and dicts of text never reaches an effect."""
    first = _digest_in_subprocess(seed, "0")
    assert first == _digest_in_subprocess(seed, "1"), "a hash seed changed the run"
    assert first == run_seed(seed).digest, "the process changed the run"


def test_digest_of_consensus_alone_is_the_same_under_two_hash_seeds() -> None:
    """Changes of membership are made of sets, whose order never reaches a message."""
    first = _digest_in_subprocess(4, "0", "--core")
    assert first == _digest_in_subprocess(4, "1", "--core"), "a hash seed changed the run"
    assert first == run_core_seed(4).digest, "the process changed the run"


def test_digest_with_changing_members_is_the_same_under_two_hash_seeds() -> None:
    """An administrator and machines that come and go are as deterministic as everything else."""
    first = _digest_in_subprocess(12, "0", "--members")
    assert first == _digest_in_subprocess(12, "1", "--members"), "a hash seed changed the run"
    assert first == run_member_seed(12).digest, "the process changed the run"


def test_digest_tells_seeds_apart() -> None:
    """Another seed is another run; a repeated one is the same."""
    options = Options(nodes=3, ticks=40)
    digests = [run_seed(seed, options).digest for seed in (11, 12, 11)]
    assert digests[0] == digests[2], "the same seed gave two traces"
    assert digests[0] != digests[1], "two seeds gave one trace"
