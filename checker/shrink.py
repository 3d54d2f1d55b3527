"""The shortest contradiction: which few operations of a history cannot be explained together.

Two steps. First the shortest beginning of the history that is contradictory: whatever is still open at its last instant
has an unknown outcome. Whoever returned at that instant is a culprit. Then every other operation is weakened, to all
that is left of it when nobody asks its client: an answered write made its revision, whatever it was told and whenever
it ran; an unknown one may have happened at any time; what changed nothing is gone. Those that have to be told in full
for the contradiction to remain are the answer.

Owns this weakening and its budget. Invariant: each step only allows more, so what is contradictory after it was so
before; a search that gives up counts as no contradiction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from checker.history import Operation
from checker.items import BEGINNING, END, Item, Problem, Role
from checker.search import Answer, Verdict, decide
from checker.trouble import Trouble

VISITS_MAX: Final = 4_000_000
"""Default budget: items searched over all attempts, some minutes at most."""
_STEPS_PER_ITEM: Final = 3
_STEPS_MIN: Final = 5_000
"""What one attempt may try: most attempts are decided without any choice."""


@dataclass
class Contradiction:
    """Operations that contradict each other, by their numbers, the last to return last; and why.

    `until` is the first instant at which the history is beyond explanation. `shortest`: leaving any of them out
    leaves no contradiction; False if the budget ended before that was sure.
    """

    numbers: list[int]
    trouble: Trouble
    until: int
    shortest: bool = True


def shortest_contradiction(
    problem: Problem, operations: Sequence[Operation], verdict: Verdict, *, visits_max: int = VISITS_MAX
) -> Contradiction:
    """Shrink a problem that `decide` found contradictory.

    Args:
        problem: the whole of it.
        operations: the history it was made of.
        verdict: what `decide` said of it.
        visits_max: items to search over all attempts.
    """
    assert verdict.answer == Answer.CONTRADICTION, "only a contradiction can be shrunk"
    return _Shrinking(problem, operations, visits_max).run(verdict)


class _Shrinking:
    def __init__(self, problem: Problem, operations: Sequence[Operation], visits_max: int) -> None:
        self._problem = problem
        self._operations = operations
        self._visits_left = visits_max
        self._trouble: Trouble | None = None

    def run(self, verdict: Verdict) -> Contradiction:
        """Cut, weaken, and name what is left."""
        assert verdict.trouble is not None, "a contradiction has a reason"
        self._trouble = verdict.trouble
        until, items = self._cut(verdict.trouble)
        full = [item for item in items if item.required]
        culprits = [item for item in full if item.returned == until]
        others = self._by_suspicion([item for item in items if item not in culprits])
        needed = self._needed(items, culprits, others)
        if len(needed) > 1:
            for item in list(needed):
                fewer = [other for other in needed if other is not item]
                if self._contradictory(self._weakened(items, fewer)):
                    needed = fewer
        numbers = [item.number for item in sorted(needed, key=lambda item: item.returned)]
        assert self._trouble is not None, "the last contradiction left its reason"
        return Contradiction(numbers, self._trouble, until, self._visits_left > 0)

    # --- the shortest beginning ------------------------------------------------------------------

    def _cut(self, trouble: Trouble) -> tuple[int, list[Item]]:
        """The first instant until which the history is contradictory, and the items until then."""
        instants = sorted({item.returned for item in self._problem.items if item.required})
        hint = max((item.returned for item in trouble.items if item.required), default=instants[-1])
        high = len(instants) - 1
        place = instants.index(hint)
        if place < high and self._contradictory(self._until(hint)):
            high = place
        low, step = high - 1, 1
        while low >= 0 and self._contradictory(self._until(instants[low])):
            high = low
            low -= step
            step *= 2
        low = max(low, -1)
        while high - low > 1:
            middle = (low + high) // 2
            if self._contradictory(self._until(instants[middle])):
                high = middle
            else:
                low = middle
        items = self._until(instants[high])
        self._contradictory(items)
        return instants[high], items

    def _until(self, instant: int) -> list[Item]:
        """What is known at an instant."""
        kept = []
        for item in self._problem.items:
            if self._operations[item.number].invoked > instant:
                continue
            if not item.required or item.returned <= instant:
                kept.append(item)
            elif item.role in (Role.WRITER, Role.COMPACTOR):
                role = Role.MAYBE if item.role == Role.WRITER else Role.MAYBE_COMPACT
                kept.append(replace(item, role=role, pin=0, answer={}, returned=END, rank=item.returned))
        return kept

    # --- the fewest operations -------------------------------------------------------------------

    def _by_suspicion(self, items: list[Item]) -> list[Item]:
        """Whom the reason names first, then whoever returned last."""
        assert self._trouble is not None, "there is a reason to start from"
        named = {item.number for item in self._trouble.items}
        return sorted(items, key=lambda item: (item.number not in named, -min(item.returned, END - 1), -item.number))

    def _needed(self, items: list[Item], culprits: list[Item], others: list[Item]) -> list[Item]:
        """Add to the culprits, one by one, the operations without which nothing is contradictory."""
        needed = list(culprits)
        while not self._contradictory(self._weakened(items, needed)):
            if self._visits_left <= 0 or not others:
                break
            fewest, enough = 0, 1
            while enough < len(others) and not self._contradictory(self._weakened(items, needed + others[:enough])):
                fewest, enough = enough, enough * 2
            enough = min(enough, len(others))
            while enough - fewest > 1:
                middle = (fewest + enough) // 2
                if self._contradictory(self._weakened(items, needed + others[:middle])):
                    enough = middle
                else:
                    fewest = middle
            needed.append(others[enough - 1])
            others = others[: enough - 1]
        return needed

    def _weakened(self, items: list[Item], full: list[Item]) -> list[Item]:
        """The items with only `full` left as they were."""
        numbers = {item.number for item in full}
        weak = (item if item.number in numbers else weakened(item) for item in items)
        return [item for item in weak if item is not None]

    def _contradictory(self, items: list[Item]) -> bool:
        if self._visits_left <= 0:
            return False
        steps_max = max(_STEPS_MIN, _STEPS_PER_ITEM * len(items))
        verdict = decide(Problem(items, self._problem.leases, self._problem.feed), steps_max=steps_max)
        self._visits_left -= len(items) + verdict.steps
        if verdict.answer == Answer.CONTRADICTION:
            self._trouble = verdict.trouble
            return True
        return False


def weakened(item: Item) -> Item | None:
    """What is left of an operation whose client nobody asks; None: nothing."""
    if item.role in (Role.READER, Role.REFUSED):
        return None
    if item.role == Role.WRITER:
        return replace(item, invoked=BEGINNING, returned=END, answer={}, checked=False)
    if item.role == Role.COMPACTOR:
        return replace(item, role=Role.MAYBE_COMPACT, pin=0, answer={}, invoked=BEGINNING, returned=END)
    return replace(item, invoked=BEGINNING)
