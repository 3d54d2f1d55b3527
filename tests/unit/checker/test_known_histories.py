"""Each way a store can lie, as the shortest history that shows it, beside its honest twin."""

import pytest
from stories import Story, pair

from protocol.errors import ErrorCode
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)


@pytest.fixture
def story() -> Story:
    """``a`` was put as ``1`` at revision 2."""
    made = Story()
    made.put("a", "1").ok(2)
    return made


def cas(key: str, mod: int, value: str) -> TxnRequest:
    """Put the key if its newest revision is `mod`."""
    compare = Compare(key=key.encode(), target=Compare.MOD, mod_revision=mod)
    put = RequestOp(request_put=PutRequest(key=key.encode(), value=value.encode()))
    return TxnRequest(compare=[compare], success=[put])


def swapped(revision: int) -> TxnResponse:
    """The answer of a txn that put once."""
    response = TxnResponse(succeeded=True)
    response.responses.add().response_put.header.revision = revision
    return response


# --- reads ----------------------------------------------------------------------------------------


def test_a_read_shows_what_was_acknowledged_before_it_began(story: Story) -> None:
    """A stale read is a lie, unless it was asked for, or overlaps the write."""
    write = story.put("a", "2")
    early = story.get("a", "d")
    write.ok(3)
    early.shows(2, pair("a", "1", 2))
    story.get("a", serializable=True).shows(2, pair("a", "1", 2))
    assert story.holds()
    story.get("a").shows(2, pair("a", "1", 2))
    assert not story.holds()


def test_reads_never_go_back(story: Story) -> None:
    """Once anybody saw a write, nobody sees the state before it, though the write is not acknowledged yet."""
    write, late = story.put("a", "2", "w"), story.get("a", "late")
    story.get("a", "early").shows(3, pair("a", "2", 3, create=2, version=2))
    late.shows(2, pair("a", "1", 2))
    write.lost()
    assert story.holds()
    story.get("a", "later").shows(2, pair("a", "1", 2))
    assert not story.holds()


def test_a_value_nobody_wrote_is_noticed(story: Story) -> None:
    """Neither under a revision that was made by another, nor under one that nobody can have made."""
    story.get("a").shows(2, pair("a", "x", 2))
    assert not story.holds()
    other = Story()
    other.put("a", "1").ok(2)
    other.get("a").shows(3, pair("a", "x", 3, create=2, version=2))
    assert not other.holds()


@pytest.mark.parametrize(
    "lie",
    [
        pair("a", "1", 2, version=2),
        pair("a", "1", 2, create=1),
        pair("b", "1", 2),
        pair("a", "", 2),
    ],
)
def test_a_pair_that_differs_in_anything_is_noticed(story: Story, lie: KeyValue) -> None:
    """Version, creation, key and value are all part of the answer."""
    story.get("a").shows(2, lie)
    assert not story.holds()


def test_a_write_is_not_seen_before_it_is_asked_for(story: Story) -> None:
    """Even a write of unknown outcome takes effect after its call began."""
    story.get("a").shows(3, pair("a", "2", 3, create=2, version=2))
    story.put("a", "2").lost()
    assert not story.holds()


def test_a_listing_shows_all_and_only_what_is_there(story: Story) -> None:
    """A pair too few or a count too high is a lie, whatever the page."""
    story.put("b", "2").ok(3)
    story.list().shows(3, pair("a", "1", 2), pair("b", "2", 3))
    story.list(revision=2).shows(3, pair("a", "1", 2))
    story.list(limit=1).ok(3, kvs=[pair("a", "1", 2)], count=2, more=True)
    assert story.holds()
    story.list().shows(3, pair("b", "2", 3))
    assert not story.holds()


def test_a_stale_read_shows_a_state_that_was(story: Story) -> None:
    """It may be old; it may not be a mixture, nor from the future."""
    story.put("b", "2").ok(3)
    story.list(serializable=True).shows(1)
    story.list(serializable=True).shows(2, pair("a", "1", 2))
    assert story.holds()
    story.list(serializable=True).shows(2, pair("b", "2", 3))
    assert not story.holds()


def test_a_stale_read_shows_nothing_from_the_future(story: Story) -> None:
    """A revision that was made only after the read had returned was not there to be read."""
    story.get("b", serializable=True).shows(3, pair("b", "2", 3))
    story.put("b", "2").ok(3)
    assert not story.holds()


# --- writes ---------------------------------------------------------------------------------------


