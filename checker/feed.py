"""Writes of unknown outcome resolved by a feed: what a store's log, or a watcher of everything, says of each revision.

Owns one rule. A revision that nobody was answered for was made by a write that could make exactly its changes; where
one such write is left, it made that revision, and a write that could have made none has not happened. What stays
ambiguous, such as two deletes of one key, is left to the search. Owns the file of a feed. Knows items and requests.
Invariant: a linearization of the settled items is one of the items given, so the feed makes a verdict stricter, never
kinder: a feed that does not fit the answers ends as a contradiction.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TextIO

from checker.items import Item, Role
from checker.model import branch_of, operation_of
from checker.plain import Plain
from checker.resolve import only_ones

Feed = Mapping[int, Mapping[str, str | None]]
"""Revision to what it changed: key to new value, None for a deletion. Complete: no revision is left out."""


class UnfitFeed(ValueError):
    """The record is no feed, or it has a gap."""


def write_feed(file: TextIO, feed: Feed) -> None:
    """Write a feed as JSON lines, one revision each: `{"revision": 2, "changes": {"a": "1", "b": null}}`."""
    for revision in sorted(feed):
        file.write(json.dumps({"revision": revision, "changes": feed[revision]}) + "\n")


def read_feed(lines: Iterable[str]) -> dict[int, dict[str, str | None]]:
    """Return the feed that lines of a file hold.

    Raises:
        UnfitFeed: a line is no revision, or one is missing between it and the line before.
    """
    feed: dict[int, dict[str, str | None]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            revision, changes = row["revision"], row["changes"]
            fits = all(value is None or isinstance(value, str) for value in changes.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnfitFeed(f"line {number}: {error!r}") from error
        if not changes or not fits or revision != len(feed) + 2:
            raise UnfitFeed(f"line {number}: not what revision {len(feed) + 2} changed")
        feed[revision] = changes
    return feed


def settled(items: list[Item], feed: Feed) -> list[Item]:
    """Return the items without the unknown writes that have not happened, and with the others pinned where it is clear.

    Args:
        items: of a whole history.
        feed: every revision up to the end of the history at least.
    """
    maybes = {place: item for place, item in enumerate(items) if item.role == Role.MAYBE}
    taken = {item.pin for item in items if item.role == Role.WRITER}
    by_put: dict[tuple[str, str | None], set[int]] = {}
    deleters: set[int] = set()
    for place, item in maybes.items():
        for effects in _effects(item):
            for key, value in effects.puts.items():
                by_put.setdefault((key, value), set()).add(place)
            if not effects.puts:
                deleters.add(place)
    candidates: dict[int, set[int]] = {}
    for revision, changes in feed.items():
        if revision in taken:
            continue
        put = next(((key, value) for key, value in changes.items() if value is not None), None)
        possible = deleters if put is None else by_put.get(put, set()) | by_put.get((put[0], None), set())
        candidates[revision] = {place for place in possible if _can_make(maybes[place], changes)}
    happened = set().union(*candidates.values())
    pinned = only_ones(candidates)
    return [
        replace(item, role=Role.WRITER, pin=pinned[place], checked=False) if place in pinned else item
        for place, item in enumerate(items)
        if place not in maybes or place in happened
    ]


class _Effects:
    """What one branch of a write may do: the values it puts (None: it keeps the old one), and the ranges it deletes."""

    def __init__(self) -> None:
        self.puts: dict[str, str | None] = {}
        self.deletes: list[tuple[str, str | None]] = []

    def add(self, name: str, request: Plain) -> None:
        """Take one operation in."""
        if name == "request_put":
            self.puts[request.get("key", "")] = None if request.get("ignore_value") else request.get("value", "")
        elif name == "request_delete_range":
            self.deletes.append((request.get("key", ""), request.get("range_end")))

    def fit(self, changes: Mapping[str, str | None]) -> bool:
        """Whether it may have been this branch: all its puts are there, and what else is there it deletes."""
        for key, value in self.puts.items():
            found = changes.get(key)
            if key not in changes or (found is None and not self._deletes(key)):
                return False
            if value is not None and found is not None and found != value:
                return False
        return all(key in self.puts or (value is None and self._deletes(key)) for key, value in changes.items())

    def _deletes(self, key: str) -> bool:
        return any(_within(key, first, end) for first, end in self.deletes)


def _within(key: str, first: str, end: str | None) -> bool:
    if not end:
        return key == first
    return first <= key and (end == "\0" or key < end)


def _can_make(item: Item, changes: Mapping[str, str | None]) -> bool:
    return any(effects.fit(changes) for effects in _effects(item))


def _effects(item: Item) -> Iterator[_Effects]:
    """Yield what each way through a write does."""
    if item.call == "txn":
        for path in _paths(item.request):
            effects = _Effects()
            for name, request in path:
                effects.add(name, request)
            yield effects
        return
    effects = _Effects()
    effects.add("request_put" if item.call == "put" else "request_delete_range", item.request)
    yield effects


def _paths(txn: Plain) -> Iterator[list[tuple[str, Plain]]]:
    """Yield the operations of each way through a txn, nested ones opened."""
    for succeeded in (True, False):
        ways: list[list[tuple[str, Plain]]] = [[]]
        for operation in branch_of(txn, succeeded):
            if not operation:
                continue
            name, inner = operation_of(operation)
            more = list(_paths(inner)) if name == "request_txn" else [[(name, inner)]]
            ways = [[*way, *each] for way in ways for each in more]
        yield from ways
