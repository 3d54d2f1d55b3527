"""Every error has one of four destinies.

* `ClientError`: the client's fault or an answer etcd gives; it goes out with etcd's exact text and code.
* `Unavailable` codes among them: retryable by the client.
* `PeerFault`: an outsider's bytes make no sense: dropped, counted, logged.
* `InvariantViolation`, `Corruption`: our bug or our disk: the actor halts with its story.

Invariant: `ErrorCode` values are part of the wire between actors and of the ZeroMQ protocol; they are never reused.
"""

from enum import IntEnum
from typing import Final, NamedTuple


class GrpcCode(IntEnum):
    """gRPC status codes, as numbered by gRPC."""

    OK = 0
    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ErrorCode(IntEnum):
    """Our number for each answer that is not a success; 0 is success."""

    OK = 0
    EMPTY_KEY = 1
    KEY_NOT_FOUND = 2
    VALUE_PROVIDED = 3
    LEASE_PROVIDED = 4
    TOO_MANY_OPERATIONS = 5
    DUPLICATE_KEY = 6
    INVALID_SORT_OPTION = 7
    REQUEST_TOO_LARGE = 8
    LEASE_NOT_FOUND = 9
    COMPACTED = 10
    FUTURE_REVISION = 11
    NO_SPACE = 12
    TOO_MANY_REQUESTS = 13
    NO_LEADER = 14
    LEADER_CHANGED = 15
    STOPPED = 16
    TIMEOUT = 17
    TIMEOUT_LEADER_FAILED = 18
    TIMEOUT_CONNECTION_LOST = 19
    TIMEOUT_WAIT_APPLIED = 20
    UNHEALTHY = 21
    CORRUPT = 22
    NOT_LEADER = 23
    NOT_SUPPORTED_FOR_LEARNER = 24
    MEMBER_NOT_FOUND = 25
    BAD_LEADER_TRANSFEREE = 26
    UNIMPLEMENTED = 27
    RESPONSE_TOO_LARGE = 28
    MALFORMED = 29
    DEADLINE_EXCEEDED = 30
    CANCELED = 31
    DUPLICATE_BATCH = 32
    PENDING = 33
    LEASE_EXISTS = 34
    LEASE_TTL_TOO_LARGE = 35
    MEMBER_EXISTS = 50
    PEER_URL_EXISTS = 51
    NOT_ENOUGH_STARTED_MEMBERS = 52
    LEARNER_NOT_READY = 53
    MEMBER_NOT_LEARNER = 54
    TOO_MANY_LEARNERS = 55
    MEMBER_BAD_URLS = 56
    TIMEOUT_LEADER_TRANSFER = 57
    ROOT_USER_NOT_EXIST = 60
    ROOT_ROLE_NOT_EXIST = 61
    USER_ALREADY_EXISTS = 62
    USER_EMPTY = 63
    USER_NOT_FOUND = 64
    ROLE_ALREADY_EXISTS = 65
    ROLE_NOT_FOUND = 66
    ROLE_EMPTY = 67
    AUTH_FAILED = 68
    PERMISSION_NOT_GIVEN = 69
    PERMISSION_DENIED = 70
    ROLE_NOT_GRANTED = 71
    PERMISSION_NOT_GRANTED = 72
    AUTH_NOT_ENABLED = 73
    INVALID_AUTH_TOKEN = 74
    INVALID_AUTH_MANAGEMENT = 75
    AUTH_OLD_REVISION = 76
    NO_PASSWORD_USER = 77
    PASSWORD_TOO_LONG = 78
    TOKENS_VERIFIED_ONLY = 79
    RANGE_STREAM_SORTED = 90
    RANGE_STREAM_FILTERED = 91
    WRONG_DOWNGRADE_FORMAT = 95
    INVALID_DOWNGRADE_TARGET = 96
    DOWNGRADE_IN_PROCESS = 97
    SESSION_EXPIRED = 110
    NOT_ELECTED = 111
    NOBODY_ELECTED = 112
    LEADER_KEY_MISSING = 113


ANSWERED_LATER: Final = ErrorCode.PENDING
"""Not an error and never on a client's wire: the answer to this command follows in `CommandAnswered`."""


class WireError(NamedTuple):
    """How an error looks to a client.

    `outcome_unknown`: the request may still take effect; a timeout is "unknown", not "failed".
    """

    grpc_code: GrpcCode
    text: str
    retryable: bool = False
    outcome_unknown: bool = False


