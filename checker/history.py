"""What clients asked, when, and what they were told: the record every judge reads, and its file.

Owns `Operation` and the file format; knows no simulator, no client library, no store. A history is a file of JSON
lines: the first names the format, each further one is an operation, in any order:

    {"history": 1, "unit": "us", "leases": []}
    {"client": "c1", "call": "put", "request": {"key": "a", "value": "1"}, "invoked": 10, "returned": 14,
     "outcome": "ok", "answer": {"header": {"revision": 2}}}
    {"client": "c2", "call": "put", "request": {"key": "a", "value": "2"}, "invoked": 11, "returned": 5011,
     "outcome": "unknown"}
    {"client": "c3", "call": "range", "request": {"key": "a", "revision": 9}, "invoked": 12, "returned": 13,
     "outcome": "failed", "error": "FUTURE_REVISION"}

Requests and answers are etcd's messages in the form of `checker.plain`. Invariants: all instants of a file come from
one clock that never goes back; an operation is `ok` only with its whole answer, `failed` only when it certainly has
had and will have no effect, else `unknown`, open to infinity whatever `returned` says.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TextIO

from google.protobuf.message import Message

from checker.plain import ANSWERS, CALLS, REQUESTS, Plain, message_of, plain_of
from protocol.errors import WIRE_ERRORS, ErrorCode

FORMAT_VERSION: Final = 1


class UnfitHistory(ValueError):
    """The record cannot be judged: it is not in the format, or contradicts itself."""


class Outcome(StrEnum):
    """How an operation ended."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Instants are in the history's unit; `returned` is None if nobody waited for the end."""

    client: str
    call: str
    request: Plain
    invoked: int
    returned: int | None
    outcome: Outcome
    answer: Plain = field(default_factory=dict)
    error: str = ""
    """Name of an `ErrorCode`, or any text a judge may only show."""
    server: str = ""
    """Who answered, if known, one name per life of a process: `n1/3`. Within one life revisions never go back."""
    tag: str = ""
    """What tells this operation from one with an equal request in a committed log; empty if requests are unique."""

    def to_json(self) -> str:
        """Return the operation as one line without its end."""
        fields: Plain = {"client": self.client, "call": self.call, "request": self.request, "invoked": self.invoked}
        fields |= {"returned": self.returned, "outcome": self.outcome.value}
        for name in ("answer", "error", "server", "tag"):
            value = getattr(self, name)
            if value:
                fields[name] = value
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_plain(cls, fields: Plain) -> "Operation":
        """Return the operation that a line's fields describe.

        Raises:
            UnfitHistory: a field is missing, unknown or impossible.
        """
        try:
            operation = cls(**(fields | {"outcome": Outcome(fields["outcome"])}))
            _check_types(operation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnfitHistory(f"not an operation: {error!r} in {str(fields)[:200]}") from error
        _check(operation)
        return operation


@dataclass
class History:
    """Operations and what holds for all of them."""

    operations: list[Operation] = field(default_factory=list)
    unit: str = "us"
    """Unit of instants, for people only: ns, us, ms or steps."""
    leases: frozenset[int] = frozenset()
    """Leases that are there from the first operation to the last; no other may be put with."""


def answered(
    client: str,
    request: Message,
    response: Message,
    invoked: int,
    returned: int,
    *,
    server: str = "",
    tag: str = "",
) -> Operation:
    """Record a call that succeeded."""
    call = CALLS[type(request)]
    plain, answer = plain_of(request), plain_of(response)
    return Operation(client, call, plain, invoked, returned, Outcome.OK, answer, server=server, tag=tag)


def refused(
    client: str,
    request: Message,
    code: ErrorCode,
    invoked: int,
    returned: int,
    *,
    server: str = "",
    tag: str = "",
) -> Operation:
    """Record a call that ended with an error; the error decides whether it failed for certain."""
    outcome = Outcome.UNKNOWN if WIRE_ERRORS[code].outcome_unknown else Outcome.FAILED
    call = CALLS[type(request)]
    return Operation(
        client, call, plain_of(request), invoked, returned, outcome, error=code.name, server=server, tag=tag
    )


def lost(
    client: str, request: Message, invoked: int, returned: int | None, *, why: str = "", tag: str = ""
) -> Operation:
    """Record a call of which nobody knows how it ended; `returned` is when the client gave up."""
    call = CALLS[type(request)]
    return Operation(client, call, plain_of(request), invoked, returned, Outcome.UNKNOWN, error=why, tag=tag)


def code_of(text: str) -> ErrorCode | None:
    """Return the error whose text an etcd or actd server sent, or None: then the outcome is unknown."""
    return _CODES_BY_TEXT.get(text)


_CODES_BY_TEXT: Final = {error.text: code for code, error in reversed(WIRE_ERRORS.items())}


def write_history(file: TextIO, history: History) -> None:
    """Write a whole history."""
    file.write(header_line(history.unit, history.leases))
    for operation in history.operations:
        file.write(operation.to_json() + "\n")


def header_line(unit: str = "us", leases: Iterable[int] = ()) -> str:
    """Return the first line of a history file, its end included, for who appends operations as they end."""
    return json.dumps({"history": FORMAT_VERSION, "unit": unit, "leases": sorted(leases)}) + "\n"


def read_history(lines: Iterable[str]) -> History:
    """Return the history that lines of a file hold.

    Raises:
        UnfitHistory: the lines are not a history; the text names the line.
    """
    rows = _rows(lines)
    _, head = next(rows, (0, {}))
    if head.get("history") != FORMAT_VERSION:
        raise UnfitHistory(f'line 1: a history begins with {{"history": {FORMAT_VERSION}}}')
    history = History(unit=str(head.get("unit", "us")), leases=frozenset(head.get("leases", ())))
    for number, fields in rows:
        try:
            history.operations.append(Operation.from_plain(fields))
        except UnfitHistory as error:
            raise UnfitHistory(f"line {number}: {error}") from error
    return history


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, Plain]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise UnfitHistory(f"line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UnfitHistory(f"line {number}: not a JSON object")
        yield number, row


def _check_types(operation: Operation) -> None:
    for name in ("client", "call", "error", "server", "tag"):
        if not isinstance(getattr(operation, name), str):
            raise TypeError(f"{name} is no text")
    if not isinstance(operation.invoked, int) or not isinstance(operation.returned, int | None):
        raise TypeError("an instant is a whole number")
    message_of(REQUESTS[operation.call], operation.request)
    message_of(ANSWERS[operation.call], operation.answer)


def _check(operation: Operation) -> None:
    if operation.returned is not None and operation.returned < operation.invoked:
        raise UnfitHistory(f"returned at {operation.returned}, before it was invoked at {operation.invoked}")
    if operation.outcome == Outcome.OK:
        if operation.returned is None:
            raise UnfitHistory("an answer has an instant")
        if operation.answer.get("header", {}).get("revision", 0) < 1:
            raise UnfitHistory("an answer has a header with a revision of at least 1")
    elif operation.answer:
        raise UnfitHistory(f"an operation that is {operation.outcome} has no answer")
