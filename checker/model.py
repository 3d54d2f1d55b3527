"""etcd's KV semantics on plain dicts, with a way back: the state a search moves through.

Owns the current pairs, every key's versions and the compacted revision. A request is first evaluated, which changes
nothing, then its changes are committed as one revision or forgotten; `undo` takes a commit back. Knows requests and
answers in the form of `checker.plain`, nothing of histories. `sim.kv_model` says the same over protobuf messages, more
plainly and slowly; tests hold the two against each other.
Invariants: `past(r)` never changes but by `undo`; `fingerprint` is equal for two states of one store exactly if no
request that asks for the `observed` revisions or the current one can tell them apart.
"""

import hashlib
import operator
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from checker.plain import Plain
from protocol.errors import ClientError, ErrorCode

Pair = Plain
"""A KeyValue; never changed once made."""
Changes = dict[str, Pair | None]
"""What a revision does: keys to their new pair, None where it was deleted, even if the same txn had put it."""
FINGERPRINT_BYTES: Final = 16

_OPERATIONS: Final = ("request_range", "request_put", "request_delete_range", "request_txn")
_SORT_ORDERS: Final = 3
_SORT_FIELDS: Final = ("key", "version", "create_revision", "mod_revision", "value")
_COMPARE_FIELDS: Final = ("version", "create_revision", "mod_revision", "value", "lease")
_COMPARE_VALUE: Final = 3
_HOLDS: Final[tuple[Callable[[Any, Any], bool], ...]] = (operator.eq, operator.gt, operator.lt, operator.ne)


class Result(NamedTuple):
    """What a request would be answered (without the top header) and would change."""

    answer: Plain
    changes: Changes


class Undo(NamedTuple):
    """How to take one commit back."""

    previous: list[tuple[str, Pair | None]]
    fingerprint: int


