"""Registers: blind writes, reads, and compare-and-swap by value; every value is written once."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient
from chaos.history import Record
from chaos.requests import Write, get, if_value, put, ranges_of, txn, writes_of
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "register/"
REGISTERS: Final = 5


class RegisterWorkload:
    """A few keys under contention."""

    name = "register"

    def prepare(self, client: ChaosClient) -> None:
        """Registers begin absent."""

    def step(self, client: ChaosClient) -> None:
        """Read, write, or read and swap."""
        key = f"{PREFIX}{client.rng.randrange(REGISTERS)}"
        choice = client.rng.random()
        if choice < 0.35:
            client.record(self.name, get(key))
        elif choice < 0.6:
            client.record(self.name, put(key, client.unique()))
        else:
            self._swap(client, key)

    def _swap(self, client: ChaosClient, key: str) -> None:
        held = client.call(self.name, get(key), rpc.RangeResponse)
        if held is None or not held.kvs:
            return
        old = held.kvs[0].value.decode()
        request = txn([if_value(key, old)], [put(key, client.unique())], [get(key)])
        client.record(self.name, request, old=old)

    def conclude(self, client: ChaosClient) -> None:
        """Read every register."""
        for number in range(REGISTERS):
            client.record(self.name, get(f"{PREFIX}{number}"), final=True)

    def check(self, records: Sequence[Record]) -> list[str]:
        """A read value was written by someone; a swap found what it compared with, and nothing lay between."""
        faults: list[str] = []
        written: dict[bytes, Record] = {}
        acknowledged: dict[bytes, list[Write]] = {}
        for record in records:
            for value in _values_of(record):
                written[value] = record
            if record.ok and record.response is not None:
                for write in writes_of(record.request, record.response):
                    acknowledged.setdefault(write.key, []).append(write)
        at = {write.value: write for writes in acknowledged.values() for write in writes}
        for record in records:
            if not record.ok or record.response is None:
                continue
            faults += _reads_of_nothing(record, written)
            if isinstance(record.response, rpc.TxnResponse) and record.response.succeeded:
                (swap,) = writes_of(record.request, record.response)
                found = at.get(str(record.note["old"]).encode())
                before = found.revision if found is not None else 0
                between = [each for each in acknowledged[swap.key] if before < each.revision < swap.revision]
                if found is not None and (between or before >= swap.revision):
                    faults.append(f"swapped what was no longer there (then {between[:1]}): {record}")
        return told(self.name, faults)


def _values_of(record: Record) -> list[bytes]:
    """What a call would write."""
    if isinstance(record.request, rpc.PutRequest):
        return [record.request.value]
    if isinstance(record.request, rpc.TxnRequest):
        return [each.request_put.value for each in record.request.success if each.HasField("request_put")]
    return []


def _reads_of_nothing(record: Record, written: dict[bytes, Record]) -> list[str]:
    assert record.response is not None, "only answered calls are looked at"
    faults = []
    for seen in ranges_of(record.request, record.response):
        for pair in seen.response.kvs:
            writer = written.get(pair.value)
            if writer is None:
                faults.append(f"read {pair.value!r}, which nobody wrote: {record}")
            elif writer.outcome == "failed":
                faults.append(f"read {pair.value!r}, whose writer was told that nothing happened ({writer}): {record}")
            elif writer.invoked_us > record.returned_us:
                faults.append(f"read {pair.value!r} before it was written ({writer}): {record}")
    return faults