def test_an_update_is_not_lost(story: Story) -> None:
    """Two compare-and-sets on one revision cannot both succeed."""
    first, second = story.call(cas("a", 2, "x"), "p"), story.call(cas("a", 2, "y"), "q")
    first.ok(3, swapped(3))
    second.ok(3, TxnResponse())
    assert story.holds()
    story.call(cas("a", 2, "z")).ok(4, swapped(4))
    assert not story.holds()


def test_an_acknowledged_write_stays(story: Story) -> None:
    """A later read at its revision or a later one that lacks it shows that it was lost."""
    story.put("b", "2").ok(3)
    story.get("b").shows(3)
    assert not story.holds()


def test_a_write_happens_once(story: Story) -> None:
    """A put that was applied again under another revision was nobody's."""
    story.get("a").shows(3, pair("a", "1", 3, create=2, version=2))
    assert not story.holds()


def test_a_revision_is_given_once() -> None:
    """Two acknowledged writes have two revisions."""
    story = Story()
    first, second = story.put("a", "1", "p"), story.put("b", "2", "q")
    first.ok(2)
    second.ok(2)
    assert not story.holds()


def test_revisions_follow_real_time() -> None:
    """Who began after another's acknowledgement has the larger revision."""
    story = Story()
    story.put("a", "1").ok(3)
    story.put("b", "2").ok(2)
    assert not story.holds()


def test_no_revision_is_left_out(story: Story) -> None:
    """A gap needs a write of unknown outcome that can fill it."""
    unknown = story.put("b", "2")
    story.put("a", "3").ok(4)
    assert not story.holds()
    unknown.lost()
    assert story.holds()


def test_a_failed_write_leaves_no_phantom(story: Story) -> None:
    """What was refused for certain is not seen; what is unknown may be."""
    write = story.put("a", "2")
    seen = pair("a", "2", 3, create=2, version=2)
    story.get("a").shows(3, seen)
    write.refused(ErrorCode.TOO_MANY_REQUESTS)
    assert not story.holds()
    other = Story()
    other.put("a", "1").ok(2)
    write = other.put("a", "2")
    other.get("a").shows(3, seen)
    write.refused(ErrorCode.TIMEOUT)
    assert other.holds()


def test_an_unknown_write_may_come_late_but_only_once(story: Story) -> None:
    """It takes effect long after the client gave up, and not a second time."""
    story.put("a", "2").lost()
    story.put("a", "3").ok(3)
    story.get("a").shows(4, pair("a", "2", 4, create=2, version=3))
    assert story.holds()
    story.put("a", "4").ok(5)
    story.get("a").shows(6, pair("a", "2", 6, create=2, version=5))
    assert not story.holds()


def test_a_deleted_key_does_not_come_back(story: Story) -> None:
    """After a delete only a put brings a key back, as a new one."""
    story.delete("a").ok(3, deleted=1)
    story.put("b", "2").ok(4)
    story.get("a").shows(4)
    assert story.holds()
    story.get("a").shows(4, pair("a", "1", 2))
    assert not story.holds()


def test_a_delete_of_nothing_makes_no_revision(story: Story) -> None:
    """It is answered at the revision that is there, and must be right about it."""
    story.delete("b").ok(2)
    assert story.holds()
    story.delete("a").ok(2)
    assert not story.holds()


def test_a_previous_pair_is_the_one_before(story: Story) -> None:
    """Puts and deletes that say what was there before are held to it."""
    story.put("a", "2", prev_kv=True).ok(3, prev_kv=pair("a", "1", 2))
    assert story.holds()
    story.delete("a", prev_kv=True).ok(4, deleted=1, prev_kvs=[pair("a", "1", 2)])
    assert not story.holds()


# --- txns -----------------------------------------------------------------------------------------


def test_a_txn_is_atomic(story: Story) -> None:
    """Nobody sees half of it, and its parts have one revision."""
    puts = [RequestOp(request_put=PutRequest(key=key, value=b"2")) for key in (b"x", b"y")]
    response = TxnResponse(succeeded=True)
    for _ in puts:
        response.responses.add().response_put.header.revision = 3
    story.call(TxnRequest(success=puts)).ok(3, response)
    story.list().shows(3, pair("a", "1", 2), pair("x", "2", 3), pair("y", "2", 3))
    assert story.holds()
    story.list(serializable=True).shows(3, pair("a", "1", 2), pair("x", "2", 3))
    assert not story.holds()


