"""The judge: from a history to a verdict with its proof or its shortest contradiction.

Owns the order of the steps and the judgement's text; knows no files. This is what simulator, chaos runs and the command
line call.
"""

from dataclasses import dataclass, field

from checker.feed import Feed
from checker.history import History
from checker.items import Problem, problem_of
from checker.search import Answer, Verdict, decide
from checker.servers import revision_of, went_back
from checker.shrink import VISITS_MAX, Contradiction, shortest_contradiction
from checker.trouble import Trouble
from checker.words import answer_words, related, request_words, trouble_words


@dataclass
class Judgement:
    """What is to be said of a history."""

    history: History
    problem: Problem
    verdict: Verdict
    contradiction: Contradiction | None = None
    related: list[int] = field(default_factory=list)
    """Operations that help to understand the contradiction and are no part of it."""

    @property
    def passed(self) -> bool:
        """Whether the history is certainly linearizable."""
        return self.verdict.answer == Answer.LINEARIZABLE

    def text(self) -> str:
        """The judgement in words, for people."""
        count = len(self.history.operations)
        if self.passed:
            return f"linearizable: {count:,} operations, {self.verdict.steps:,} steps"
        if self.contradiction is None:
            why = trouble_words(self.verdict.trouble) if self.verdict.trouble else []
            head = f"gave up after {self.verdict.steps:,} steps on {count:,} operations: not proven, and so a failure"
            return "\n".join([head, *(["the furthest it came:", *why] if why else [])])
        contradiction, unit = self.contradiction, self.history.unit
        numbers = contradiction.numbers
        quality = (
            "" if contradiction.shortest else " (a shorter contradiction may exist: the budget to look for it ended)"
        )
        lines = [
            f"not linearizable: {len(numbers)} of {count:,} operations cannot be explained together{quality}",
            f"beyond explanation since {contradiction.until} {unit}",
            "",
            *(self.line(number) for number in numbers),
            "",
            *trouble_words(contradiction.trouble),
        ]
        if self.related:
            lines += ["", "what made, or was to make, the pairs in question:", *map(self.line, self.related)]
        return "\n".join(lines)

    def line(self, number: int) -> str:
        """One operation in a line."""
        operation = self.history.operations[number]
        end = "…" if operation.returned is None else str(operation.returned)
        server = f" at {operation.server}" if operation.server else ""
        return (
            f"  #{number} {operation.client}{server} {operation.invoked}–{end} {self.history.unit}: "
            f"{request_words(operation.call, operation.request)} → {answer_words(operation)}"
        )


def judge(history: History, *, feed: Feed | None = None, steps_max: int = 0, visits_max: int = VISITS_MAX) -> Judgement:
    """Decide whether a history is linearizable; if it is not, find out briefly why.

    Args:
        history: all of it: the first operation met a store at revision 1, and nobody else wrote.
        feed: what every revision changed, where a log or a watcher of everything says so; settles unknown outcomes.
        steps_max: choices to try before giving up; 0: by the size of the history.
        visits_max: operations to look at while shrinking a contradiction.
    """
    problem = problem_of(history, feed)
    verdict = decide(problem, steps_max=steps_max)
    judgement = Judgement(history, problem, verdict)
    back = went_back(history.operations) if verdict.answer == Answer.LINEARIZABLE else None
    if back is not None:
        return _gone_back(judgement, *back)
    if verdict.answer == Answer.CONTRADICTION:
        found = shortest_contradiction(problem, history.operations, verdict, visits_max=visits_max)
        judgement.contradiction = found
        judgement.related = [
            number
            for number in related(found.trouble, problem.items, history.operations)
            if number not in found.numbers
        ]
    return judgement


def _gone_back(judgement: Judgement, before: int, after: int) -> Judgement:
    """Every answer could be explained, but one server answered from the past."""
    operations = judgement.history.operations
    revisions = [revision_of(operations[number]) for number in (before, after)]
    text = (
        f"#{after} was answered at revision {revisions[1]} by {operations[after].server}, which had answered #{before} "
    )
    trouble = Trouble(f"{text}at revision {revisions[0]} before it began", (), revisions[1])
    judgement.verdict = Verdict(Answer.CONTRADICTION, judgement.verdict.steps, trouble=trouble)
    judgement.contradiction = Contradiction([before, after], trouble, operations[after].returned or 0)
    return judgement
