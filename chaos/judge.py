"""The run's history in the form that package `checker` reads, writes and judges.

Pure. Owns how a record becomes an operation. Calls that are no part of the KV model (status, hashes) are left out.
"""

from chaos.history import FOREVER_US, History, Record
from checker.history import History as CheckerHistory
from checker.history import Operation, Outcome, code_of
from checker.items import problem_of
from checker.plain import CALLS, plain_of
from checker.search import Answer, decide


def checker_history(history: History) -> CheckerHistory:
    """Return every call of the KV model, in the order of invocation."""
    return CheckerHistory([operation(record) for record in history.records if type(record.request) in CALLS])


def linearizability(history: History) -> list[str]:
    """Return why the whole history is not linearizable, in one text; nothing if it is. Giving up is a failure."""
    verdict = decide(problem_of(checker_history(history)))
    if verdict.answer is Answer.LINEARIZABLE:
        return []
    lines = [f"{verdict.answer} after {verdict.steps} steps"]
    if verdict.trouble is not None:
        lines.append(verdict.trouble.text)
        lines += [f"{item.call} {item.request} at {item.invoked} us" for item in verdict.trouble.items]
        lines += [f"expected {verdict.trouble.expected}"] if verdict.trouble.expected is not None else []
    return ["linearizability: " + "; ".join(lines)]


def operation(record: Record) -> Operation:
    """Return one call as the checker sees it; the client's name says which door it used."""
    text = record.error.partition(": ")[2]
    code = code_of(text)
    return Operation(
        client=f"{record.client}/{record.door}",
        call=CALLS[type(record.request)],
        request=plain_of(record.request),
        invoked=record.invoked_us,
        returned=None if record.returned_us == FOREVER_US else record.returned_us,
        outcome=Outcome(record.outcome),
        answer=plain_of(record.response) if record.response is not None else {},
        error=code.name if code is not None else record.error,
    )