_G = GrpcCode
WIRE_ERRORS: Final[dict[ErrorCode, WireError]] = {
    ErrorCode.EMPTY_KEY: WireError(_G.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    ErrorCode.KEY_NOT_FOUND: WireError(_G.INVALID_ARGUMENT, "etcdserver: key not found"),
    ErrorCode.VALUE_PROVIDED: WireError(_G.INVALID_ARGUMENT, "etcdserver: value is provided"),
    ErrorCode.LEASE_PROVIDED: WireError(_G.INVALID_ARGUMENT, "etcdserver: lease is provided"),
    ErrorCode.TOO_MANY_OPERATIONS: WireError(_G.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    ErrorCode.DUPLICATE_KEY: WireError(_G.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    ErrorCode.INVALID_SORT_OPTION: WireError(_G.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
    ErrorCode.REQUEST_TOO_LARGE: WireError(_G.INVALID_ARGUMENT, "etcdserver: request is too large"),
    ErrorCode.LEASE_NOT_FOUND: WireError(_G.NOT_FOUND, "etcdserver: requested lease not found"),
    ErrorCode.LEASE_EXISTS: WireError(_G.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    ErrorCode.LEASE_TTL_TOO_LARGE: WireError(_G.OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    ErrorCode.COMPACTED: WireError(_G.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    ErrorCode.FUTURE_REVISION: WireError(_G.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
    ErrorCode.NO_SPACE: WireError(_G.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    # etcd sends this one as Unknown although its catalogue says ResourceExhausted (feature map, quirks).
    ErrorCode.TOO_MANY_REQUESTS: WireError(_G.UNKNOWN, "etcdserver: too many requests", retryable=True),
    ErrorCode.NO_LEADER: WireError(_G.UNAVAILABLE, "etcdserver: no leader", retryable=True),
    ErrorCode.LEADER_CHANGED: WireError(
        _G.UNAVAILABLE, "etcdserver: leader changed", retryable=True, outcome_unknown=True
    ),
    ErrorCode.STOPPED: WireError(_G.UNAVAILABLE, "etcdserver: server stopped", retryable=True, outcome_unknown=True),
    ErrorCode.TIMEOUT: WireError(_G.UNAVAILABLE, "etcdserver: request timed out", retryable=True, outcome_unknown=True),
    ErrorCode.TIMEOUT_LEADER_FAILED: WireError(
        _G.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
        retryable=True,
        outcome_unknown=True,
    ),
    ErrorCode.TIMEOUT_CONNECTION_LOST: WireError(
        _G.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to connection lost",
        retryable=True,
        outcome_unknown=True,
    ),
    ErrorCode.TIMEOUT_WAIT_APPLIED: WireError(
        _G.UNAVAILABLE,
        "etcdserver: request timed out, waiting for the applied index took too long",
        retryable=True,
    ),
    ErrorCode.UNHEALTHY: WireError(_G.UNAVAILABLE, "etcdserver: unhealthy cluster", retryable=True),
    ErrorCode.CORRUPT: WireError(_G.DATA_LOSS, "etcdserver: corrupt cluster"),
    ErrorCode.NOT_LEADER: WireError(_G.FAILED_PRECONDITION, "etcdserver: not leader"),
    ErrorCode.NOT_SUPPORTED_FOR_LEARNER: WireError(_G.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"),
    ErrorCode.MEMBER_NOT_FOUND: WireError(_G.NOT_FOUND, "etcdserver: member not found"),
    ErrorCode.BAD_LEADER_TRANSFEREE: WireError(_G.FAILED_PRECONDITION, "etcdserver: bad leader transferee"),
    ErrorCode.MEMBER_EXISTS: WireError(_G.FAILED_PRECONDITION, "etcdserver: member ID already exist"),
    ErrorCode.PEER_URL_EXISTS: WireError(_G.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
    # Unknown as etcd sends it, although its catalogue says FailedPrecondition (feature map, quirks).
    ErrorCode.NOT_ENOUGH_STARTED_MEMBERS: WireError(
        _G.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"
    ),
    ErrorCode.LEARNER_NOT_READY: WireError(
        _G.FAILED_PRECONDITION, "etcdserver: can only promote a learner member which is in sync with leader"
    ),
    ErrorCode.MEMBER_NOT_LEARNER: WireError(_G.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"),
    ErrorCode.TOO_MANY_LEARNERS: WireError(_G.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"),
    ErrorCode.MEMBER_BAD_URLS: WireError(_G.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"),
    ErrorCode.TIMEOUT_LEADER_TRANSFER: WireError(
        _G.UNKNOWN, "etcdserver: request timed out, leader transfer took too long", outcome_unknown=True
    ),
    ErrorCode.UNIMPLEMENTED: WireError(_G.UNIMPLEMENTED, "unknown method"),
    ErrorCode.RANGE_STREAM_SORTED: WireError(_G.UNIMPLEMENTED, "RangeStream does not support custom sort orders"),
    ErrorCode.RANGE_STREAM_FILTERED: WireError(_G.UNIMPLEMENTED, "RangeStream does not support revision filters"),
    ErrorCode.RESPONSE_TOO_LARGE: WireError(
        _G.RESOURCE_EXHAUSTED, "actd: response is over the byte budget, use limit to page"
    ),
    ErrorCode.MALFORMED: WireError(_G.INTERNAL, "actd: request message could not be parsed"),
    ErrorCode.DEADLINE_EXCEEDED: WireError(
        _G.DEADLINE_EXCEEDED, "context deadline exceeded", retryable=True, outcome_unknown=True
    ),
    ErrorCode.CANCELED: WireError(_G.CANCELED, "context canceled", retryable=False, outcome_unknown=True),
    ErrorCode.ROOT_USER_NOT_EXIST: WireError(_G.FAILED_PRECONDITION, "etcdserver: root user does not exist"),
    ErrorCode.ROOT_ROLE_NOT_EXIST: WireError(_G.FAILED_PRECONDITION, "etcdserver: root user does not have root role"),
    ErrorCode.USER_ALREADY_EXISTS: WireError(_G.FAILED_PRECONDITION, "etcdserver: user name already exists"),
    ErrorCode.USER_EMPTY: WireError(_G.INVALID_ARGUMENT, "etcdserver: user name is empty"),
    ErrorCode.USER_NOT_FOUND: WireError(_G.FAILED_PRECONDITION, "etcdserver: user name not found"),
    ErrorCode.ROLE_ALREADY_EXISTS: WireError(_G.FAILED_PRECONDITION, "etcdserver: role name already exists"),
    ErrorCode.ROLE_NOT_FOUND: WireError(_G.FAILED_PRECONDITION, "etcdserver: role name not found"),
    ErrorCode.ROLE_EMPTY: WireError(_G.INVALID_ARGUMENT, "etcdserver: role name is empty"),
    ErrorCode.AUTH_FAILED: WireError(
        _G.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"
    ),
    ErrorCode.PERMISSION_NOT_GIVEN: WireError(_G.INVALID_ARGUMENT, "etcdserver: permission not given"),
    ErrorCode.PERMISSION_DENIED: WireError(_G.PERMISSION_DENIED, "etcdserver: permission denied"),
    ErrorCode.ROLE_NOT_GRANTED: WireError(_G.FAILED_PRECONDITION, "etcdserver: role is not granted to the user"),
    ErrorCode.PERMISSION_NOT_GRANTED: WireError(
        _G.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role"
    ),
    ErrorCode.AUTH_NOT_ENABLED: WireError(_G.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"),
    ErrorCode.INVALID_AUTH_TOKEN: WireError(_G.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    ErrorCode.INVALID_AUTH_MANAGEMENT: WireError(_G.INVALID_ARGUMENT, "etcdserver: invalid auth management"),
    ErrorCode.AUTH_OLD_REVISION: WireError(_G.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
    # These three are no part of etcd's catalogue: what is not goes out as Unknown with its own text.
    ErrorCode.NO_PASSWORD_USER: WireError(
        _G.UNKNOWN, "auth: authentication failed, password was given for no password user"
    ),
    ErrorCode.PASSWORD_TOO_LONG: WireError(_G.UNKNOWN, "bcrypt: password length exceeds 72 bytes"),
    ErrorCode.TOKENS_VERIFIED_ONLY: WireError(_G.UNKNOWN, "auth: token signing attempted with verify-only key"),
    ErrorCode.WRONG_DOWNGRADE_FORMAT: WireError(
        _G.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"
    ),
    ErrorCode.INVALID_DOWNGRADE_TARGET: WireError(_G.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"),
    ErrorCode.DOWNGRADE_IN_PROCESS: WireError(
        _G.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress"
    ),
    # Of the lock and election services; etcd gives these no code, and gRPC makes that Unknown.
    ErrorCode.SESSION_EXPIRED: WireError(_G.UNKNOWN, "mutex: session is expired"),
    ErrorCode.NOT_ELECTED: WireError(_G.UNKNOWN, "election: not leader"),
    ErrorCode.NOBODY_ELECTED: WireError(_G.UNKNOWN, "election: no leader"),
    ErrorCode.LEADER_KEY_MISSING: WireError(_G.UNKNOWN, '"leader" field must be provided'),
    # A batch that was applied before: its first answer is gone, so the outcome is unknown to the caller.
    ErrorCode.DUPLICATE_BATCH: WireError(
        _G.UNAVAILABLE, "etcdserver: request timed out", retryable=True, outcome_unknown=True
    ),
}
"""The one table from our errors to the wire; a test proves it total."""


class ActdError(Exception):
    """Base of every error of ours; never raised itself."""


class ClientError(ActdError):
    """A request that is answered with `code`; the table above has its text."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(WIRE_ERRORS[code].text)
        self.code = code


class PeerFault(ActdError):
    """An outsider sent something malformed or impossible: drop it, count it, log it, go on."""


class ConfigError(ActdError):
    """A configuration that cannot be used; the text names file, key and what to do."""


class StartRefused(ActdError):
    """The node must not start; the text says why and what the operator can do."""


class InvariantViolation(ActdError):
    """Our own code is wrong: all bets are off and the actor halts with its story."""


class Corruption(ActdError):
    """What the disk gave back is not what was written: name file and offset, and halt."""


class DiskFailed(ActdError):
    """A write or sync failed; it is never retried, because the page cache may lie afterwards. Halt."""
