"""The replay of the log against the history: each way a client can be lied to, made by hand."""

import pytest

from protocol.command import CommandKind, Origin, encode_batch
from protocol.errors import ErrorCode
from protocol.types import Entry, EntryKind, Incarnation, Index, MemberId, Term
from protocol.wire.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse
from sim.clients import Call, History
from sim.replay import check_history
from sim.trouble import SimulationFailed
from sim.workload import Request

GATEWAY = ("n1", 1)
OTHER_GATEWAY = ("n2", 1)


class _Story:
    """A log and a history, written down call by call."""

    def __init__(self) -> None:
        self.history = History()
        self.entries: dict[int, Entry] = {}

    def begin_put(self, value: bytes, key: bytes = b"k") -> Call:
        message = PutRequest(key=key, value=value)
        return self._begin(Request("put", message, message.SerializeToString(), writes=True))

    def begin_get(self, *, serializable: bool = False, revision: int = 0, gateway: tuple[str, int] = GATEWAY) -> Call:
        message = RangeRequest(key=b"k", serializable=serializable, revision=revision)
        request = Request("range", message, message.SerializeToString(), writes=False, serializable=serializable)
        return self._begin(request, gateway)

    def commit(self, *calls: Call, sequence: int | None = None) -> None:
        index = len(self.entries) + 1
        flat = [part for call in calls for part in (int(CommandKind.PUT), call.request.body)]
        origin = Origin(MemberId(1), Incarnation(1), sequence or index)
        data = encode_batch(origin, flat)
        self.entries[index] = Entry(Term(1), Index(index), EntryKind.COMMANDS, data)

    def put_answered(self, call: Call, revision: int) -> None:
        self._end(call, PutResponse(), revision)

    def get_answered(
        self, call: Call, revision: int, value: bytes | None, mod_revision: int = 0, version: int = 1
    ) -> None:
        response = RangeResponse(count=int(value is not None))
        if value is not None:
            pair = response.kvs.add(key=b"k", value=value, mod_revision=mod_revision, version=version)
            pair.create_revision = mod_revision - version + 1
        self._end(call, response, revision)

    def refused(self, call: Call, code: ErrorCode) -> None:
        self.history.end(call, int(code), b"")

    def check(self) -> None:
        check_history(self.history, self.entries)

    def _begin(self, request: Request, gateway: tuple[str, int] = GATEWAY) -> Call:
        call = self.history.begin(0, request, 1000)
        call.gateway = gateway
        return call

    def _end(self, call: Call, response: PutResponse | RangeResponse, revision: int) -> None:
        response.header.cluster_id = response.header.member_id = response.header.raft_term = 1
        response.header.revision = revision
        self.history.end(call, 0, response.SerializeToString())


@pytest.fixture
def story() -> _Story:
    """One put of ``a``, committed and acknowledged at revision 2."""
    story = _Story()
    call = story.begin_put(b"a")
    story.commit(call)
    story.put_answered(call, 2)
    return story


def _broken(rule: str) -> "pytest.RaisesExc[SimulationFailed]":
    return pytest.raises(SimulationFailed, match=rule)


def test_an_honest_history_passes(story: _Story) -> None:
    """Reads before and after, an old serializable read, a refusal and an unknown outcome are all allowed."""
    stale = story.begin_get(serializable=True, gateway=OTHER_GATEWAY)
    fresh = story.begin_get()
    refused, unknown = story.begin_put(b"r"), story.begin_put(b"u")
    story.commit(unknown)
    story.get_answered(fresh, 2, b"a", 2)
    story.refused(refused, ErrorCode.TOO_MANY_REQUESTS)
    story.refused(unknown, ErrorCode.TIMEOUT)
    story.get_answered(stale, 1, None)
    story.check()


def test_a_lost_acknowledged_write_is_noticed(story: _Story) -> None:
    """An answered write that is not in the log was lost."""
    story.put_answered(story.begin_put(b"b"), 3)
    with _broken("acknowledged is kept"):
        story.check()


def test_a_refused_write_that_happened_is_noticed(story: _Story) -> None:
    """Who is told that nothing happened must be able to rely on it."""
    call = story.begin_put(b"b")
    story.commit(call)
    story.refused(call, ErrorCode.TOO_MANY_REQUESTS)
    with _broken("refused is not done"):
        story.check()


def test_a_write_that_happens_twice_is_noticed(story: _Story) -> None:
    """The same command under two sequences takes effect twice; under one it is a repeat."""
    call = story.begin_put(b"b")
    story.commit(call, sequence=9)
    story.commit(call, sequence=9)
    story.put_answered(call, 3)
    story.check()
    story.commit(call, sequence=10)
    with _broken("at most once"):
        story.check()


def test_a_write_nobody_asked_for_is_noticed(story: _Story) -> None:
    """Everything in the log has an owner."""
    call = story.begin_put(b"b")
    story.commit(call)
    story.history.calls.remove(call)
    with _broken("thin air"):
        story.check()


def test_a_wrong_answer_is_noticed(story: _Story) -> None:
    """An answer that is not the model's, in header or body, is a lie."""
    call = story.begin_put(b"b")
    story.commit(call)
    story.put_answered(call, 4)
    with _broken("answers are the model's"):
        story.check()


def test_a_stale_linearizable_read_is_noticed(story: _Story) -> None:
    """A read that began after an acknowledgement shows it."""
    story.get_answered(story.begin_get(gateway=OTHER_GATEWAY), 1, None)
    with _broken("linearizable reads are fresh"):
        story.check()


def test_a_read_of_an_uncommitted_revision_is_noticed(story: _Story) -> None:
    """No read shows a revision the log never reached."""
    story.get_answered(story.begin_get(), 3, b"a", 2)
    with _broken("reads show what is committed"):
        story.check()


def test_a_read_that_shows_another_value_is_noticed(story: _Story) -> None:
    """The pairs are those of the revision in the header."""
    story.get_answered(story.begin_get(), 2, b"z", 2)
    with _broken("answers are the model's"):
        story.check()


def test_a_revision_that_goes_back_is_noticed(story: _Story) -> None:
    """One gateway never answers with an older revision, serializable or not."""
    story.get_answered(story.begin_get(serializable=True), 1, None)
    with _broken("revisions never go back"):
        story.check()


def test_a_write_ordered_before_its_time_is_noticed(story: _Story) -> None:
    """A write that began after another was acknowledged stands behind it in the log."""
    late = story.begin_put(b"b")
    story.commit(late)
    story.entries[1], story.entries[2] = (
        story.entries[2]._replace(index=Index(1)),
        story.entries[1]._replace(index=Index(2)),
    )
    story.put_answered(late, 2)
    with _broken("real-time order|answers are the model's"):
        story.check()


def test_a_read_refused_without_reason_is_noticed(story: _Story) -> None:
    """FUTURE_REVISION for a revision that was acknowledged before the read began is a stale read."""
    story.refused(story.begin_get(revision=2), ErrorCode.FUTURE_REVISION)
    with _broken("linearizable reads are fresh"):
        story.check()


def test_a_hole_in_the_log_is_noticed(story: _Story) -> None:
    """Entries are known from the first to the last."""
    story.entries[3] = story.entries[1]._replace(index=Index(3))
    with _broken("no holes"):
        story.check()
