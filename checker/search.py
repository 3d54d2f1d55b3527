"""Whether a history is linearizable: a search for an order of its operations that the KV model allows.

The search is Wing and Gong's with Lowe's memory of dead ends, made nearly straight by revisions. A state is a store and
the set of operations placed so far; an operation may be placed once every operation that returned before it was
invoked is placed. Three things keep the search on its way:

* An answer names its revision. Revision r + 1 has one maker; if an answered write claims it, there is no choice.
* What changes nothing is placed as soon as it fits: in any linearization it could be moved forward to here.
* A revision nobody claims was made by a write of unknown outcome. Each is a branch; `checker.observations` refuses
  those that contradict a later answer, and states from which no way led on are never entered twice.

Unknown compactions are placed only right before a refusal that needs them: earlier they would only forbid more.

Owns the search, its step limit and the reason of a failure. Knows items and the model, no files, no clock.
Invariant: `LINEARIZABLE` comes with an order (`Verdict.order`) that any store of the model can follow.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from checker import resolve, screen
from checker.feed import settled
from checker.items import BEGINNING, END, Item, Problem, Role, may_put
from checker.model import Store, Undo, fingerprint_of
from checker.observations import Observations
from checker.plain import Plain
from checker.trouble import Trouble
from protocol.errors import ClientError, ErrorCode

STEPS_PER_ITEM: Final = 200
STEPS_MIN: Final = 200_000
"""Default step limit: so many per item, and at least so many."""


class Answer(StrEnum):
    """How a search ended."""

    LINEARIZABLE = "linearizable"
    CONTRADICTION = "not linearizable"
    GAVE_UP = "gave up"
    """The step limit was reached: nothing is known, and nobody may call that a success."""


@dataclass
class Verdict:
    """What a search found. `order` is a linearization, as item numbers; `trouble` is the furthest failure."""

    answer: Answer
    steps: int
    order: list[int] = field(default_factory=list)
    trouble: Trouble | None = None


def decide(problem: Problem, *, steps_max: int = 0) -> Verdict:
    """Search for a linearization; a step is one operation tried at a point of choice. 0: the default limit."""
    limit = steps_max or max(STEPS_MIN, STEPS_PER_ITEM * len(problem.items))
    items = problem.items
    trouble = screen.orders(items)
    if trouble is None:
        items = resolve.resolved(items if problem.feed is None else settled(items, problem.feed))
        seen = Observations(items)
        trouble = screen.orders(items) or screen.facts(items, seen)
        if trouble is None:
            return _Search(items, problem.leases, seen, limit).run()
    return Verdict(Answer.CONTRADICTION, 0, trouble=trouble)


class _Step(NamedTuple):
    """One way on from a point of choice."""

    item: Item
    place: int


class _Choice(NamedTuple):
    """A point to come back to: how much had been done, which ways are left, and what it looked like."""

    mark: int
    ways: list[_Step]
    state: tuple[int, int, int, int]


class _Search:
    def __init__(self, items: list[Item], leases: frozenset[int], seen: Observations, steps_max: int) -> None:
        self._items = items
        self._steps_max = steps_max
        self._steps = 0
        self._store = Store(leases, _revisions_asked_for(items))
        self._seen = seen
        self._index(items)
        self._done = bytearray(len(items))
        self._placed = 0
        self._set = 0
        self._marks: list[int] = [0] * len(items)
        self._head = 0
        self._first_refused = 0
        self._first_stale = 0
        self._limit = self._returns[0] if self._returns else END
        self._trail: list[tuple[str, Any]] = []
        self._dead: set[tuple[int, int, int, int]] = set()
        self._compacted_at_entry = -1
        self._furthest = (-1, -1)
        self._trouble: Trouble | None = None

    def _index(self, items: list[Item]) -> None:
        places = range(len(items))
        self._by_return = sorted((p for p in places if items[p].required), key=lambda p: items[p].returned)
        self._returns = [items[place].returned for place in self._by_return]
        self._position = {place: position for position, place in enumerate(self._by_return)}
        self._makers = {items[p].pin: p for p in places if items[p].role == Role.WRITER}
        self._at: dict[int, list[int]] = {}
        for place in sorted(places, key=lambda p: items[p].invoked):
            if items[place].role in (Role.READER, Role.COMPACTOR):
                self._at.setdefault(items[place].pin, []).append(place)
        refused = [p for p in places if items[p].role == Role.REFUSED]
        # A stale read's COMPACTED waits for nothing but a compaction; keeping it apart keeps the others' list short.
        stale = {p for p in refused if items[p].invoked == BEGINNING and items[p].error == ErrorCode.COMPACTED}
        self._stale = sorted(stale, key=lambda p: items[p].threshold)
        self._refused = sorted((p for p in refused if p not in stale), key=lambda p: items[p].invoked)
        self._refused_at = {place: at for at, place in enumerate(self._refused)}
        self._maybes = sorted((p for p in places if items[p].role == Role.MAYBE), key=lambda p: items[p].invoked)
        self._same = {p: repr((items[p].call, items[p].request)) for p in self._maybes}
        compactions = [p for p in places if items[p].role == Role.MAYBE_COMPACT]
        self._compactions = sorted(compactions, key=lambda p: items[p].threshold)

    # --- the search ------------------------------------------------------------------------------

    def run(self) -> Verdict:
        """Search until all required items are placed, nothing is left to try, or the limit is reached."""
        choices: list[_Choice] = []
        alive = self._enter()
        while True:
            if alive:
                self._settle()
                if self._head == len(self._by_return):
                    order = [self._items[place].number for kind, place in self._trail if kind == "placed"]
                    return Verdict(Answer.LINEARIZABLE, self._steps, order)
                ways = self._ways()
                if len(ways) > 1:
                    state = self._state()
                    if state in self._dead:
                        ways = []
                    else:
                        choices.append(_Choice(len(self._trail), ways[::-1], state))
                if len(ways) == 1:
                    alive = self._take(ways[0])
                    self._steps += 1
                    if self._steps > self._steps_max:
                        return Verdict(Answer.GAVE_UP, self._steps, trouble=self._trouble)
                    continue
                if not ways:
                    self._stuck()
            while choices and not choices[-1].ways:
                self._dead.add(choices.pop().state)
            if not choices:
                return Verdict(Answer.CONTRADICTION, self._steps, trouble=self._trouble)
            self._rewind(choices[-1].mark)
            self._compacted_at_entry = -2
            alive = self._take(choices[-1].ways.pop())
            self._steps += 1
            if self._steps > self._steps_max:
                return Verdict(Answer.GAVE_UP, self._steps, trouble=self._trouble)

    def _state(self) -> tuple[int, int, int, int]:
        return self._store.revision, self._store.compacted, self._store.fingerprint, self._set

    def _settle(self) -> None:
        """Place everything that fits here and changes nothing, until nothing more does."""
        here = self._at.get(self._store.revision, ())
        again = True
        while again:
            again = False
            for place in here:
                item = self._items[place]
                if self._done[place] or item.role != Role.READER:
                    continue
                if item.invoked > self._limit:
                    break
                if self._store.compacted == self._compacted_at_entry or self._mismatch(item) is None:
                    self._place(place)
                    again = True
            again = self._settle_refused() or again

    def _settle_refused(self) -> bool:
        placed = False
        while self._first_refused < len(self._refused) and self._done[self._refused[self._first_refused]]:
            self._first_refused += 1
        for at in range(self._first_refused, len(self._refused)):
            place = self._refused[at]
            if self._items[place].invoked > self._limit:
                break
            if not self._done[place] and self._is_refused(self._items[place]):
                self._place(place)
                placed = True
        while self._first_stale < len(self._stale):
            place = self._stale[self._first_stale]
            if not self._is_refused(self._items[place]):
                break
            if not self._done[place]:
                self._place(place)
                placed = True
            self._first_stale += 1
        return placed

    def _ways(self) -> list[_Step]:
        """Every item that may be placed next and changes the store, the likeliest first."""
        store, ways = self._store, []
        waiting = [place for place in self._at.get(store.revision, ()) if not self._done[place]]
        if not waiting:
            maker = self._makers.get(store.revision + 1)
            if maker is None:
                ways += self._guesses()
            elif self._items[maker].invoked <= self._limit:
                ways.append(_Step(self._items[maker], maker))
        else:
            # Compactions of one revision can only have happened in the order of what they compacted.
            compactors = [place for place in waiting if self._items[place].role == Role.COMPACTOR]
            if compactors:
                place = min(compactors, key=lambda p: self._items[p].threshold)
                if self._items[place].invoked <= self._limit:
                    ways.append(_Step(self._items[place], place))
        if self._compactions:
            ways += self._unknown_compactions()
        return ways

    def _guesses(self) -> list[_Step]:
        """Unknown writes that may have made the next revision; one of those that ask for the same."""
        facts = self._seen.demanded(self._store.revision + 1)
        demanded = [(fact.pair["key"], fact.pair.get("value")) for fact in facts if fact.pair is not None]
        found: list[_Step] = []
        alike: set[str] = set()
        for place in self._maybes:
            item = self._items[place]
            if item.invoked > self._limit:
                break
            if self._done[place] or self._same[place] in alike:
                continue
            alike.add(self._same[place])
            if demanded and not all(may_put(item, key, value) for key, value in demanded):
                continue
            found.append(_Step(item, place))
        found.sort(key=lambda step: -step.item.rank)
        return [step for step in found if self._may_follow(step.item)]

    def _may_follow(self, item: Item) -> bool:
        """Whether an unknown write would change something now, and nothing that later answers rule out."""
        store = self._store
        try:
            changes = store.evaluate(item.call, item.request).changes
        except ClientError:
            return False
        if not changes:
            return False
        undo = store.commit(changes)
        refuted = self._seen.refuted(store.revision, store.live, changes)
        store.undo(undo)
        return refuted is None

    def _unknown_compactions(self) -> list[_Step]:
        """Compactions of unknown outcome that would explain a refusal which waits for one."""
        store, ways, waiting = self._store, [], []
        for at in range(self._first_refused, len(self._refused)):
            item = self._items[self._refused[at]]
            if item.invoked > self._limit:
                break
            if not self._done[self._refused[at]] and item.error == ErrorCode.COMPACTED:
                waiting.append(item)
        if self._first_stale < len(self._stale):
            waiting.append(self._items[self._stale[self._first_stale]])
        for place in self._compactions if waiting else ():
            item, before = self._items[place], store.compacted
            if self._done[place] or item.invoked > self._limit or store.compaction_error(item.threshold) is not None:
                continue
            store.compacted = item.threshold
            if any(self._is_refused(other) for other in waiting):
                ways.append(_Step(item, place))
            store.compacted = before
        return ways

    # --- moving ----------------------------------------------------------------------------------

    def _take(self, step: _Step) -> bool:
        """Place what changes the store; return False, with the trouble noted, if the model does not allow it."""
        item, store = step.item, self._store
        if item.role in (Role.COMPACTOR, Role.MAYBE_COMPACT):
            error = store.compaction_error(item.threshold)
            if error is not None:
                self._note(f"was told OK, but the model refuses it: {error.name}", item)
                return False
            self._trail.append(("compacted", store.compacted))
            store.compacted = item.threshold
            self._place(step.place)
            return True
        try:
            result = store.evaluate(item.call, item.request)
        except ClientError as error:
            self._note(f"was told OK, but the model refuses it: {error.code.name}", item)
            return False
        if item.role == Role.WRITER and item.checked and result.answer != item.answer:
            self._note("was told something else than the model says", item, expected=result.answer)
            return False
        if not result.changes:
            self._note(f"was told that it made revision {item.pin}, but changes nothing", item)
            return False
        self._trail.append(("committed", store.commit(result.changes)))
        self._place(step.place)
        refuted = self._seen.refuted(store.revision, store.live, result.changes)
        if refuted is not None:
            key = "" if refuted.pair is None else refuted.pair["key"]
            seen = f"cannot have seen {_shown(refuted.pair)} at revision {refuted.state}"
            made = f"revision {store.revision}, made by #{item.number}, left {_shown(store.live.get(key))}"
            self._note(f"{seen}: {made}", refuted.item, item)
            return False
        return self._enter()

    def _enter(self) -> bool:
        """Look at all that was answered at the revision the store has come to: each must be what the model says."""
        self._compacted_at_entry = self._store.compacted
        for place in self._at.get(self._store.revision, ()):
            item = self._items[place]
            if item.role != Role.READER:
                continue
            found = self._mismatch(item)
            if found is not None:
                self._trouble_at(found)
                return False
        return True

    def _mismatch(self, item: Item) -> Trouble | None:
        """Why a reader's answer is not the model's here, if it is not."""
        try:
            result = self._store.evaluate(item.call, item.request)
        except ClientError as error:
            text = f"#{item.number} was told OK at revision {item.pin}, but the model refuses it: {error.code.name}"
            return Trouble(text, (item,), item.pin)
        if result.changes:
            text = f"#{item.number} was told that it changed nothing at revision {item.pin}, but it does"
            return Trouble(text, (item,), item.pin, result.answer)
        if result.answer != item.answer:
            text = f"#{item.number} was told something else than the model says at revision {item.pin}"
            return Trouble(text, (item,), item.pin, result.answer)
        return None

    def _is_refused(self, item: Item) -> bool:
        """Whether the store would now refuse the request with just this error."""
        store = self._store
        if item.call == "range" and item.threshold > 0:
            if item.error == ErrorCode.FUTURE_REVISION:
                return item.threshold > store.revision
            return (
                item.error == ErrorCode.COMPACTED
                and item.threshold <= store.revision
                and (item.threshold < store.compacted)
            )
        if item.call == "compact":
            return store.compaction_error(item.threshold) == item.error
        try:
            store.evaluate(item.call, item.request)
        except ClientError as error:
            return error.code == item.error
        return False

    def _place(self, place: int) -> None:
        self._trail.append(("placed", place))
        self._done[place] = 1
        self._placed += 1
        self._toggle(place)
        while self._head < len(self._by_return) and self._done[self._by_return[self._head]]:
            self._head += 1
        self._limit = self._returns[self._head] if self._head < len(self._returns) else END

    def _rewind(self, mark: int) -> None:
        """Undo everything behind `mark`."""
        while len(self._trail) > mark:
            kind, what = self._trail.pop()
            if kind == "compacted":
                self._store.compacted = what
            elif kind == "committed":
                assert isinstance(what, Undo), "a commit leaves its way back"
                self._store.undo(what)
            else:
                self._done[what] = 0
                self._placed -= 1
                self._toggle(what)
                self._head = min(self._head, self._position.get(what, self._head))
                self._first_refused = min(self._first_refused, self._refused_at.get(what, self._first_refused))
                self._first_stale = 0
        self._limit = self._returns[self._head] if self._head < len(self._returns) else END

    def _toggle(self, place: int) -> None:
        mark = self._marks[place]
        if not mark:
            mark = self._marks[place] = fingerprint_of((place,))
        self._set ^= mark

    # --- reasons ---------------------------------------------------------------------------------

    def _note(self, text: str, *items: Item, expected: Plain | None = None) -> None:
        """Note what is wrong with the first of `items`."""
        self._trouble_at(Trouble(f"#{items[0].number} {text}", items, self._store.revision, expected))

    def _trouble_at(self, trouble: Trouble) -> None:
        """Keep the trouble that was met furthest on the way."""
        place = (self._store.revision, self._placed)
        if place > self._furthest:
            self._furthest, self._trouble = place, trouble

    def _stuck(self) -> None:
        """No way leads on from here: say what is missing."""
        store, head = self._store, self._items[self._by_return[self._head]]
        waiting = [self._items[place] for place in self._at.get(store.revision, ()) if not self._done[place]]
        maker = self._makers.get(store.revision + 1)
        late = [item for item in waiting if item.invoked > self._limit]
        if not waiting and maker is not None and self._items[maker].invoked > self._limit:
            late = [self._items[maker]]
        if late:
            told = (
                f"refused with {head.error.name}" if head.role == Role.REFUSED else f"answered at revision {head.pin}"
            )
            text = f"was answered at revision {late[0].pin}, but began only after #{head.number} had been {told}"
            self._note(text, late[0], head)
        elif head.role == Role.REFUSED and not (maker is None and store.revision + 1 <= self._last_pin()):
            self._note(f"was refused with {head.error.name}, which was never true between call and return", head)
        elif waiting:
            self._note(f"was answered at revision {waiting[0].pin}, where the model would refuse it", waiting[0])
        else:
            seen = [fact.item for fact in self._seen.demanded(store.revision + 1)]
            next_maker = [self._items[maker]] if (maker := self._makers.get(store.revision + 2)) is not None else []
            about = seen[:1] or next_maker or [head]
            self._note(f"is there, but no write can have made revision {store.revision + 1}", *about)

    def _last_pin(self) -> int:
        return max(self._makers.keys() | self._at.keys(), default=0)


def _revisions_asked_for(items: list[Item]) -> set[int]:
    """Every revision that a read, inside a txn or not, asks for by number."""
    found: set[int] = set()

    def look(request: Plain) -> None:
        for operation in (*request.get("success", ()), *request.get("failure", ())):
            if "request_range" in operation:
                found.add(operation["request_range"].get("revision", 0))
            elif "request_txn" in operation:
                look(operation["request_txn"])

    for item in items:
        if item.call == "txn":
            look(item.request)
        elif item.call == "range":
            found.add(item.threshold)
    return {revision for revision in found if revision > 0}


def _shown(pair: Plain | None) -> str:
    if pair is None:
        return "no pair"
    return ", ".join(f"{name} {value!r}" for name, value in pair.items())
