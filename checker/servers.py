"""One life of one server never goes back: the promise that even stale reads have.

Owns this one check. Linearizability does not ask for it, since a stale read may show any state that was; but a client
that stays with a server must not see the past after the present.
"""

from collections.abc import Sequence

from checker.history import Operation, Outcome


def went_back(operations: Sequence[Operation]) -> tuple[int, int] | None:
    """Return the numbers of two operations of which the later was answered at an older revision by the same server."""
    answered = [n for n, o in enumerate(operations) if o.outcome == Outcome.OK and o.server]
    ended = sorted(answered, key=lambda n: operations[n].returned or 0)
    newest: dict[str, int] = {}
    place = 0
    for number in sorted(answered, key=lambda n: operations[n].invoked):
        operation = operations[number]
        while place < len(ended) and (operations[ended[place]].returned or 0) < operation.invoked:
            other = operations[ended[place]]
            if other.server not in newest or revision_of(other) > revision_of(operations[newest[other.server]]):
                newest[other.server] = ended[place]
            place += 1
        before = newest.get(operation.server)
        if before is not None and revision_of(operation) < revision_of(operations[before]):
            return before, number
    return None


def revision_of(operation: Operation) -> int:
    """The revision in the header of an answer."""
    revision: int = operation.answer["header"]["revision"]
    return revision
