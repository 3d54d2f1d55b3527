"""The gateway's bookkeeping against a plain model: nothing is lost, nothing is kept."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.calls import BUCKET_MS, LANE_PATIENCE_MS, Batch, Lane, OpenCalls
from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis, Term

TIMEOUT_MS = 1000

steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(1, 400), st.one_of(st.none(), st.integers(-500, 3000))),
        st.tuples(st.just("close"), st.integers(0, 30), st.none()),
        st.tuples(st.just("pass"), st.integers(0, 700), st.none()),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=300)
def test_calls_end_in_time_and_once(script: list[tuple[str, int, Any]]) -> None:
    """Each call is open until it is closed or its deadline has passed by less than a bucket, whatever else happens."""
    calls = OpenCalls(calls_max=20, bytes_max=2000)
    model: dict[int, tuple[int, int, ErrorCode]] = {}
    now = next_id = 0
    for what, number, deadline in script:
        if what == "open":
            until = now + TIMEOUT_MS if deadline is None else min(now + TIMEOUT_MS, max(now, now + deadline))
            own = deadline is not None and now + deadline < now + TIMEOUT_MS
            asked = None if deadline is None else Millis(now + deadline)
            room = len(model) < 20 and sum(size for size, _, _ in model.values()) + number <= 2000
            assert calls.open(next_id, number, Millis(now), asked, TIMEOUT_MS) is room
            if room:
                model[next_id] = (number, until, ErrorCode.DEADLINE_EXCEEDED if own else ErrorCode.TIMEOUT)
            next_id += 1
        elif what == "close":
            assert calls.close(number) is (model.pop(number, None) is not None)
        else:
            now += number
            for call_id, code in calls.expire(Millis(now)):
                _, until, expected = model.pop(call_id)
                assert until <= now
                assert code is expected
            assert all(now < until + BUCKET_MS for _, until, _ in model.values())
        calls.check()
        assert calls.all() == list(model)
        assert all(calls.is_open(call_id) for call_id in model)


def test_the_deadline_is_when_the_first_call_ends() -> None:
    """The loop is woken for the first call, and for none once they are gone."""
    calls = OpenCalls(10, 1000)
    assert calls.deadline is None
    calls.open(1, 1, Millis(0), None, TIMEOUT_MS)
    calls.open(2, 1, Millis(0), Millis(250), TIMEOUT_MS)
    assert calls.deadline == 300
    assert calls.expire(Millis(300)) == [(2, ErrorCode.DEADLINE_EXCEEDED)]
    assert calls.deadline == TIMEOUT_MS
    assert calls.close(1)
    assert calls.expire(Millis(TIMEOUT_MS)) == []
    assert calls.deadline is None
    assert len(calls) == 0


def batch(*ids: int, now: int = 0) -> Batch:
    """A batch that leaves."""
    return Batch(list(ids), [], Term(1), MemberId(1), Millis(now))


def test_a_served_batch_counts_against_the_larger_limit_only() -> None:
    """Long reads do not close the lane; too many of them do."""
    lane = Lane("reads", unserved_max=1, inflight_max=2)
    first = batch(1, 2)
    lane.sent(1, first)
    assert lane.full
    lane.progressed(first, Millis(1))
    assert not lane.full
    lane.sent(2, batch(3))
    assert lane.full
    assert lane.done(1) is first
    assert lane.full
    assert lane.done(2) is not None
    assert not lane.full
    assert lane.done(2) is None
    lane.check()


def test_patience_is_counted_from_the_last_sign_of_life() -> None:
    """A full lane may send once nothing was sent and nothing came back for a while."""
    lane = Lane("commands", unserved_max=1, inflight_max=1)
    out = batch(1, now=10)
    lane.sent(1, out)
    assert not lane.may_send(Millis(10 + LANE_PATIENCE_MS - 1))
    assert lane.patience_ends(Millis(20)) == 10 + LANE_PATIENCE_MS
    assert lane.may_send(Millis(10 + LANE_PATIENCE_MS))


def test_only_batches_nobody_waits_for_are_dropped() -> None:
    """One open call keeps its batch."""
    lane = Lane("commands", unserved_max=8, inflight_max=8)
    lane.sent(1, batch(1, 2))
    lane.sent(2, batch(3, 4))
    lane.drop_dead({4}.__contains__)
    assert list(lane.inflight) == [2]
    lane.check()


def test_a_pause_ends_by_itself() -> None:
    """Nothing has to remember to end it."""
    lane = Lane("reads", unserved_max=1, inflight_max=1)
    assert lane.resume(Millis(5))
    lane.pause(Millis(20))
    assert not lane.resume(Millis(19))
    assert lane.resume(Millis(20))
    assert lane.paused_until is None