class Store:
    """A store at revision 1, empty, with leases that are always there.

    Args:
        leases: the leases that may be put with.
        observed: revisions that requests to come may ask for by number.
    """

    def __init__(self, leases: Iterable[int] = (), observed: Iterable[int] = ()) -> None:
        self.revision = 1
        self.compacted = -1
        self.live: dict[str, Pair] = {}
        self.fingerprint = 0
        self._leases = frozenset(leases)
        self._observed = sorted(set(observed))
        self._keys: list[str] = []
        self._ever: list[str] = []
        self._versions: dict[str, tuple[list[int], list[Pair | None]]] = {}

    # --- changing --------------------------------------------------------------------------------

    def commit(self, changes: Changes) -> Undo:
        """Make `changes` the next revision."""
        assert changes, "a revision changes something"
        undo = Undo([(key, self.live.get(key)) for key in changes], self.fingerprint)
        self.revision += 1
        for key, pair in changes.items():
            self._mark(key, pair)
            self._show(key, pair)
            versions = self._versions.get(key)
            if versions is None:
                self._versions[key] = ([self.revision], [pair])
                insort(self._ever, key)
            else:
                versions[0].append(self.revision)
                versions[1].append(pair)
        return undo

    def undo(self, undo: Undo) -> None:
        """Take the newest commit back."""
        for key, pair in undo.previous:
            revisions, pairs = self._versions[key]
            assert revisions[-1] == self.revision, "the newest commit is undone first"
            revisions.pop()
            pairs.pop()
            if not revisions:
                del self._versions[key]
                del self._ever[bisect_left(self._ever, key)]
            self._show(key, pair)
        self.revision -= 1
        self.fingerprint = undo.fingerprint

    def _show(self, key: str, pair: Pair | None) -> None:
        """Let `pair` be the current one of `key`."""
        if pair is not None:
            if key not in self.live:
                insort(self._keys, key)
            self.live[key] = pair
        elif key in self.live:
            del self.live[key]
            del self._keys[bisect_left(self._keys, key)]

    def _mark(self, key: str, pair: Pair | None) -> None:
        """Let the fingerprint forget the pair that ends here, unless somebody may still ask for it."""
        old = self.live.get(key)
        if old is not None:
            mark = _identity(old)
            self.fingerprint ^= fingerprint_of(mark)
            began = old["mod_revision"]
            place = bisect_left(self._observed, began)
            if place < len(self._observed) and self._observed[place] < self.revision:
                self.fingerprint ^= fingerprint_of((self.revision, *mark))
        if pair is not None:
            self.fingerprint ^= fingerprint_of(_identity(pair))

    # --- evaluating ------------------------------------------------------------------------------

    def evaluate(self, call: str, request: Plain) -> Result:
        """Return what the request would be answered and would change now.

        Raises:
            ClientError: it would be refused.
        """
        changes: Changes = {}
        if call == "range":
            return Result(self._range(request, changes, self.revision), changes)
        if call == "put":
            self._check_shape(request)
            self._check_lease(request)
            self._check_kept(request)
            return Result(self._put(request, changes), changes)
        if call == "delete":
            if not request.get("key"):
                raise ClientError(ErrorCode.EMPTY_KEY)
            return Result(self._delete(request, changes), changes)
        assert call == "txn", f"{call} is evaluated elsewhere"
        path = self._choose(request)
        self._check_path(request, iter(path))
        return Result(self._run(request, iter(path), changes), changes)

    def compaction_error(self, revision: int) -> ErrorCode | None:
        """Return why a compaction at `revision` would be refused now, if it would."""
        if revision <= self.compacted:
            return ErrorCode.COMPACTED
        return ErrorCode.FUTURE_REVISION if revision > self.revision else None

    def _range(self, request: Plain, changes: Changes, current: int) -> Plain:
        key = request.get("key")
        if not key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        if request.get("sort_order", 0) >= _SORT_ORDERS or request.get("sort_target", 0) >= len(_SORT_FIELDS):
            raise ClientError(ErrorCode.INVALID_SORT_OPTION)
        wanted = request.get("revision", 0)
        if wanted > current:
            raise ClientError(ErrorCode.FUTURE_REVISION)
        if 0 < wanted < self.compacted:
            raise ClientError(ErrorCode.COMPACTED)
        range_end = request.get("range_end", "")
        found = self._at(wanted, key, range_end) if 0 < wanted < current else self._within(key, range_end, changes)
        answer: Plain = {"count": len(found)} if found else {}
        if not request.get("count_only"):
            _page(request, found, answer)
        return answer

    def _within(self, key: str, range_end: str, changes: Changes) -> list[Pair]:
        """The pairs of a key or range now, seen through the changes of a running txn."""
        if not range_end:
            pair = changes[key] if key in changes else self.live.get(key)
            return [] if pair is None else [pair]
        names = _slice(self._keys, key, range_end)
        if not changes:
            return [self.live[name] for name in names]
        merged = {name: self.live[name] for name in names if name not in changes}
        merged |= {
            name: pair
            for name, pair in changes.items()
            if pair is not None and name >= key and (range_end == "\0" or name < range_end)
        }
        return [merged[name] for name in sorted(merged)]

    def _at(self, revision: int, key: str, range_end: str) -> list[Pair]:
        """The pairs of a key or range right after `revision`."""
        if revision == self.revision:
            return self._within(key, range_end, {})
        names = _slice(self._ever, key, range_end) if range_end else [key] if key in self._versions else []
        found = []
        for name in names:
            revisions, pairs = self._versions[name]
            place = bisect_right(revisions, revision)
            pair = pairs[place - 1] if place else None
            if pair is not None:
                found.append(pair)
        return found

    def _put(self, request: Plain, changes: Changes) -> Plain:
        key = request["key"]
        old = changes[key] if key in changes else self.live.get(key)
        revision = self.revision + 1
        pair: Pair = {"key": key, "create_revision": old["create_revision"] if old else revision}
        pair["mod_revision"] = revision
        pair["version"] = old["version"] + 1 if old else 1
        value = old.get("value") if old and request.get("ignore_value") else request.get("value")
        if value:
            pair["value"] = value
        lease = old.get("lease") if old and request.get("ignore_lease") else request.get("lease")
        if lease:
            pair["lease"] = lease
        changes[key] = pair
        return {"prev_kv": old} if old and request.get("prev_kv") else {}

    def _delete(self, request: Plain, changes: Changes) -> Plain:
        doomed = self._within(request["key"], request.get("range_end", ""), changes)
        for pair in doomed:
            changes[pair["key"]] = None
        answer: Plain = {"deleted": len(doomed)} if doomed else {}
        if doomed and request.get("prev_kv"):
            answer["prev_kvs"] = doomed
        return answer

    def _check_shape(self, request: Plain) -> None:
        if not request.get("key"):
            raise ClientError(ErrorCode.EMPTY_KEY)
        if request.get("ignore_value") and request.get("value"):
            raise ClientError(ErrorCode.VALUE_PROVIDED)
        if request.get("ignore_lease") and request.get("lease"):
            raise ClientError(ErrorCode.LEASE_PROVIDED)

    def _check_lease(self, request: Plain) -> None:
        if request.get("lease", 0) and request["lease"] not in self._leases:
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)

    def _check_kept(self, request: Plain) -> None:
        if (request.get("ignore_value") or request.get("ignore_lease")) and request["key"] not in self.live:
            raise ClientError(ErrorCode.KEY_NOT_FOUND)

    # --- txn -------------------------------------------------------------------------------------

    def _choose(self, request: Plain) -> list[bool]:
        """Whether each txn on the chosen path succeeds, outermost first, in the order they are met."""
        succeeded = all(self._compare(compare) for compare in request.get("compare", ()))
        outcome = [succeeded]
        for operation in branch_of(request, succeeded):
            inner = operation.get("request_txn")
            if inner is not None:
                outcome += self._choose(inner)
        return outcome

    def _compare(self, compare: Plain) -> bool:
        key = compare.get("key")
        if not key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        target = compare.get("target", 0)
        found = self._within(key, compare.get("range_end", ""), {})
        if not found and target == _COMPARE_VALUE:
            return False
        name = _COMPARE_FIELDS[target]
        default: Any = "" if target == _COMPARE_VALUE else 0
        operand = compare.get(name, default)
        holds = _HOLDS[compare.get("result", 0)]
        return all(holds(pair.get(name, default), operand) for pair in found or ({},))

    def _check_path(self, request: Plain, path: "Iterable[bool]") -> None:
        operations = _path(request, path)
        for name, inner in operations:
            if not inner.get("key"):
                raise ClientError(ErrorCode.EMPTY_KEY)
            if name == "request_put":
                self._check_shape(inner)
        for name, inner in operations:
            if name == "request_put":
                self._check_kept(inner)
                self._check_lease(inner)
        for name, inner in operations:
            if name == "request_range":
                if inner.get("revision", 0) < min(self.compacted, 0):
                    raise ClientError(ErrorCode.COMPACTED)
                self._range(inner, {}, self.revision)

    def _run(self, request: Plain, path: "Iterable[bool]", changes: Changes) -> Plain:
        """Run the chosen branch; headers of inner answers say the revision, a nested txn's says nothing."""
        steps = iter(path)
        succeeded = next(steps)
        responses: list[Plain] = []
        for operation in branch_of(request, succeeded):
            name, inner = operation_of(operation)
            if name == "request_txn":
                nested = self._run(inner, steps, changes)
                responses.append({"response_txn": {"header": {}, **nested}})
            elif name == "request_put":
                answer = self._put(inner, changes)
                responses.append({"response_put": {"header": {"revision": self.revision + 1}, **answer}})
            elif name == "request_delete_range":
                answer = self._delete(inner, changes)
                header = {"revision": self.revision + bool(changes)}
                responses.append({"response_delete_range": {"header": header, **answer}})
            else:
                current = self.revision + bool(changes)
                answer = self._range(inner, changes, current)
                responses.append({"response_range": {"header": {"revision": current}, **answer}})
        result: Plain = {"succeeded": True} if succeeded else {}
        if responses:
            result["responses"] = responses
        return result


