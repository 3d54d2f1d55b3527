"""Objects as Kubernetes keeps them: create if absent, update and delete by mod_revision, read back on conflict."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from google.protobuf.message import Message

from chaos.clients import ChaosClient
from chaos.history import Record
from chaos.requests import delete, get, if_revision, put, scan, txn, writes_of
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "registry/pods/"
OBJECTS: Final = 12
PAGE_PAIRS: Final = 5


class ObjectsWorkload:
    """Optimistic concurrency by mod_revision."""

    name = "objects"

    def prepare(self, client: ChaosClient) -> None:
        """Objects begin absent."""

    def step(self, client: ChaosClient) -> None:
        """Create, update, delete or list."""
        key = f"{PREFIX}{client.rng.choice(('default', 'system'))}/{client.rng.randrange(OBJECTS // 2)}"
        if client.rng.random() < 0.15:
            client.record(self.name, scan(PREFIX, limit=PAGE_PAIRS))
            return
        held = client.call(self.name, get(key), rpc.RangeResponse)
        if held is None:
            return
        revision = held.kvs[0].mod_revision if held.kvs else 0
        change: Message = put(key, client.unique())
        if held.kvs and client.rng.random() < 0.3:
            change = delete(key)
        client.record(self.name, txn([if_revision(key, revision)], [change], [get(key)]), key=key, expected=revision)

    def conclude(self, client: ChaosClient) -> None:
        """List everything."""
        client.record(self.name, scan(PREFIX), final=True)

    def check(self, records: Sequence[Record]) -> list[str]:
        """A change that succeeded found the revision it expected: no other change of its key lies between."""
        faults: list[str] = []
        perhaps_deleted = {
            str(record.note["key"])
            for record in records
            if "key" in record.note and record.outcome == "unknown" and _deletes(record)
        }
        changes: dict[str, list[tuple[int, int, Record]]] = {}
        for record in records:
            if "expected" in record.note and isinstance(record.response, rpc.TxnResponse):
                for write in writes_of(record.request, record.response):
                    expected = record.note["expected"]
                    assert isinstance(expected, int), "it is a revision"
                    changes.setdefault(write.key.decode(), []).append((write.revision, expected, record))
        for key, of_key in changes.items():
            of_key.sort(key=lambda change: change[0])
            for (before, _, earlier), (_, expected, later) in pairwise(of_key):
                if expected == 0 and (_deletes(earlier) or key in perhaps_deleted):
                    continue
                if expected < before:
                    faults.append(f"a change at revision {before} was overwritten unseen ({earlier}): {later}")
        return told(self.name, faults)


def _deletes(record: Record) -> bool:
    assert isinstance(record.request, rpc.TxnRequest), "changes are txns"
    return record.request.success[0].HasField("request_delete_range")
