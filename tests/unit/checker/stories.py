"""Histories written by hand, call by call, in etcd's own messages; instants count up by themselves."""

from typing import Any

from google.protobuf.message import Message

from checker.history import History, Operation, answered, lost, refused
from checker.items import problem_of
from checker.search import Answer, Verdict, decide
from protocol.errors import ErrorCode
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
)


def pair(key: str, value: str, mod: int, *, create: int = 0, version: int = 1) -> KeyValue:
    """A pair as an answer shows it; created by its newest put unless said otherwise."""
    return KeyValue(
        key=key.encode(), value=value.encode(), mod_revision=mod, create_revision=create or mod, version=version
    )


class Call:
    """A call under way; ends once, or never."""

    def __init__(self, story: "Story", client: str, request: Any) -> None:
        self._story = story
        self._client = client
        self.request = request
        self.invoked = story.tick()

    def ok(self, revision: int, response: Any = None, **fields: Any) -> Operation:
        """It was answered."""
        answers: dict[type[Message], type[Any]] = {
            PutRequest: PutResponse,
            RangeRequest: RangeResponse,
            DeleteRangeRequest: DeleteRangeResponse,
            CompactionRequest: CompactionResponse,
            TxnRequest: TxnResponse,
        }
        response = response if response is not None else answers[type(self.request)](**fields)
        response.header.revision = revision
        return self._story.add(answered(self._client, self.request, response, self.invoked, self._story.tick()))

    def shows(self, revision: int, *pairs: KeyValue) -> Operation:
        """A read was answered with these pairs and no others."""
        return self.ok(revision, RangeResponse(kvs=pairs, count=len(pairs)))

    def refused(self, code: ErrorCode) -> Operation:
        """It ended with an error."""
        return self._story.add(refused(self._client, self.request, code, self.invoked, self._story.tick()))

    def lost(self) -> Operation:
        """Nobody knows how it ended."""
        return self._story.add(lost(self._client, self.request, self.invoked, self._story.tick()))


class Story:
    """A history in the making."""

    def __init__(self) -> None:
        self.history = History()
        self._now = 0

    def tick(self) -> int:
        """The next instant."""
        self._now += 1
        return self._now

    def add(self, operation: Operation) -> Operation:
        """Note a call that ended."""
        self.history.operations.append(operation)
        return operation

    def call(self, request: Any, client: str = "c") -> Call:
        """Begin any call."""
        return Call(self, client, request)

    def put(self, key: str, value: str, client: str = "c", **options: Any) -> Call:
        """Begin a put."""
        return self.call(PutRequest(key=key.encode(), value=value.encode(), **options), client)

    def get(self, key: str, client: str = "c", **options: Any) -> Call:
        """Begin a read of one key."""
        return self.call(RangeRequest(key=key.encode(), **options), client)

    def list(self, client: str = "c", **options: Any) -> Call:
        """Begin a read of everything."""
        return self.call(RangeRequest(key=b"\0", range_end=b"\0", **options), client)

    def delete(self, key: str, client: str = "c", **options: Any) -> Call:
        """Begin a delete of one key."""
        return self.call(DeleteRangeRequest(key=key.encode(), **options), client)

    def compact(self, revision: int, client: str = "c") -> Call:
        """Begin a compaction."""
        return self.call(CompactionRequest(revision=revision), client)

    def verdict(self) -> Verdict:
        """What the search says."""
        return decide(problem_of(self.history))

    def holds(self) -> bool:
        """Whether the history is linearizable; a search that gives up fails."""
        verdict = self.verdict()
        assert verdict.answer != Answer.GAVE_UP, verdict
        return verdict.answer == Answer.LINEARIZABLE