def fingerprint_of(mark: tuple[Any, ...]) -> int:
    """A number of 128 bits for a tuple of plain values; two that differ have the same one only by a miracle."""
    return int.from_bytes(hashlib.blake2b(repr(mark).encode(), digest_size=FINGERPRINT_BYTES).digest(), "little")


def branch_of(request: Plain, succeeded: bool) -> list[Plain]:
    """The operations of a txn's branch."""
    branch: list[Plain] = request.get("success" if succeeded else "failure", [])
    return branch


def operation_of(operation: Plain) -> tuple[str, Plain]:
    """The kind and request of one operation of a txn.

    Raises:
        ClientError: it holds none.
    """
    for name in _OPERATIONS:
        if name in operation:
            return name, operation[name]
    raise ClientError(ErrorCode.KEY_NOT_FOUND)


def _path(request: Plain, path: "Iterable[bool]") -> list[tuple[str, Plain]]:
    """Every operation on the chosen path, in order, nested txns opened."""
    steps = iter(path)
    found: list[tuple[str, Plain]] = []
    for operation in branch_of(request, next(steps)):
        name, inner = operation_of(operation)
        if name == "request_txn":
            found += _path(inner, steps)
        else:
            found.append((name, inner))
    return found


def _slice(names: list[str], key: str, range_end: str) -> list[str]:
    """The names of a sorted list in `[key, range_end)`; a NUL as the end: all from `key` on."""
    first = bisect_left(names, key)
    return names[first:] if range_end == "\0" else names[first : bisect_left(names, range_end, lo=first)]


def _page(request: Plain, found: list[Pair], answer: Plain) -> None:
    """Filter, sort and cut as etcd does: without an order and filters it sorts only the page it fetched."""
    limit = request.get("limit", 0)
    low_mod, high_mod = request.get("min_mod_revision", 0), request.get("max_mod_revision", 0)
    low_create, high_create = request.get("min_create_revision", 0), request.get("max_create_revision", 0)
    filtered = low_mod or high_mod or low_create or high_create
    order, target = request.get("sort_order", 0), request.get("sort_target", 0)
    if limit > 0 and not order and not filtered:
        found = found[: limit + 1]
    if filtered:
        found = [
            pair
            for pair in found
            if (not low_mod or pair["mod_revision"] >= low_mod)
            and (not high_mod or pair["mod_revision"] <= high_mod)
            and (not low_create or pair["create_revision"] >= low_create)
            and (not high_create or pair["create_revision"] <= high_create)
        ]
    if order or target:
        name = _SORT_FIELDS[target]
        default: Any = "" if name in ("key", "value") else 0
        found = sorted(found, key=lambda pair: pair.get(name, default), reverse=order == 2)
    if 0 < limit < len(found):
        answer["more"] = True
        found = found[:limit]
    if request.get("keys_only"):
        found = [{name: value for name, value in pair.items() if name != "value"} for pair in found]
    if found:
        answer["kvs"] = found


def _identity(pair: Pair) -> tuple[Any, ...]:
    return (
        pair["key"],
        pair["mod_revision"],
        pair["create_revision"],
        pair["version"],
        pair.get("value"),
        pair.get("lease"),
    )
