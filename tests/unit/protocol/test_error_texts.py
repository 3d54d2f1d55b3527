"""Errors a client sees: etcd's texts and codes, and honest words about what may have happened."""

import pytest

from protocol.errors import WIRE_ERRORS, ClientError, ErrorCode, GrpcCode

ETCD: dict[ErrorCode, tuple[GrpcCode, str]] = {
    ErrorCode.EMPTY_KEY: (GrpcCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    ErrorCode.KEY_NOT_FOUND: (GrpcCode.INVALID_ARGUMENT, "etcdserver: key not found"),
    ErrorCode.TOO_MANY_OPERATIONS: (GrpcCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    ErrorCode.DUPLICATE_KEY: (GrpcCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    ErrorCode.REQUEST_TOO_LARGE: (GrpcCode.INVALID_ARGUMENT, "etcdserver: request is too large"),
    ErrorCode.LEASE_NOT_FOUND: (GrpcCode.NOT_FOUND, "etcdserver: requested lease not found"),
    ErrorCode.COMPACTED: (GrpcCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    ErrorCode.FUTURE_REVISION: (GrpcCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
    ErrorCode.NO_SPACE: (GrpcCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    ErrorCode.NO_LEADER: (GrpcCode.UNAVAILABLE, "etcdserver: no leader"),
    ErrorCode.TIMEOUT: (GrpcCode.UNAVAILABLE, "etcdserver: request timed out"),
}


@pytest.mark.parametrize("code", ETCD, ids=lambda code: code.name)
def test_texts_and_codes_are_etcds(code: ErrorCode) -> None:
    """Clients compare texts, so a letter's difference is another error to them."""
    wire = WIRE_ERRORS[code]
    assert (wire.grpc_code, wire.text) == ETCD[code]
    raised = ClientError(code)
    assert (raised.code, str(raised)) == (code, ETCD[code][1])


def test_a_timeout_is_never_called_a_failure() -> None:
    """Whatever ends the wait for a write that may have been proposed says that its outcome is unknown."""
    ended = {code for code, wire in WIRE_ERRORS.items() if "timed out" in wire.text or "deadline" in wire.text}
    waited_to_read = {ErrorCode.TIMEOUT_WAIT_APPLIED}
    assert len(ended) >= 5
    for code in ended - waited_to_read:
        assert WIRE_ERRORS[code].outcome_unknown, code.name


def test_a_refusal_of_the_request_itself_is_final() -> None:
    """What was wrong with a request stays wrong: nothing invites to try it again, and nothing happened."""
    final = {GrpcCode.INVALID_ARGUMENT, GrpcCode.NOT_FOUND, GrpcCode.OUT_OF_RANGE, GrpcCode.FAILED_PRECONDITION}
    for code, wire in WIRE_ERRORS.items():
        if wire.grpc_code in final:
            assert not wire.retryable, code.name
            assert not wire.outcome_unknown, code.name


def test_numbers_stay_what_they_are() -> None:
    """Codes are on the wire to clients of other versions: the numbers in use keep their meaning."""
    assert [ErrorCode(number).name for number in (0, 1, 10, 13, 14, 17, 29, 33)] == [
        *("OK", "EMPTY_KEY", "COMPACTED", "TOO_MANY_REQUESTS", "NO_LEADER", "TIMEOUT", "MALFORMED", "PENDING")
    ]
    assert len({int(code) for code in ErrorCode}) == len(ErrorCode)
