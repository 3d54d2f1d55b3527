"""The judge that knows no log: hand-made histories it must refuse, and what it is told when too much is unknown."""

import pytest
from google.protobuf.message import Message

from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse
from sim.clients import Call, History
from sim.linear import STEPS_WITHOUT_LOG_MAX, check_linearizable
from sim.replay import Outcome, Replay
from sim.trouble import SimulationFailed
from sim.workload import Request


class _Told:
    """A history that a test makes up; each client has one call open at a time."""

    def __init__(self) -> None:
        self.history = History()
        self.replay = Replay()

    def ask(self, client: int, request: PutRequest | RangeRequest) -> Call:
        writes = isinstance(request, PutRequest)
        method = "put" if writes else "range"
        asked = Request(method, request, request.SerializeToString(), writes)
        call = self.history.begin(client, asked, 100)
        call.gateway = ("n1", 1)
        return call

    def put(self, client: int, value: bytes) -> Call:
        return self.ask(client, PutRequest(key=b"k", value=value))

    def answer(self, call: Call, revision: int, value: bytes | None = None, mod_revision: int = 0) -> None:
        response: Message
        if value is None:
            response = put_response(revision)
        else:
            response = RangeResponse(count=1)
            response.header.revision = revision
            pair = response.kvs.add(key=b"k", value=value, create_revision=2, mod_revision=mod_revision)
            pair.version = mod_revision - 1
        self.history.end(call, ErrorCode.OK, response.SerializeToString())


def put_response(revision: int) -> PutResponse:
    """The answer to a put."""
    response = PutResponse()
    response.header.revision = revision
    return response


def test_a_history_that_an_order_explains_passes() -> None:
    """Two writes at once, one of unknown outcome, and a read that saw both."""
    told = _Told()
    first, second = told.put(1, b"a"), told.put(2, b"b")
    told.answer(first, 2)
    told.history.end(second, None, b"")
    read = told.ask(3, RangeRequest(key=b"k"))
    told.answer(read, 3, b"b", 3)
    assert not check_linearizable(told.history, told.replay), "the log was not needed"


def test_a_stale_read_is_refused_without_the_log() -> None:
    """A read that began after a write was acknowledged, and does not show it, has no explanation."""
    told = _Told()
    told.answer(told.put(1, b"a"), 2)
    told.answer(told.put(1, b"b"), 3)
    told.answer(told.ask(2, RangeRequest(key=b"k")), 2, b"a", 2)
    with pytest.raises(SimulationFailed, match="linearizable"):
        check_linearizable(told.history, told.replay)


@pytest.mark.parametrize("honest", [True, False])
def test_a_history_of_unknowns_is_judged_with_the_log(*, honest: bool) -> None:
    """When too many writes were never answered, the log says which of them were done; a wrong answer stays wrong."""
    told = _Told()
    unknown = [told.put(client, b"u%d" % client) for client in range(14)]
    for call in unknown:
        told.history.end(call, None, b"")
    for position, call in enumerate(reversed(unknown), 1):
        outcome = Outcome(position, ErrorCode.OK, put_response(1 + position))
        told.replay.outcomes[call.request.body] = [outcome]
    read = told.ask(20, RangeRequest(key=b"k"))
    told.answer(read, 15, b"u0" if honest else b"u5", 15)
    late = told.ask(20, RangeRequest(key=b"k"))
    told.answer(late, 15 if honest else 14, b"u0", 15)
    assert STEPS_WITHOUT_LOG_MAX < 14 * 13 * 12 * 11, "the search cannot try all orders"
    if honest:
        check_linearizable(told.history, told.replay)
    else:
        with pytest.raises(SimulationFailed, match="linearizable"):
            check_linearizable(told.history, told.replay)
