"""When a lease asks for more time, and when it must be taken for lost."""

import asyncio

import pytest

from actd import calls
from actd.errors import Unavailable
from actd.leases import KeepAlivePlan, keep_alive
from protocol.wire import rpc_pb2 as rpc


def test_a_lease_asks_when_a_third_of_its_time_is_over() -> None:
    """Counted from when the question before was put, not from when it was answered."""
    plan = KeepAlivePlan(9, asked_at=100.0)
    assert (plan.ask_at, plan.certain_until) == (103.0, 109.0)
    plan.extended(9, asked_at=103.0)
    assert (plan.ask_at, plan.certain_until, plan.lost) == (106.0, 112.0, False)


def test_a_lease_that_is_gone_is_lost_at_once() -> None:
    """The store says so with a time of zero."""
    plan = KeepAlivePlan(9, asked_at=0.0)
    plan.extended(0, asked_at=3.0)
    assert plan.lost


def test_questions_without_answers_are_repeated_until_the_time_is_over() -> None:
    """Soon, but not in a frenzy; then the lease is lost, whatever the store would say."""
    plan = KeepAlivePlan(9, asked_at=0.0)
    asked = []
    now = plan.ask_at
    while not plan.lost:
        assert 0 < plan.patience_s(now) <= 9
        plan.failed(now)
        asked.append(now)
        now = plan.ask_at
    assert 5 <= len(asked) <= 12
    assert 9 <= asked[-1] < 10


def test_the_loop_ends_when_the_lease_is_lost() -> None:
    """After answers, failures, and an answer of zero."""
    said: list[object] = [1, Unavailable("not now"), 1, 0]

    async def ask(_patience_s: float) -> int:
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, int)
        return answer

    class Hurried(KeepAlivePlan):
        """Always due."""

        @property
        def ask_at(self) -> float:
            return 0.0

        @ask_at.setter
        def ask_at(self, _value: float) -> None:
            pass

    import time

    plan = Hurried(1, asked_at=time.monotonic())
    asyncio.run(asyncio.wait_for(keep_alive(plan, ask), 20))
    assert plan.lost
    assert said == []


@pytest.mark.parametrize("lease", [7, -3, 1 << 62])
def test_requests_and_answers_are_etcds(lease: int) -> None:
    """What protobuf makes of them."""
    grant = rpc.LeaseGrantRequest.FromString(calls.lease_grant(10, lease).body)
    assert (10, lease) == (grant.TTL, grant.ID)
    assert lease == rpc.LeaseRevokeRequest.FromString(calls.lease_revoke(lease).body).ID
    assert lease == rpc.LeaseKeepAliveRequest.FromString(calls.lease_keep_alive(lease).body).ID
    asked = rpc.LeaseTimeToLiveRequest.FromString(calls.lease_time_to_live(lease, keys=True).body)
    assert (asked.ID, asked.keys) == (lease, True)
    header = rpc.ResponseHeader(cluster_id=1, revision=5)
    granted = calls.lease_grant(1).read(rpc.LeaseGrantResponse(header=header, ID=lease, TTL=9).SerializeToString())
    assert (granted.lease, granted.ttl_s, granted.revision) == (lease, 9, 5)
    answer = rpc.LeaseTimeToLiveResponse(header=header, ID=lease, TTL=-1, grantedTTL=4, keys=[b"a", b"b"])
    left = calls.lease_time_to_live(lease).read(answer.SerializeToString())
    assert (left.ttl_s, left.granted_ttl_s, left.keys) == (-1, 4, (b"a", b"b"))
    listed = rpc.LeaseLeasesResponse(leases=[rpc.LeaseStatus(ID=lease), rpc.LeaseStatus(ID=2)])
    assert calls.leases().read(listed.SerializeToString()) == (lease, 2)
