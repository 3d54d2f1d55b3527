"""Contradictions that need no search: what cannot be whatever the order and whoever made the revisions in between.

Owns these checks; each looks at two or three operations only. They find most lies at once, and, since they depend on no
guess, find them even where a search would try guess after guess in vain. Invariant: a trouble is a contradiction.
"""

from collections.abc import Iterable

from checker.items import Item, Role, may_put
from checker.observations import Fact, Observations
from checker.trouble import Trouble


def orders(items: list[Item]) -> Trouble | None:
    """What is wrong with revisions alone: given twice, out of reach, or against the order of real time."""
    makers: dict[int, Item] = {}
    maybes = 0
    for item in items:
        maybes += item.role == Role.MAYBE
        if item.role != Role.WRITER:
            continue
        first = makers.setdefault(item.pin, item)
        if first is not item:
            text = f"#{first.number} and #{item.number} were both answered with revision {item.pin}"
            return Trouble(text, (item, first), item.pin)
    reachable = 1 + len(makers) + maybes
    for item in items:
        if item.pin > reachable:
            text = f"#{item.number} was answered at revision {item.pin}, but {len(makers)} answered and {maybes} "
            return Trouble(text + "unknown writes cannot have led there", (item,), item.pin)
    return _real_time(items)


def _real_time(items: list[Item]) -> Trouble | None:
    """Who began after an answer stands at its revision or a later one; a writer, at a later one."""
    pinned = [item for item in items if item.pin]
    returned = sorted((item for item in pinned if item.required), key=lambda item: item.returned)
    newest: Item | None = None
    place = 0
    for item in sorted(pinned, key=lambda item: item.invoked):
        while place < len(returned) and returned[place].returned < item.invoked:
            if newest is None or returned[place].pin > newest.pin:
                newest = returned[place]
            place += 1
        if newest is not None and item.pin < newest.pin + (item.role == Role.WRITER):
            text = f"#{item.number} {_answered(item)}, but began only after #{newest.number} {_answered(newest)}"
            return Trouble(text, (item, newest), item.pin)
    return None


def facts(items: list[Item], seen: Observations) -> Trouble | None:
    """What is wrong with what was seen: pairs that their revisions cannot have made, or that cannot have lasted."""
    makers = {item.pin: item for item in items if item.role == Role.WRITER}
    maybes = [item for item in items if item.role == Role.MAYBE]
    for fact in seen.all_made():
        trouble = _unmade(fact, makers, maybes) or _overwritten(fact, makers, seen)
        if trouble is not None:
            return trouble
    return None


def _unmade(fact: Fact, makers: dict[int, Item], maybes: Iterable[Item]) -> Trouble | None:
    """A pair whose revision was made by a write that does not put it, or that no write can have made."""
    assert fact.pair is not None, "only pairs are made"
    key, value, made = fact.pair["key"], fact.pair.get("value"), fact.pair["mod_revision"]
    maker = makers.get(made)
    shown = f"{key!r}" if value is None else f"{key!r} = {value!r}"
    if maker is not None:
        if may_put(maker, key, value):
            return None
        text = (
            f"#{fact.item.number} saw {shown} made by revision {made}, but that was #{maker.number}, which puts no such"
        )
        return Trouble(text, (fact.item, maker), made)
    if any(item.invoked <= fact.item.returned and may_put(item, key, value) for item in maybes):
        return None
    text = f"#{fact.item.number} saw {shown} made by revision {made}, but no write of that can have made it"
    return Trouble(text, (fact.item,), made)


def _overwritten(fact: Fact, makers: dict[int, Item], seen: Observations) -> Trouble | None:
    """A pair that was seen after a later revision had certainly replaced it."""
    assert fact.pair is not None, "only pairs are made"
    key, made = fact.pair["key"], fact.pair["mod_revision"]
    later = seen.next_put(key, made)
    if later is None or later > fact.state or later not in makers:
        return None
    text = f"#{fact.item.number} saw {key!r} of revision {made} at revision {fact.state}, but #{makers[later].number} "
    return Trouble(f"{text}put it at revision {later}", (fact.item, makers[later]), fact.state)


def _answered(item: Item) -> str:
    return f"had been answered at revision {item.pin}" if item.required else f"made revision {item.pin}"
