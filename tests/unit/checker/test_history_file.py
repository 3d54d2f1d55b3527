"""The history file: what is written is read back, and what is no history is refused with its line."""

import io

import pytest

from checker.history import (
    History,
    Operation,
    Outcome,
    UnfitHistory,
    answered,
    code_of,
    header_line,
    lost,
    read_history,
    refused,
    write_history,
)
from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import PutRequest, PutResponse, RangeRequest

PUT = PutRequest(key=b"\x00\xffk", value=b"v")


def _answer(revision: int) -> PutResponse:
    response = PutResponse()
    response.header.revision = revision
    response.header.member_id = 7
    return response


def test_a_history_survives_its_file() -> None:
    """Every kind of outcome, bytes that are no text, servers and tags come back as they were."""
    operations = [
        answered("c1", PUT, _answer(2), 1, 5, server="n1/1", tag="t"),
        refused("c2", RangeRequest(key=b"k", revision=9), ErrorCode.FUTURE_REVISION, 2, 3),
        refused("c2", PUT, ErrorCode.TIMEOUT, 4, 5),
        lost("c3", PUT, 2, None, why="connection reset"),
    ]
    file = io.StringIO()
    write_history(file, History(operations, "ms", frozenset({4, 3})))
    read = read_history(file.getvalue().splitlines())
    assert read == History(operations, "ms", frozenset({3, 4}))
    assert [operation.outcome for operation in read.operations] == ["ok", "failed", "unknown", "unknown"]
    assert read.operations[0].answer == {"header": {"revision": 2}}


GOOD = '{"client":"c","call":"put","request":{"key":"k"},"invoked":1,"returned":2,"outcome":"failed"}'


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        GOOD.replace("failed", "maybe"),
        GOOD.replace('"put"', '"watch"'),
        GOOD.replace('"returned":2', '"returned":0'),
        GOOD.replace("failed", "ok"),
        GOOD.replace('"failed"', '"ok","answer":{"header":{}}'),
        GOOD.replace('"failed"', '"failed","answer":{"header":{"revision":2}}'),
        GOOD.replace('"client"', '"who"'),
        GOOD.replace('"invoked":1', '"invoked":"1"'),
        GOOD.replace('"request":{"key":"k"}', '"request":{"kye":"k"}'),
        GOOD.replace('"request":{"key":"k"}', '"request":{"key":5}'),
    ],
)
def test_what_is_no_operation_is_refused(line: str) -> None:
    """The line is named."""
    with pytest.raises(UnfitHistory, match="line 3"):
        read_history([header_line(), GOOD, line])


def test_a_file_without_head_is_refused() -> None:
    """A file of another format is not judged by chance."""
    for lines in ([], [GOOD], ['{"history": 2}']):
        with pytest.raises(UnfitHistory, match="line 1"):
            read_history(lines)


def test_an_error_text_of_a_server_names_its_code() -> None:
    """Recorders outside actd know only the text; one that nobody knows says nothing."""
    assert code_of("etcdserver: mvcc: required revision has been compacted") == ErrorCode.COMPACTED
    assert code_of("etcdserver: request timed out") == ErrorCode.TIMEOUT
    assert code_of("connection refused") is None
    assert Operation.from_plain({"client": "c", "call": "put", "request": {}, "invoked": 1, "returned": None,
                                 "outcome": "unknown"}).outcome == Outcome.UNKNOWN  # fmt: skip
