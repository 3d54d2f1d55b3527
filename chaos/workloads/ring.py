"""A ring: each key names the next one. Txns move members about; whoever looks sees one ring through all of them."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient, repeat
from chaos.history import Record
from chaos.requests import if_revision, put, scan, txn
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "ring/"
MEMBERS: Final = 8
PREPARATIONS_MAX: Final = 20


class RingWorkload:
    """A permutation with one cycle, changed by three puts at a time."""

    name = "ring"

    def prepare(self, client: ChaosClient) -> None:
        """Lay the ring, once."""
        keys = [f"{PREFIX}{number}" for number in range(MEMBERS)]
        puts = [put(key, str((number + 1) % MEMBERS)) for number, key in enumerate(keys)]
        request = txn([if_revision(key, 0) for key in keys], puts)
        repeat(lambda: client.record(self.name, request), PREPARATIONS_MAX)

    def step(self, client: ChaosClient) -> None:
        """Look, and perhaps swap a member's two successors."""
        seen = client.call(self.name, scan(PREFIX), rpc.RangeResponse)
        if seen is None or len(seen.kvs) != MEMBERS or client.rng.random() < 0.3:
            return
        following = {pair.key.decode().removeprefix(PREFIX): pair.value.decode() for pair in seen.kvs}
        revisions = {pair.key.decode().removeprefix(PREFIX): pair.mod_revision for pair in seen.kvs}
        first = str(client.rng.randrange(MEMBERS))
        second = following[first]
        third = following[second]
        conditions = [if_revision(PREFIX + member, revisions[member]) for member in (first, second, third)]
        moved = {first: third, third: second, second: following[third]}
        client.record(self.name, txn(conditions, [put(PREFIX + member, to) for member, to in moved.items()]))

    def conclude(self, client: ChaosClient) -> None:
        """Look once more."""
        client.record(self.name, scan(PREFIX), final=True)

    def check(self, records: Sequence[Record]) -> list[str]:
        """Every look shows one ring of all members, once it was laid."""
        faults: list[str] = []
        laid = any(isinstance(record.response, rpc.TxnResponse) and record.response.succeeded for record in records)
        for record in records:
            if not isinstance(record.response, rpc.RangeResponse):
                continue
            following = {pair.key.decode().removeprefix(PREFIX): pair.value.decode() for pair in record.response.kvs}
            if following or (laid and record.note.get("final")):
                problem = ring_problem(following)
                if problem:
                    faults.append(f"{problem}: {record}")
        return told(self.name, faults)


def ring_problem(following: dict[str, str]) -> str:
    """Return why these successors are not one ring of all members, or nothing."""
    if len(following) != MEMBERS:
        return f"{len(following)} members instead of {MEMBERS}"
    at = "0"
    visited: list[str] = []
    while at not in visited:
        visited.append(at)
        if at not in following:
            return f"{at} is no member"
        at = following[at]
    if at != "0" or len(visited) != MEMBERS:
        return f"from 0 round to {at} over {visited}"
    return ""
