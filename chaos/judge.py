"""The run's history in the form that package `checker` reads, writes and judges.

Pure. Owns how a record becomes an operation. Calls that are no part of the KV model (status, hashes) are left out.
"""

from collections.abc import Iterator

from chaos.history import FOREVER_US, History, Record
from checker.history import History as CheckerHistory
from checker.history import Operation, Outcome, code_of
from checker.judge import Judgement, judge
from checker.plain import CALLS, plain_of
from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc


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


def linearizability(history: History) -> Judgement:
    """Return the judgement of the whole history: its order, or the shortest contradiction. Giving up is a failure."""
    return judge(checker_history(history))


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
