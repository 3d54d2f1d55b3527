"""What answers say about revisions still to come: the reason why a wrong guess is found out at once.

Owns facts: "right after revision s, key k held this pair", gathered from answered reads, previous pairs and compares.
A pair names the revision that made it, so one fact speaks of all revisions between: nothing touched the key in them.
Knows items; knows no search. Invariant: facts are only consequences of answers the search must explain anyway, so
refusing a step because of one never refuses a linearization.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from checker.items import Item, Role
from checker.model import Pair, branch_of, operation_of
from checker.plain import Plain

_EQUAL: Final = 0
_COMPARED: Final = {0: "version", 1: "create_revision", 2: "mod_revision"}


class Fact(NamedTuple):
    """Right after revision `state` the key held `pair`, of which only the named fields are known; None: it was absent.

    `item` is who was told.
    """

    state: int
    pair: Plain | None
    item: Item


class Observations:
    """All facts of a problem, by key and by revision."""

    def __init__(self, items: Iterable[Item]) -> None:
        answered = [item for item in items if item.checked and item.role in (Role.READER, Role.WRITER)]
        known = {item.pin: item for item in items if item.role == Role.WRITER}
        self._facts: dict[str, list[Fact]] = {}
        self._states: dict[str, list[int]] = {}
        self._made: dict[int, list[Fact]] = defaultdict(list)
        self._collect(answered)
        last = max((item.pin for item in items), default=0)
        self.gaps: list[int] = [revision for revision in range(2, last + 1) if revision not in known]
        """Revisions that no answered write made."""
        self._puts: dict[str, list[int]] = defaultdict(list)
        self._loose: list[int] = list(self.gaps)
        """Revisions that may have touched any key, for all that is known."""
        self._extra_puts: list[int] = list(self.gaps)
        """Revisions that may have put any key without being in `_puts`."""
        for revision in sorted(known):
            self._index_writer(known[revision])
        self._loose.sort()
        self._extra_puts.sort()

    def _collect(self, answered: list[Item]) -> None:
        """Keep per key and revision that made it only the latest observation: it says all that earlier ones say."""
        latest: dict[tuple[str, int, int], Fact] = {}
        others: list[tuple[str, Fact]] = []
        for item in answered:
            for key, state, pair in _told(item):
                fact = Fact(state, pair, item)
                made = 0 if pair is None else pair.get("mod_revision", 0)
                if not made:
                    others.append((key, fact))
                    continue
                known = (key, made, len(pair or ()))
                before = latest.get(known)
                if before is None or state > before.state:
                    latest[known] = fact
        for (key, made, _), fact in latest.items():
            self._made[made].append(fact)
            others.append((key, fact))
        others.sort(key=lambda named: named[1].state)
        for key, fact in others:
            self._facts.setdefault(key, []).append(fact)
            self._states.setdefault(key, []).append(fact.state)

    def _index_writer(self, item: Item) -> None:
        loose = False
        for name, inner in _written(item):
            if name == "request_put":
                self._puts[inner["key"]].append(item.pin)
            else:
                loose = True
        if loose:
            self._loose.append(item.pin)
        if item.call == "txn" and not item.checked:
            self._extra_puts.append(item.pin)

    # --- questions -------------------------------------------------------------------------------

    def all_made(self) -> Iterator[Fact]:
        """Every fact about a pair, by the revision that made it."""
        for revision in sorted(self._made):
            yield from self._made[revision]

    def next_put(self, key: str, revision: int) -> int | None:
        """The next revision after `revision` that certainly put `key`."""
        puts = self._puts.get(key, [])
        place = bisect_right(puts, revision)
        return puts[place] if place < len(puts) else None

    def demanded(self, revision: int) -> list[Fact]:
        """Facts about the very pairs that `revision` made."""
        return self._made.get(revision, [])

    def refuted(self, revision: int, live: dict[str, Pair], changed: Iterable[str]) -> Fact | None:
        """Return a fact that cannot come true any more after `revision` changed keys of `live`, if there is one."""
        for fact in self._made.get(revision, ()):
            assert fact.pair is not None, "only pairs are made"
            pair = live.get(fact.pair["key"])
            if pair is None or not _agree(fact.pair, pair):
                return fact
        for key in changed:
            states = self._states.get(key)
            if states is None:
                continue
            place = bisect_left(states, revision)
            if place < len(states):
                fact = self._facts[key][place]
                if not self._reachable(key, live.get(key), revision, fact):
                    return fact
        return None

    def _reachable(self, key: str, pair: Pair | None, revision: int, fact: Fact) -> bool:
        """Whether `pair`, made at `revision`, can have become what the fact says by `fact.state`."""
        untouched = not _count(self._loose, revision, fact.state) and not _count(
            self._puts.get(key, []), revision, fact.state
        )
        if untouched:
            if pair is None or fact.pair is None:
                return pair is fact.pair
            return _agree(fact.pair, pair)
        if fact.pair is None:
            return pair is None or _count(self._loose, revision, fact.state) > 0
        made = fact.pair.get("mod_revision", 0)
        if 0 < made < revision:
            return False
        created = fact.pair.get("create_revision", 0)
        if not created or created > revision:
            return True
        if pair is None or created != pair["create_revision"]:
            return False
        return self._version_reachable(key, pair["version"], revision, fact.pair)

    def _version_reachable(self, key: str, version: int, revision: int, wanted: Plain) -> bool:
        """Every put since adds one to the version; so may every revision nobody answered for."""
        target: int = wanted.get("version", 0)
        made: int = wanted.get("mod_revision", 0)
        if not target or not made:
            return True
        certain = version + _count(self._puts.get(key, []), revision, made)
        return certain <= target <= certain + _count(self._extra_puts, revision, made)


def made_facts(items: Iterable[Item]) -> Iterator[Fact]:
    """Yield every fact that names the revision of its pair; one per pair and revision is enough for who asks."""
    seen: set[tuple[str, int, int]] = set()
    for item in items:
        if item.checked and item.role in (Role.READER, Role.WRITER):
            for key, state, pair in _told(item):
                made = 0 if pair is None else pair.get("mod_revision", 0)
                if made and (key, made, len(pair or ())) not in seen:
                    seen.add((key, made, len(pair or ())))
                    yield Fact(state, pair, item)


def _count(revisions: list[int], after: int, until: int) -> int:
    """How many of a sorted list lie in `(after, until]`."""
    return bisect_right(revisions, until) - bisect_right(revisions, after)


def _agree(known: Plain, pair: Pair) -> bool:
    """Whether a pair has every field that is known of it; a value that is empty is not in the pair."""
    return all(pair.get(name, "" if name == "value" else 0) == value for name, value in known.items())


def _whole(pair: Plain, *, keys_only: bool = False) -> Plain:
    """A pair of an answer as a fact: what is not in it is known to be empty."""
    return pair if keys_only or "value" in pair else {**pair, "value": ""}


def _told(item: Item) -> Iterator[tuple[str, int, Plain | None]]:
    """Yield (key, state, pair or None) for all that an answer says of single keys."""
    before = item.pin - 1 if item.role == Role.WRITER else item.pin
    if item.call == "range":
        yield from _told_by_range(item.request, item.answer, item.pin)
    elif item.call == "put" and item.request.get("prev_kv"):
        previous = item.answer.get("prev_kv")
        yield item.request.get("key", ""), before, None if previous is None else _whole(previous)
    elif item.call == "delete":
        if not item.request.get("range_end") and not item.answer.get("deleted"):
            yield item.request.get("key", ""), before, None
        for previous in item.answer.get("prev_kvs", ()):
            yield previous.get("key", ""), before, _whole(previous)
    elif item.call == "txn":
        if item.answer.get("succeeded"):
            yield from _told_by_compares(item.request, before)
        if item.role == Role.READER:
            branch = branch_of(item.request, bool(item.answer.get("succeeded")))
            for operation, response in zip(branch, item.answer.get("responses", ()), strict=False):
                if "request_range" in operation and "response_range" in response:
                    yield from _told_by_range(operation["request_range"], response["response_range"], item.pin)


def _told_by_range(request: Plain, answer: Plain, current: int) -> Iterator[tuple[str, int, Plain | None]]:
    wanted = request.get("revision", 0)
    state = wanted if 0 < wanted < current else current
    keys_only = bool(request.get("keys_only"))
    for pair in answer.get("kvs", ()):
        yield pair.get("key", ""), state, _whole(pair, keys_only=keys_only)
    if not request.get("range_end") and not answer.get("count"):
        yield request.get("key", ""), state, None


def _told_by_compares(request: Plain, state: int) -> Iterator[tuple[str, int, Plain | None]]:
    for compare in request.get("compare", ()):
        if compare.get("range_end") or compare.get("result", 0) != _EQUAL:
            continue
        key, name = compare.get("key", ""), _COMPARED.get(compare.get("target", 0))
        if name is not None:
            operand = compare.get(name, 0)
            yield key, state, {"key": key, name: operand} if operand else None


def _written(item: Item) -> Iterator[tuple[str, Plain]]:
    """Yield the puts and deletes that an answered write did, by its answer."""
    if item.call != "txn":
        yield f"request_{'put' if item.call == 'put' else 'delete_range'}", item.request
    elif item.checked:
        yield from _written_by_txn(item.request, item.answer)
    else:
        yield "request_delete_range", {}


def _written_by_txn(request: Plain, answer: Plain) -> Iterator[tuple[str, Plain]]:
    for operation, response in zip(
        branch_of(request, bool(answer.get("succeeded"))), answer.get("responses", ()), strict=False
    ):
        if not operation:
            continue
        name, inner = operation_of(operation)
        if name == "request_txn":
            yield from _written_by_txn(inner, response.get("response_txn", {}))
        elif name != "request_range":
            yield name, inner
