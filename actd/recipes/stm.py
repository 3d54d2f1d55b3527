"""Software transactional memory: reads of one revision, writes kept back, and one transaction that makes both true.

Owns what an attempt has read and wants to write. Knows no client.
Invariant: an attempt is committed only if every key it read, and with `serializable_snapshot` every key it wrote, is as
it was at the revision of its reads; otherwise nothing of it happens.
"""

from typing import Final, Literal

from actd import calls
from actd.calls import Call, Key, raw
from actd.results import KeyValue, RangeResult, TxnResult
from actd.txn import Delete, Operation, Put, TxnParts, mod_revision

Isolation = Literal["serializable_snapshot", "serializable"]
"""`serializable`: what was read is unchanged at the commit. `serializable_snapshot`: and so is what is written."""


class Attempt:
    """One run of the user's function."""

    def __init__(self, isolation: Isolation) -> None:
        self.revision = 0
        """That of all reads, once the first has been made."""
        self._isolation: Final = isolation
        self._read: dict[bytes, KeyValue | None] = {}
        self._writes: dict[bytes, bytes | None] = {}

    def known(self, key: Key) -> tuple[bool, bytes | None]:
        """Return whether the value of `key` needs no read, and it."""
        name = raw(key)
        if name in self._writes:
            return True, self._writes[name]
        if name in self._read:
            pair = self._read[name]
            return True, pair.value if pair is not None else None
        return False, None

    def read_call(self, key: Key) -> Call[RangeResult]:
        """Return the call that reads `key` as of this attempt's revision."""
        return calls.range_(key, revision=self.revision)

    def took(self, key: Key, found: RangeResult) -> bytes | None:
        """Take in what was read; return the value."""
        if not self.revision:
            self.revision = found.revision
        pair = self._read[raw(key)] = found.pairs[0] if found.pairs else None
        return pair.value if pair is not None else None

    def put(self, key: Key, value: Key) -> None:
        """Write `key` at the commit."""
        self._writes[raw(key)] = raw(value)

    def delete(self, key: Key) -> None:
        """Delete `key` at the commit."""
        self._writes[raw(key)] = None

    def commit_call(self) -> Call[TxnResult]:
        """Return the transaction; made once only, because a second copy would not find what the first has changed."""
        unchanged = [mod_revision(key) == (pair.mod_revision if pair else 0) for key, pair in self._read.items()]
        if self._isolation == "serializable_snapshot" and self.revision:
            unread = [key for key in self._writes if key not in self._read]
            unchanged += [mod_revision(key) < self.revision + 1 for key in unread]
        writes: list[Operation] = [
            Delete(key) if value is None else Put(key, value) for key, value in self._writes.items()
        ]
        parts = TxnParts()
        parts.add(tuple(unchanged), tuple(writes), ())
        call = parts.call()
        return call if writes else call._replace(repeatable=True)
