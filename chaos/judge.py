"""The run's history in the form that package `checker` reads, writes and judges.

Pure. Owns how a record becomes an operation, and the cross-check of a judgement that a feed has made quick. Calls that
are no part of the KV model (status, hashes) are left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from chaos.history import FOREVER_US, History, Record
from checker.feed import Feed
from checker.history import History as CheckerHistory
from checker.history import Operation, Outcome, code_of
from checker.judge import Judgement, judge
from checker.plain import CALLS, plain_of
from checker.search import Answer
from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc

CROSS_CHECKED_MAX: Final = 1000
"""Operations, from the beginning of a history, that are judged with the feed and without it."""


def checker_history(history: History) -> CheckerHistory:
    """Return every call of the KV model, in the order of invocation."""
    operations = [operation(record) for record in history.records if type(record.request) in CALLS]
    # The model knows no end of a lease: a put that came too late for its lease has simply not happened.
    done = [each for each in operations if each.error != ErrorCode.LEASE_NOT_FOUND.name]
    return CheckerHistory(done, leases=frozenset(_leases(history)))


def _leases(history: History) -> Iterator[int]:
    for record in history.records:
        if isinstance(record.request, rpc.LeaseGrantRequest):
            yield record.request.ID


def linearizability(history: History, feed: Feed | None = None) -> Judgement:
    """Return the judgement of the whole history: its order, or the shortest contradiction. Giving up is a failure.

    Args:
        feed: what every revision changed, if it is known without a gap; settles unknown outcomes.
    """
    return judge(checker_history(history), feed=feed)


def cross_check(history: CheckerHistory, feed: Feed) -> str:
    """Judge a history's beginning with the feed and without it; return how the verdicts differ, "" if they agree.

    A search without the feed that gives up has said nothing, and so contradicts nothing. Of the feed only what somebody
    was answered in time is used: calls of the beginning made all of that, but not what came later.
    """
    first = beginning(history, CROSS_CHECKED_MAX)
    newest = max((each.answer["header"]["revision"] for each in first.operations if each.answer), default=0)
    feed = {revision: changes for revision, changes in feed.items() if revision <= newest}
    without = judge(first).verdict.answer
    with_it = judge(first, feed=feed).verdict.answer
    if without in (with_it, Answer.GAVE_UP):
        return ""
    count = len(first.operations)
    return f"the first {count} operations: {with_it.name} with the feed, {without.name} without it"


def beginning(history: CheckerHistory, count: int) -> CheckerHistory:
    """Return the history as it was when call `count + 1` began: what was under way then has an unknown outcome."""
    operations = sorted(history.operations, key=lambda each: each.invoked)
    if len(operations) <= count:
        return replace(history, operations=operations)
    end = operations[count].invoked
    known = [
        each
        if each.returned is not None and each.returned < end
        else replace(each, outcome=Outcome.UNKNOWN, answer={}, error="", returned=None)
        for each in operations[:count]
    ]
    return replace(history, operations=known)


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
