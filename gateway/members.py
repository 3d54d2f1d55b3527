"""Members at the door: what of a request goes to raft, and what its answer looks like.

Owns the choice of a new member's id, which is made before the proposal as etcd makes it, and the shape of the
Cluster service's answers, whose headers have no revision (feature map, rule 3). Knows no lane and no deadline.
"""

from collections.abc import Callable
from enum import IntEnum

from protocol import local
from protocol.config import member_id_of
from protocol.identity import NodeIdentity
from protocol.membership import ChangeKind, MemberChange, MemberView, parse_peer_urls
from protocol.types import MemberId, Term
from protocol.wire import rpc_pb2 as rpc


class MemberCall(IntEnum):
    """What raft is asked for; these live only as long as a gateway."""

    ADD = 1
    REMOVE = 2
    UPDATE = 3
    PROMOTE = 4
    LIST = 5
    MOVE_LEADER = 6


class MemberCalls:
    """Requests to raft and back."""

    def __init__(self, identity: NodeIdentity) -> None:
        self._identity = identity
        self._made = 0
        self.unix_s: Callable[[], int] = self._count
        """The second that goes into the id of a new member; an owner with a clock puts it here."""
        self._added: dict[int, MemberId] = {}

    def _count(self) -> int:
        self._made += 1
        return self._identity.incarnation << 32 | self._made

    def ask(
        self, sequence: int, kind: int, body: bytes
    ) -> local.ChangeMembers | local.ListMembers | local.TransferLeadership:
        """Return what to say to raft."""
        if kind == MemberCall.LIST:
            return local.ListMembers(sequence=sequence)
        if kind == MemberCall.MOVE_LEADER:
            target = MemberId(rpc.MoveLeaderRequest.FromString(body).targetID)
            return local.TransferLeadership(sequence=sequence, target=target)
        return local.ChangeMembers(sequence=sequence, change=self._change(sequence, kind, body))

    def _change(self, sequence: int, kind: int, body: bytes) -> MemberChange:
        if kind == MemberCall.ADD:
            adding = rpc.MemberAddRequest.FromString(body)
            urls = parse_peer_urls(adding.peerURLs)
            assert urls is not None, "a request with bad URLs does not come so far"
            member = self._added[sequence] = member_id_of(list(urls), str(self.unix_s()))
            return MemberChange(ChangeKind.ADD, member, urls, adding.isLearner)
        if kind == MemberCall.UPDATE:
            updating = rpc.MemberUpdateRequest.FromString(body)
            urls = parse_peer_urls(updating.peerURLs)
            assert urls is not None, "a request with bad URLs does not come so far"
            return MemberChange(ChangeKind.UPDATE, MemberId(updating.ID), urls)
        if kind == MemberCall.PROMOTE:
            return MemberChange(ChangeKind.PROMOTE, MemberId(rpc.MemberPromoteRequest.FromString(body).ID))
        assert kind == MemberCall.REMOVE, f"no call to raft is numbered {kind}"
        return MemberChange(ChangeKind.REMOVE, MemberId(rpc.MemberRemoveRequest.FromString(body).ID))

    def forget(self, sequence: int) -> None:
        """The request will not be answered."""
        self._added.pop(sequence, None)

    def answer(self, sequence: int, kind: int, members: tuple[MemberView, ...], term: Term) -> bytes:
        """Return the response to a request that was answered well."""
        added = self._added.pop(sequence, None)
        if kind == MemberCall.ADD:
            # The one message of the service that shows the new member apart.
            response = rpc.MemberAddResponse.FromString(self.member_list(members, term, field_of_add=True))
            for shown in response.members:
                if added == shown.ID:
                    response.member.CopyFrom(shown)
            return response.SerializeToString()
        return self.member_list(members, term)

    def member_list(self, members: tuple[MemberView, ...], term: Term, *, field_of_add: bool = False) -> bytes:
        """Return header and members; so look the answers of list, remove, update and promote alike."""
        response = rpc.MemberAddResponse() if field_of_add else rpc.MemberListResponse()
        response.header.cluster_id = self._identity.cluster
        response.header.member_id = self._identity.member
        response.header.raft_term = term
        for view in members:
            response.members.add(
                ID=view.member,
                name=view.name,
                peerURLs=view.peer_urls,
                clientURLs=view.client_urls,
                isLearner=view.is_learner,
            )
        return response.SerializeToString()
