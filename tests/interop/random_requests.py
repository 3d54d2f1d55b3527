"""Random KV requests for comparing two stores: few keys, all options, every edge of ranges and revisions.

One seed gives one sequence, as long as the stores answer alike: the maker is told their revisions.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from actd.calls import prefix_end
from protocol.wire import rpc_pb2 as rpc

ALPHABET = (b"\x00", b"\x01", b"a", b"b", b"/", b"\xfe", b"\xff")
SIZES = (0, 1, 3, 120, 127, 128, 129, 300, 16_380, 16_384, 100_000)
"""Of values: both sides of where a varint grows, and more than one HTTP/2 frame."""
OPERATIONS_MAX = 128
ANY_REVISION_MAX = 1 << 62

Request = rpc.RangeRequest | rpc.PutRequest | rpc.DeleteRangeRequest | rpc.TxnRequest | rpc.CompactionRequest


class RequestMaker:
    """Makes requests; `revision` and `compacted` are what the stores were last heard to be at."""

    def __init__(self, seed: object) -> None:
        self._random = Random(repr(seed))
        self.revision = 1
        self.compacted = -1

    def _sometimes(self, share: float) -> bool:
        return self._random.random() < share

    # --- parts -------------------------------------------------------------------------------------

    def key(self) -> bytes:
        """A key that was most likely used before."""
        random = self._random
        if self._sometimes(0.01):
            return b""
        if self._sometimes(0.02):
            return random.choice(ALPHABET[2:]) * random.choice((126, 127, 128, 129, 300))
        return b"".join(random.choices(ALPHABET, k=random.choice((1, 1, 2, 2, 3))))

    def span(self) -> tuple[bytes, bytes]:
        """A key and a range end: one key, a prefix, from a key on, everything, nothing, or anything."""
        random = self._random
        key = self.key()
        form = random.randrange(8)
        if form < 3:
            return key, b""
        if form == 3:
            return key, b"\x00"
        if form == 4:
            return b"\x00", b"\x00"
        if form == 5:
            return key, prefix_end(key) if key else b"\x00"
        return key, self.key()

    def past(self) -> int:
        """A revision: mostly one that can be read, sometimes just not."""
        random = self._random
        if self._sometimes(0.7):
            return random.randint(max(self.compacted, 1), self.revision)
        near = (self.revision, self.compacted)
        return random.choice([at + by for at in near for by in (-1, 0, 1)] + [-7, ANY_REVISION_MAX, 1 - (1 << 63)])

    def value(self) -> bytes:
        """Anything, mostly short."""
        random = self._random
        if self._sometimes(0.9):
            return b"".join(random.choices(ALPHABET, k=random.randrange(3)))
        return random.randbytes(random.choice(SIZES))

    # --- requests ----------------------------------------------------------------------------------

    def range_(self) -> rpc.RangeRequest:
        """A Range with any options."""
        random = self._random
        key, end = self.span()
        request = rpc.RangeRequest(key=key, range_end=end, serializable=self._sometimes(0.3))
        if self._sometimes(0.4):
            request.limit = random.choice((1, 1, 2, 3, 5, 10, -1, 1000))
        if self._sometimes(0.4):
            request.revision = self.past()
        if self._sometimes(0.5):
            request.sort_order = random.choice(rpc.RangeRequest.SortOrder.values())
            request.sort_target = random.choice(rpc.RangeRequest.SortTarget.values())
        request.keys_only = self._sometimes(0.2)
        request.count_only = self._sometimes(0.1)
        for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self._sometimes(0.08):
                setattr(request, bound, self.past())
        return request

    def put(self) -> rpc.PutRequest:
        """A Put; some contradict themselves, some name a lease that is not there."""
        request = rpc.PutRequest(key=self.key(), value=self.value(), prev_kv=self._sometimes(0.3))
        if self._sometimes(0.1):
            request.ignore_value = True
            if self._sometimes(0.8):
                request.ClearField("value")
        request.ignore_lease = self._sometimes(0.1)
        if self._sometimes(0.05):
            request.lease = self._random.choice((1, 77, -3, (1 << 63) - 1))
        return request

    def delete(self) -> rpc.DeleteRangeRequest:
        """A DeleteRange; mostly of little, so that something stays."""
        key, end = self.span() if self._sometimes(0.3) else (self.key(), b"")
        return rpc.DeleteRangeRequest(key=key, range_end=end, prev_kv=self._sometimes(0.5))

    def compare(self) -> rpc.Compare:
        """A Compare that may well hold."""
        random = self._random
        key, end = self.span() if self._sometimes(0.3) else (self.key(), b"")
        result = random.choice(rpc.Compare.CompareResult.values())
        compare = rpc.Compare(key=key, range_end=end, result=result)
        compare.target = random.choice(rpc.Compare.CompareTarget.values())
        if self._sometimes(0.1):
            return compare
        operands: dict[Any, tuple[str, Any]] = {
            rpc.Compare.VERSION: ("version", random.randrange(4)),
            rpc.Compare.CREATE: ("create_revision", random.choice((0, self.past()))),
            rpc.Compare.MOD: ("mod_revision", random.choice((0, self.past()))),
            rpc.Compare.VALUE: ("value", self.value()),
            rpc.Compare.LEASE: ("lease", random.randrange(2)),
        }
        # An operand of another target counts as none.
        target = compare.target if self._sometimes(0.97) else random.choice(list(operands))
        setattr(compare, *operands[target])
        return compare

    def operation(self, depth: int, *, read_only: bool) -> rpc.RequestOp:
        """An operation of a txn, rarely an unset one."""
        if self._sometimes(0.004):
            return rpc.RequestOp()
        kind = self._random.randrange(10)
        if depth and kind < 2:
            return rpc.RequestOp(request_txn=self.txn(depth - 1, read_only=read_only))
        if read_only or kind < 5:
            return rpc.RequestOp(request_range=self.range_())
        if kind < 8:
            return rpc.RequestOp(request_put=self.put())
        return rpc.RequestOp(request_delete_range=self.delete())

    def txn(self, depth: int = 2, *, read_only: bool = False) -> rpc.TxnRequest:
        """A Txn, nested up to `depth`; a few have as many operations as are allowed, or one more."""
        counts = [self._random.choice((0, 1, 1, 2, 3)) for _ in range(3)]
        if self._sometimes(0.01):
            counts[self._random.randrange(3)] = OPERATIONS_MAX + self._random.randrange(2)
        compares, success, failure = counts
        request = rpc.TxnRequest(
            compare=[self.compare() for _ in range(compares)],
            success=[self.operation(depth, read_only=read_only) for _ in range(success)],
            failure=[self.operation(depth, read_only=read_only) for _ in range(failure)],
        )
        _spare_etcd(request)
        return request

    def compaction(self) -> rpc.CompactionRequest:
        """A Compact, mostly to somewhere in the middle of what is left."""
        revision = self.past() if self._sometimes(0.4) else (max(self.compacted, 1) + self.revision) // 2
        return rpc.CompactionRequest(revision=revision, physical=self._sometimes(0.5))

    def write(self) -> Request:
        """Something that may change the store."""
        kind = self._random.randrange(100)
        if kind < 50:
            return self.put()
        if kind < 62:
            return self.delete()
        return self.txn() if kind < 97 else self.compaction()

    def read(self) -> Request:
        """Something that does not."""
        return self.txn(1, read_only=True) if self._sometimes(0.15) else self.range_()


def _operations(request: rpc.TxnRequest) -> Iterator[rpc.RequestOp]:
    for operation in (*request.success, *request.failure):
        yield operation
        yield from _operations(operation.request_txn)


def _spare_etcd(request: rpc.TxnRequest) -> None:
    """Take out what kills etcd: a put that keeps something of a pair which the same txn has deleted from a key on."""
    operations = list(_operations(request))
    if any(operation.request_delete_range.range_end == b"\x00" for operation in operations):
        for operation in operations:
            if operation.WhichOneof("request") == "request_put":
                operation.request_put.ClearField("ignore_value")
                operation.request_put.ClearField("ignore_lease")
