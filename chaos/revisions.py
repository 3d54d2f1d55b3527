"""What revisions alone must show, whatever the workload: one order of all writes, and answers that fit into it.

Pure: records in, faults out. It is quick, sound and not complete: every fault it tells is one, but it does not search
for an order as a linearizability checker does. Knows nothing of workloads but that they delete single keys.
"""

import bisect
from collections.abc import Sequence
from typing import Final

from chaos.history import Record
from chaos.requests import KINDS, Seen, Write, attempted_keys, ranges_of, writes_of
from chaos.workloads.base import told
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

NAME: Final = "revisions"
NO_PART: Final = ("compact", "status", "hash", "watch", *(kind for kind in KINDS if kind.startswith("lease_")))
"""Calls that show no state of the pairs, or one of any time; what a lease's end deletes is on record as a delete."""


class RevisionChecker:
    """Holds one history against the order its revisions claim."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = [record for record in records if record.kind not in NO_PART]
        self._answered = [record for record in self._records if record.ok]
        self._by_key: dict[bytes, list[Write]] = {}
        self._perhaps_written: dict[bytes, list[Record]] = {}
        """Writes of unknown outcome, by the keys they might have touched."""
        for record in self._answered:
            assert record.response is not None, "an answered call has an answer"
            for write in writes_of(record.request, record.response):
                self._by_key.setdefault(write.key, []).append(write)
        for record in self._records:
            if record.outcome == "unknown":
                for key in attempted_keys(record.request):
                    self._perhaps_written.setdefault(key, []).append(record)
        for writes in self._by_key.values():
            writes.sort(key=lambda write: write.revision)
        self._keys = sorted(self._by_key)

    def check(self) -> list[str]:
        """Return what is wrong; nothing if all is well."""
        faults = [*self._one_revision_one_write(), *self._time_and_revisions(), *self._one_revision_one_pair()]
        for record in self._answered:
            assert record.response is not None, "an answered call has an answer"
            for seen in ranges_of(record.request, record.response):
                faults += [f"{fault}: {record}" for fault in self._misread(seen, record)]
        return told(NAME, faults)

    def _one_revision_one_write(self) -> list[str]:
        """No two acknowledged writes have one revision."""
        faults = []
        writer: dict[int, Record] = {}
        for record in self._answered:
            if self._wrote(record):
                other = writer.setdefault(record.revision, record)
                if other is not record:
                    faults.append(f"two writes at revision {record.revision}: {other} and {record}")
        return faults

    @staticmethod
    def _wrote(record: Record) -> bool:
        return record.response is not None and bool(writes_of(record.request, record.response))

    def _time_and_revisions(self) -> list[str]:
        """What began after an answer has its revision at least, and a write a larger one."""
        faults = []
        returned = sorted(self._answered, key=lambda record: record.returned_us)
        at = 0
        latest: Record | None = None
        for record in self._answered:  # in the order of invocation
            if _serializable(record):
                continue
            while at < len(returned) and returned[at].returned_us < record.invoked_us:
                if latest is None or returned[at].revision > latest.revision:
                    latest = returned[at]
                at += 1
            if latest is None:
                continue
            least = latest.revision + (1 if self._wrote(record) else 0)
            if record.revision < least:
                faults.append(f"revision {record.revision} after {latest.revision}: {latest} and then {record}")
        return faults

    def _one_revision_one_pair(self) -> list[str]:
        """A key has one value, creation and version at one revision, whoever reads it, and the value written then."""
        faults = []
        known: dict[tuple[bytes, int], mvcc.KeyValue] = {}
        for record in self._answered:
            assert record.response is not None, "an answered call has an answer"
            for seen in ranges_of(record.request, record.response):
                for pair in seen.response.kvs:
                    before = known.setdefault((pair.key, pair.mod_revision), pair)
                    if before != pair and not seen.request.keys_only:
                        faults.append(f"{before} and then another of its revision: {record}")
        for writes in self._by_key.values():
            for write in writes:
                read = known.get((write.key, write.revision))
                if read is not None and read.value != write.value:
                    faults.append(f"{write} was acknowledged, but read was {read}")
        return faults

    def _misread(self, seen: Seen, record: Record) -> list[str]:
        """A listing at a revision shows, for each key in it, no older state than the last acknowledged one."""
        faults = []
        pairs = {pair.key: pair.mod_revision for pair in seen.response.kvs}
        for key, revision in pairs.items():
            if revision > seen.revision:
                faults.append(f"{key!r} of revision {revision} in a listing of revision {seen.revision}")
            last = self._last_write(key, seen.revision)
            if last is not None and last.revision > revision:
                faults.append(f"{key!r} of revision {revision}, although {last}")
        for key in self._keys_within(seen.request) if not seen.response.more else ():
            if key in pairs:
                continue
            last = self._last_write(key, seen.revision)
            if last is not None and last.value is not None and not self._perhaps_deleted(key, record):
                faults.append(f"{key!r} is missing, although {last}")
        return faults

    def _keys_within(self, request: rpc.RangeRequest) -> list[bytes]:
        first = bisect.bisect_left(self._keys, request.key)
        end = bisect.bisect_left(self._keys, request.range_end or request.key + b"\0")
        return self._keys[first:end]

    def _last_write(self, key: bytes, revision: int) -> Write | None:
        writes = self._by_key.get(key, [])
        at = bisect.bisect_right(writes, revision, key=lambda write: write.revision)
        return writes[at - 1] if at else None

    def _perhaps_deleted(self, key: bytes, reader: Record) -> bool:
        return any(record.invoked_us < reader.returned_us for record in self._perhaps_written.get(key, ()))


def _serializable(record: Record) -> bool:
    return isinstance(record.request, rpc.RangeRequest) and record.request.serializable
