"""Made-up histories: calls with answers as a store would give them, or would not."""

from google.protobuf.message import Message

from chaos.history import History, Outcome, Record
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc


class MadeUp:
    """A history in which time passes only between calls, unless one says otherwise."""

    def __init__(self, workload: str) -> None:
        self.history = History()
        self._workload = workload
        self._now = 0

    @property
    def records(self) -> list[Record]:
        """All calls so far."""
        return self.history.records

    def call(self, request: Message, response: Message | None, outcome: Outcome = "ok", **note: object) -> Record:
        """Add a call that lasts 10 µs, or for ever when its outcome is unknown."""
        record = self.history.invoke("c0", "grpc", self._workload, request, note)
        record.invoked_us = self._now
        self._now += 10
        record.outcome = outcome
        if outcome != "unknown":
            record.returned_us = self._now
        record.response = response
        self._now += 10
        return record


def header(revision: int) -> rpc.ResponseHeader:
    """A header with a revision."""
    return rpc.ResponseHeader(revision=revision)


def put_answer(revision: int) -> rpc.PutResponse:
    """A put was done at `revision`."""
    return rpc.PutResponse(header=header(revision))


def pair(key: str, value: str, revision: int) -> mvcc.KeyValue:
    """A pair written once."""
    return mvcc.KeyValue(
        key=key.encode(), value=value.encode(), create_revision=revision, mod_revision=revision, version=1
    )


def listing(revision: int, *pairs: mvcc.KeyValue, more: bool = False, count: int | None = None) -> rpc.RangeResponse:
    """An answer to a range."""
    return rpc.RangeResponse(
        header=header(revision), kvs=pairs, more=more, count=len(pairs) if count is None else count
    )


def _operation(name: str, answer: Message) -> rpc.ResponseOp:
    operation = rpc.ResponseOp()
    getattr(operation, name).CopyFrom(answer)
    return operation


def txn_answer(revision: int, *answers: Message, succeeded: bool = True) -> rpc.TxnResponse:
    """An answer to a txn."""
    names: dict[type[Message], str] = {rpc.PutResponse: "response_put", rpc.RangeResponse: "response_range"}
    names[rpc.DeleteRangeResponse] = "response_delete_range"
    return rpc.TxnResponse(
        header=header(revision),
        succeeded=succeeded,
        responses=[_operation(names[type(each)], each) for each in answers],
    )
