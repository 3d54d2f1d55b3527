"""What can go wrong for a user of `actd`, by what the user can do about it."""

from protocol.errors import WIRE_ERRORS, ErrorCode


class ActdError(Exception):
    """Base of every error a client raises.

    Attributes:
        code: the number on the wire, or 0 if the error was made here.
        retryable: the same call may succeed later.
        outcome_unknown: a write may have taken effect all the same, or still may.
    """

    def __init__(self, text: str, *, code: int = 0, retryable: bool = False, outcome_unknown: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.retryable = retryable
        self.outcome_unknown = outcome_unknown


class RequestRefused(ActdError):
    """The request itself is wrong, or what it asks for is not there; trying again will not help."""


class Unavailable(ActdError):
    """Nobody could serve the call now."""


class WatchCompacted(ActdError):
    """What a watcher has not heard is compacted: read the present and watch from there.

    Attributes:
        compact_revision: nothing before it can be watched any more.
    """

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"history before revision {compact_revision} is compacted")
        self.compact_revision = compact_revision


class CallTimedOut(Unavailable):
    """No answer came in time: unknown, not failed."""


class ProtocolFault(ActdError):
    """The other side does not speak this protocol, or not this version of it."""


class ClientClosed(ActdError):
    """The client was closed while the call was open."""


def error_of(code: int, text: str) -> ActdError:
    """Return the error for an answer with `code` and etcd's `text`."""
    known = WIRE_ERRORS.get(ErrorCode(code)) if code in ErrorCode.__members__.values() else None
    if known is None:
        return ActdError(text, code=code)
    kind = Unavailable if known.retryable else RequestRefused
    if code in (ErrorCode.TIMEOUT, ErrorCode.DEADLINE_EXCEEDED):
        kind = CallTimedOut
    return kind(text, code=code, retryable=known.retryable, outcome_unknown=known.outcome_unknown)
