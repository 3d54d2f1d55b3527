"""What a workload is: steps that clients take, and what must be true of the records they left.

A workload owns the keys below its prefix; no other writes there. Its `check` is pure: it sees records, never a
cluster, so that a history on disk can be judged again and a made-up bad one shows that it is awake.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from chaos.clients import ChaosClient
from chaos.history import Record

FAULTS_TOLD_MAX: Final = 5
"""A broken cluster breaks much; the first few say enough."""


class Workload(Protocol):
    """One kind of use."""

    name: str

    def prepare(self, client: ChaosClient) -> None:
        """Write what the steps expect to find."""
        ...

    def step(self, client: ChaosClient) -> None:
        """Make one or a few calls."""
        ...

    def conclude(self, client: ChaosClient) -> None:
        """Read the end state; the records carry `final=True`."""
        ...

    def check(self, records: Sequence[Record]) -> list[str]:
        """Return what is wrong with this workload's records; nothing if all is well."""
        ...


def told(workload: str, faults: Sequence[str]) -> list[str]:
    """Return the first few faults, each with the workload's name before it."""
    lines = [f"{workload}: {fault}" for fault in faults[:FAULTS_TOLD_MAX]]
    if len(faults) > FAULTS_TOLD_MAX:
        lines.append(f"{workload}: and {len(faults) - FAULTS_TOLD_MAX} more")
    return lines
