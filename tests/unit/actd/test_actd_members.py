"""Calls about members: their bytes, and what their answers become."""

from actd import calls
from actd.results import Member
from protocol.wire import rpc_pb2 as rpc

NEW = rpc.Member(ID=7, peerURLs=["http://a:1"], isLearner=True)
SHOWN = Member(id=7, peer_urls=("http://a:1",), is_learner=True)


def test_requests_are_what_protobuf_would_make_of_them() -> None:
    """Ids are unsigned, and repeated texts keep their order."""
    large = (1 << 64) - 2
    urls = ["http://b:2", "http://a:1"]
    assert rpc.MemberAddRequest.FromString(calls.member_add(urls, learner=True).body) == rpc.MemberAddRequest(
        peerURLs=urls, isLearner=True
    )
    assert large == rpc.MemberRemoveRequest.FromString(calls.member_remove(large).body).ID
    assert large == rpc.MemberPromoteRequest.FromString(calls.member_promote(large).body).ID
    updating = rpc.MemberUpdateRequest.FromString(calls.member_update(large, urls).body)
    assert (updating.ID, list(updating.peerURLs)) == (large, urls)
    assert rpc.MoveLeaderRequest.FromString(calls.move_leader(large).body).targetID == large


def test_answers_become_members() -> None:
    """An addition gives the new member, every other change all of them."""
    header = rpc.ResponseHeader(cluster_id=1, raft_term=2)
    added = rpc.MemberAddResponse(header=header, member=NEW, members=[NEW])
    assert calls.member_add(["http://a:1"]).read(added.SerializeToString()) == SHOWN
    removed = rpc.MemberRemoveResponse(header=header, members=[NEW])
    assert calls.member_remove(1).read(removed.SerializeToString()) == (SHOWN,)
    calls.move_leader(1).read(b"")


def test_no_change_is_sent_twice() -> None:
    """After a connection was lost nobody knows whether it was made."""
    changes = (calls.member_add([]), calls.member_remove(1), calls.member_promote(1), calls.move_leader(1))
    assert not any(call.repeatable for call in changes)