@pytest.mark.parametrize(
    ("compare", "succeeds"),
    [
        (Compare(key=b"a", target=Compare.VALUE, value=b"1"), True),
        (Compare(key=b"a", target=Compare.VALUE, result=Compare.NOT_EQUAL, value=b"1"), False),
        (Compare(key=b"a", target=Compare.VERSION, result=Compare.GREATER, version=0), True),
        (Compare(key=b"a", target=Compare.CREATE, result=Compare.LESS, create_revision=2), False),
        (Compare(key=b"a", target=Compare.MOD, mod_revision=2), True),
        (Compare(key=b"a", target=Compare.LEASE, lease=1), False),
        (Compare(key=b"b", target=Compare.VALUE, value=b""), False),
        (Compare(key=b"a", range_end=b"c", target=Compare.VERSION, version=1), True),
    ],
)
def test_compares_are_evaluated(compare: Compare, succeeds: bool) -> None:
    """Every target decides the branch, and an answer that names the other branch is a lie."""
    for lie in (False, True):
        other = Story()
        other.put("a", "1").ok(2)
        other.call(TxnRequest(compare=[compare])).ok(2, TxnResponse(succeeded=succeeds != lie))
        assert other.holds() != lie


def test_what_a_txn_reads_after_its_own_write_is_its_own() -> None:
    """The read inside sees the put before it, at the txn's revision."""
    story = Story()
    put = RequestOp(request_put=PutRequest(key=b"a", value=b"1"))
    read = RequestOp(request_range=RangeRequest(key=b"a"))
    for seen, honest in ((2, True), (1, False)):
        response = TxnResponse(succeeded=True)
        response.responses.add().response_put.header.revision = 2
        inner = response.responses.add().response_range
        inner.header.revision = seen
        inner.kvs.append(pair("a", "1", 2))
        inner.count = 1
        story.history.operations.clear()
        story.call(TxnRequest(success=[put, read])).ok(2, response)
        assert story.holds() == honest


def test_a_write_after_an_older_state_was_acknowledged(story: Story) -> None:
    """After a write was acknowledged, no answer speaks of a state without it: not even a txn that found nothing."""
    story.put("b", "2").ok(3)
    absent = Compare(key=b"b", target=Compare.VERSION, version=0)
    for serializable in (True, False):
        read = RequestOp(request_range=RangeRequest(key=b"b", serializable=serializable))
        response = TxnResponse(succeeded=True)
        response.responses.add().response_range.header.revision = 2
        story.call(TxnRequest(compare=[absent], success=[read])).ok(2, response)
        assert story.holds() == serializable


# --- compaction and refusals ----------------------------------------------------------------------


def test_compacted_revisions_are_refused_and_only_they(story: Story) -> None:
    """A read below the compacted revision fails, one at it does not; either told otherwise is a lie."""
    story.put("a", "2").ok(3)
    story.put("a", "3").ok(4)
    story.compact(3).ok(4)
    story.get("a", revision=3).shows(4, pair("a", "2", 3, create=2, version=2))
    story.get("a", revision=2).refused(ErrorCode.COMPACTED)
    story.compact(3).refused(ErrorCode.COMPACTED)
    assert story.holds()
    story.get("a", revision=2).shows(4, pair("a", "1", 2))
    assert not story.holds()


def test_a_refusal_without_a_compaction_is_noticed(story: Story) -> None:
    """Somebody must have compacted: for certain, or perhaps."""
    unknown = story.compact(2)
    story.get("a", revision=1).refused(ErrorCode.COMPACTED)
    assert not story.holds()
    unknown.lost()
    assert story.holds()


def test_a_future_revision_is_refused_only_while_it_is_one(story: Story) -> None:
    """Who was refused after the revision had been acknowledged was served by a stale store."""
    story.get("a", revision=3).refused(ErrorCode.FUTURE_REVISION)
    assert story.holds()
    story.get("a", revision=2).refused(ErrorCode.FUTURE_REVISION)
    assert not story.holds()


def test_a_put_that_keeps_a_value_needs_one(story: Story) -> None:
    """`key not found` is an answer about the store, and is held against it."""
    story.call(PutRequest(key=b"b", ignore_value=True)).refused(ErrorCode.KEY_NOT_FOUND)
    assert story.holds()
    story.call(PutRequest(key=b"a", ignore_value=True)).refused(ErrorCode.KEY_NOT_FOUND)
    assert not story.holds()


def test_an_unknown_delete_explains_a_key_that_is_gone(story: Story) -> None:
    """A range delete of unknown outcome may be the revision nobody answered for."""
    story.put("b", "2").ok(3)
    gone = story.call(DeleteRangeRequest(key=b"a", range_end=b"c"))
    story.list().shows(4)
    assert not story.holds()
    gone.lost()
    assert story.holds()


def test_a_revision_out_of_reach_is_refused_at_once() -> None:
    """An absurd header costs no search."""
    story = Story()
    story.put("a", "1").ok(1 << 50)
    verdict = story.verdict()
    assert verdict.answer == "not linearizable"
    assert verdict.steps == 0
