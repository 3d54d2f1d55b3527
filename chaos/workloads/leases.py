"""Leases that are granted, kept alive, left alone and revoked, each with one key: never cut short, and gone at last.

A lease that ends deletes its key without being asked by anybody. For the judge of histories that is a delete whose
outcome nobody was told, so one is put on record when the key is; each key is written once, so it can delete no other.
When all is over a watcher of the whole past says at which revision each was done; the judge then looks whether it fits.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chaos.clients import ChaosClient
from chaos.doors import CallFailed
from chaos.history import Record
from chaos.requests import delete, get, prefix_end, scan
from chaos.workloads.base import told
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "leases/"
HELD_MAX: Final = 3
"""Leases a client looks after at a time."""
TTLS_S: Final = (5, 6, 8)
"""Not below what a server with the election timeout of these runs grants."""
LISTEN_S: Final = 3.0
"""A watcher of the past that is silent for so long has told all of it."""
LEARNED_WITHIN_S: Final = 20.0
ENDED_WITHIN_S: Final = 60.0
"""At rest every lease has ended by then, whatever its leaders have gone through."""


@dataclass(frozen=True)
class _Lease:
    """One lease and its key."""

    number: int
    key: str


class LeaseWorkload:
    """Holders of leases."""

    name = "leases"

    def __init__(self) -> None:
        self._held: dict[int, list[_Lease]] = {}
        self._granted: list[int] = []
        self._ends: dict[bytes, Record] = {}
        """What the end of each key's lease does."""

    def prepare(self, client: ChaosClient) -> None:
        """There are none at first."""

    def step(self, client: ChaosClient) -> None:
        """Grant, keep alive, look or revoke."""
        held = self._held.setdefault(client.index, [])
        choice = client.rng.random()
        if not held or (len(held) < HELD_MAX and choice < 0.2):
            self._grant(client, held)
            return
        lease = client.rng.choice(held)
        if choice < 0.6:
            kept = client.call(
                self.name, rpc.LeaseKeepAliveRequest(ID=lease.number), rpc.LeaseKeepAliveResponse, lease=lease.number
            )
            gone = kept is not None and kept.TTL <= 0
        elif choice < 0.97:
            seen = client.call(self.name, get(lease.key), rpc.RangeResponse, lease=lease.number)
            gone = seen is not None and not seen.kvs
        else:
            client.record(self.name, rpc.LeaseRevokeRequest(ID=lease.number), lease=lease.number)
            gone = True
        if gone or client.rng.random() < 0.01:  # left alone: it runs out
            held.remove(lease)

    def _grant(self, client: ChaosClient, held: list[_Lease]) -> None:
        number = client.rng.getrandbits(62) | 1
        lease = _Lease(number, PREFIX + client.unique())
        request = rpc.LeaseGrantRequest(TTL=client.rng.choice(TTLS_S), ID=number)
        if client.call(self.name, request, rpc.LeaseGrantResponse, lease=number) is None:
            return
        self._granted.append(number)
        key = lease.key.encode()
        self._ends[key] = client.may_happen(self.name, delete(lease.key))
        put = client.record(self.name, rpc.PutRequest(key=key, value=b"held", lease=number), lease=number)
        if put.ok:
            held.append(lease)

    def conclude(self, client: ChaosClient) -> None:
        """Nobody keeps anything alive any more: wait until all have ended, and list what is left of their keys."""
        left = list(self._granted)
        until = time.monotonic() + ENDED_WITHIN_S
        while left and time.monotonic() < until:
            request = rpc.LeaseTimeToLiveRequest(ID=left[-1])
            answer = client.call(self.name, request, rpc.LeaseTimeToLiveResponse)
            if answer is not None and answer.TTL < 0:
                left.pop()
            else:
                time.sleep(0.2)
        client.record(self.name, scan(PREFIX), final=True, left=len(left))
        self._learn_ends(client)

    def _learn_ends(self, client: ChaosClient) -> None:
        """Ask a watcher of everything that has happened when each key was deleted."""
        key = PREFIX.encode()
        request = rpc.WatchCreateRequest(key=key, range_end=prefix_end(key), start_revision=1)
        until = time.monotonic() + LEARNED_WITHIN_S
        unseen = dict(self._ends)
        while unseen and time.monotonic() < until:
            with contextlib.suppress(CallFailed), contextlib.closing(client.watch(request)) as stream:
                while responses := stream.take(LISTEN_S):
                    for event in (event for response in responses for event in response.events):
                        end = unseen.pop(event.kv.key, None) if event.type == mvcc.Event.DELETE else None
                        if end is not None:
                            header = rpc.ResponseHeader(revision=event.kv.mod_revision)
                            client.has_happened(end, rpc.DeleteRangeResponse(header=header, deleted=1))
                break

    def check(self, records: Sequence[Record]) -> list[str]:
        """No lease ended before the time that was promised; all ended at last, and took their keys along."""
        faults = []
        of_lease: dict[int, list[Record]] = {}
        for record in records:
            if "lease" in record.note:
                of_lease.setdefault(int(str(record.note["lease"])), []).append(record)
            if record.note.get("final"):
                faults += _at_the_end(record)
        for lease, parts in of_lease.items():
            faults += _cut_short(lease, parts)
        return told(self.name, faults)


def _at_the_end(record: Record) -> list[str]:
    faults = []
    if record.note["left"]:
        faults.append(f"{record.note['left']} leases were still there {ENDED_WITHIN_S:.0f} s after the last keep-alive")
    elif isinstance(record.response, rpc.RangeResponse) and record.response.kvs:
        faults.append(f"keys outlived their leases: {[pair.key for pair in record.response.kvs][:5]}")
    return faults


def _cut_short(lease: int, parts: Sequence[Record]) -> list[str]:
    """Look at one lease's calls, which one client made one after the other."""
    faults = []
    until_us = 0
    written = over = False
    for record in parts:
        request, answer = record.request, record.response
        if isinstance(request, rpc.LeaseRevokeRequest):
            over = over or record.outcome != "failed"
        elif isinstance(answer, rpc.LeaseGrantResponse):
            until_us = record.invoked_us + answer.TTL * 1_000_000
        elif isinstance(answer, rpc.PutResponse):
            written = True
        elif isinstance(answer, rpc.LeaseKeepAliveResponse) and answer.TTL > 0:
            if over:
                faults.append(f"lease {lease:x} came back: {record}")
            # It was given its time when the server had the request, which is later still.
            until_us = max(until_us, record.invoked_us + answer.TTL * 1_000_000)
        elif isinstance(answer, rpc.LeaseKeepAliveResponse | rpc.RangeResponse):
            gone = isinstance(answer, rpc.LeaseKeepAliveResponse) or (written and not answer.kvs)
            if gone and not over and record.returned_us < until_us:
                early_ms = (until_us - record.returned_us) // 1000
                faults.append(f"lease {lease:x} was cut short by {early_ms} ms at least: {record}")
            over = over or gone
    return faults
