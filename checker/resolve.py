"""Unknown writes that gave themselves away: who else can have made the revision of a pair that somebody saw?

Owns one rule. A revision nobody was answered for is known by a pair of it that was seen; if only one write of unknown
outcome puts that pair, it made that revision and no other. It becomes a writer whose answer nobody heard. The rule is
applied until it finds nothing new. Invariant: every linearization of the items is one of the resolved items.
"""

from dataclasses import replace

from checker.items import Item, Role, may_put, operations_of
from checker.observations import made_facts


def resolved(items: list[Item]) -> list[Item]:
    """Return the items with every unknown write that can only have made one revision pinned to it."""
    maybes = {place: item for place, item in enumerate(items) if item.role == Role.MAYBE}
    taken = {item.pin for item in items if item.role == Role.WRITER}
    if not maybes:
        return items
    by_key: dict[str, set[int]] = {}
    for place, item in maybes.items():
        for key in _keys(item):
            by_key.setdefault(key, set()).add(place)
    wanted: dict[int, list[tuple[str, str | None, int]]] = {}
    for fact in made_facts(items):
        assert fact.pair is not None, "only pairs are made"
        revision = fact.pair["mod_revision"]
        if revision not in taken and fact.pair["key"] in by_key:
            wanted.setdefault(revision, []).append((fact.pair["key"], fact.pair.get("value"), fact.item.returned))
    candidates = {
        revision: {
            place
            for place in by_key[pairs[0][0]]
            if all(may_put(maybes[place], key, value) and maybes[place].invoked <= end for key, value, end in pairs)
        }
        for revision, pairs in wanted.items()
    }
    pinned = only_ones(candidates)
    return [
        replace(item, role=Role.WRITER, pin=pinned[place], checked=False) if place in pinned else item
        for place, item in enumerate(items)
    ]


def only_ones(candidates: dict[int, set[int]]) -> dict[int, int]:
    """Return place to revision for each revision that has one candidate left, as long as that leaves one to another."""
    holders: dict[int, list[int]] = {}
    for revision, places in candidates.items():
        for place in places:
            holders.setdefault(place, []).append(revision)
    pinned: dict[int, int] = {}
    todo = [revision for revision, places in candidates.items() if len(places) == 1]
    while todo:
        revision = todo.pop()
        places = candidates[revision]
        if len(places) != 1:
            continue
        place = next(iter(places))
        pinned[place] = revision
        for other in holders[place]:
            if other != revision:
                candidates[other].discard(place)
                if len(candidates[other]) == 1:
                    todo.append(other)
    return pinned


def _keys(item: Item) -> set[str]:
    if item.call == "put":
        return {item.request.get("key", "")}
    if item.call != "txn":
        return set()
    return {inner.get("key", "") for name, inner in operations_of(item.request) if name == "request_put"}
