"""The raft actor's desk for the member table: asks and answers of the gateway, newcomers, who is dialled where, and the
end of a member that was removed.

Owns when a node publishes its name and client URLs: as soon as somebody leads and the table says something else.
Knows no rule of membership; those are in `raft.member_rules`. A member that was removed hears of it from its own log,
or from any other it speaks to, and stops.
Invariant: every `ChangeMembers` and `ListMembers` of a gateway is answered once, unless that gateway is gone.
"""

from typing import TYPE_CHECKING, Final

from actors.effects import Halt, KnowPeers, Send, SendPeer
from protocol import codec, local, peer
from protocol.errors import ErrorCode
from protocol.membership import ChangeKind, MemberChange, dialled_url
from protocol.message import Message
from protocol.types import NOBODY, MemberId, Millis
from raft import membership
from raft.configuration import Configuration
from raft.core import Raft

if TYPE_CHECKING:
    from actors.raft import RaftActor

REFUSAL_INTERVAL_MS: Final = 1000
"""A removed member is told so this often at most."""
OWN_SEQUENCE: Final = -1
"""Under which this node asks for itself; a gateway's sequences begin above 0."""


class MemberDesk:
    """What is under way between this node and the member table."""

    def __init__(self, actor: "RaftActor") -> None:
        self._actor = actor
        self._publishing = False
        self._publish_at: Millis | None = None
        """When to publish again what was refused."""
        self.leave_at: Millis | None = None
        """When this node stops, because it was removed."""
        self._told_removed: dict[MemberId, Millis] = {}
        self._describe_at = Millis(0)
        """When this leader next tells members that it does not hear where everybody is."""
        self._described: dict[MemberId, str] = {}
        """Where members are by the word of the leader, as far as this log has not said later."""
        founders = actor.identity.founders
        self._dialled: dict[MemberId, str | None] = {
            founder.member: dialled_url(founder.peer_urls) for founder in founders
        }
        self._known: Configuration | None = None

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        if self._publish_at is None or self.leave_at is None:
            return self.leave_at if self._publish_at is None else self._publish_at
        return min(self._publish_at, self.leave_at)

    def end_turn(self, core: Raft) -> None:
        """Follow the configuration in force, ahead of anything that is sent under it."""
        if core.configuration is not self._known:
            members = core.configuration.members
            self._described = {member: url for member, url in self._described.items() if member not in members}
            self.tell_peers(core)

    # --- where members are --------------------------------------------------------------------------

    def tell_peers(self, core: Raft) -> None:
        """Have this actor's links, and the wal's, lead to the members as the log has them."""
        self._known = core.configuration
        peers = self._peers(core.configuration)
        if peers != self._dialled:
            self._dialled = {**peers}
            self._actor.emit(KnowPeers(peers))
            self._actor.emit(Send("wal", local.PeersChanged(peers=tuple(peers.items()))))

    def _peers(self, configuration: Configuration) -> dict[MemberId, str]:
        urls = {member: dialled_url(record.peer_urls) for member, record in sorted(configuration.members.items())}
        return {member: url for member, url in urls.items() if url is not None} | self._described

    def _describe(self, core: Raft, now: Millis) -> None:
        """Tell members that are not heard where everybody is.

        One that was away while others came, or has just joined and has no log yet, would answer where nobody is.
        """
        assert core.leading is not None, "only a leader knows whom it does not hear"
        self._describe_at = Millis(now + core.config.election_timeout_ms)
        since = Millis(now - core.config.election_timeout_ms)
        silent = [member for member, each in sorted(core.leading.progress.items()) if not each.heard_since(since)]
        if silent:
            described = codec.encode(peer.ClusterDescribed(members=core.configuration.views(), refusal=""))
            for member in silent:
                self._actor.emit(SendPeer(member, described))

    def on_described(self, core: Raft, sender: MemberId, described: peer.ClusterDescribed) -> None:
        """Reach members where the leader says they are, until the log says something later."""
        if sender == core.leader and core.leading is None:
            urls = {view.member: dialled_url(view.peer_urls) for view in described.members}
            self._described = {member: url for member, url in urls.items() if url is not None}
            self.tell_peers(core)

    def address_of(self, core: Raft, member: MemberId) -> dict[str, object]:
        """Return what a helper must be told to reach `member`; nothing if that is not known."""
        url = self._peers(core.configuration).get(member)
        return {} if url is None else {"peer_url": url}

    def on_join_asked(self, core: Raft, asked: peer.JoinAsked) -> None:
        """Tell a newcomer who it is; the answer goes to the peer URLs that the member table has.

        The committed one: whoever was told of a member that is rolled back later would be that for ever.
        """
        configuration = membership.committed_configuration(core)
        for member, record in sorted(configuration.members.items()):
            if set(record.peer_urls) != set(asked.peer_urls):
                continue
            refusal = ""
            if record.store:
                refusal = (
                    f"member {member:x} at {', '.join(record.peer_urls)} has had a data directory, and this is empty: "
                    f"bring the old one back, or remove the member (`etcdctl member remove {member:x}`) and add it anew"
                )
            described = peer.ClusterDescribed(members=configuration.views(), refusal=refusal)
            self._actor.emit(SendPeer(member, codec.encode(described), actor="joiner"))

    # --- removal ------------------------------------------------------------------------------------

    def refuse_removed(self, core: Raft, member: MemberId, message: Message) -> bool:
        """Whether `member` was removed, for good; it is told so, so that it stops."""
        if member not in membership.committed_configuration(core).removed:
            return False
        if isinstance(message, peer.ConfirmMembership) and (url := dialled_url(message.peer_urls)) is not None:
            # The table has forgotten where it was, and so has an actor that was started since.
            self._actor.emit(KnowPeers({**self._peers(core.configuration), member: url}))
        told_at = self._told_removed.get(member)
        if told_at is None or core.now - told_at >= REFUSAL_INTERVAL_MS:
            self._told_removed[member] = core.now
            refused = peer.PeerRefused(reason=f"member {member:x} was removed from this cluster", removed=True)
            self._actor.emit(SendPeer(member, codec.encode(refused)))
        return True

    def removed(self, core: Raft, now: Millis) -> None:
        """This member was removed: finish what is under way, and stop."""
        if self.leave_at is None:
            self._actor.log("removed_from_cluster", {"member": f"{core.member:x}"})
            self.leave_at = Millis(now + core.config.election_timeout_ms)

    def _leave(self, core: Raft) -> None:
        reason = (
            f"member {core.member:x} was removed from the cluster. Its data is of no use to anybody: delete it, and to "
            "bring this machine back add it as a new member"
        )
        self._actor.halt(Halt(reason, fatal=True))

    # --- requests of the gateway --------------------------------------------------------------------

    def on_local(self, core: Raft, message: Message, now: Millis) -> bool:
        """Take in a request of the gateway; False if it is none for this desk."""
        if isinstance(message, peer.JoinAsked):
            self.on_join_asked(core, message)
        elif isinstance(message, local.ChangeMembers):
            core.ask_change(message.sequence, message.change, now)
        elif isinstance(message, local.ListMembers):
            members = membership.committed_configuration(core).views()
            self._answer(message.sequence, ErrorCode.OK, members)
        else:
            return False
        return True

    def refuse(self, message: Message) -> None:
        """Answer while nothing runs yet."""
        if isinstance(message, local.ChangeMembers | local.ListMembers):
            self._answer(message.sequence, ErrorCode.NO_LEADER, ())

    def _answer(self, sequence: int, code: int, members: tuple[local.MemberView, ...]) -> None:
        answered = local.MembersAnswered(sequence=sequence, code=code, members=members)
        self._actor.emit(Send("gateway", answered))

    def tell_answers(self, core: Raft, now: Millis) -> None:
        """Pass on what became of changes."""
        for answer in core.changes.take_answers():
            if answer.sequence != OWN_SEQUENCE:
                self._answer(answer.sequence, answer.code, answer.members)
                continue
            self._publishing = False
            if answer.code:
                self._publish_at = Millis(now + core.config.election_timeout_ms)

    def wake(self, core: Raft, now: Millis) -> None:
        """Try again what was refused; stop when that is due."""
        if self._publish_at is not None and now >= self._publish_at:
            self._publish_at = None
            self.publish(core, now)
        if self.leave_at is not None and now >= self.leave_at:
            self._leave(core)
        if core.leading is None:
            self._describe_at = Millis(now + core.config.election_timeout_ms)
        elif now >= self._describe_at:
            self._describe(core, now)

    def gateway_started(self, core: Raft) -> None:
        """Another gateway speaks from now on; what this node asked for itself is forgotten with the rest."""
        core.changes.forget_gateway()
        if self._publishing:
            self._publishing = False
            self._publish_at = core.now

    def publish(self, core: Raft, now: Millis) -> None:
        """Have the table say what this node is called and where its clients reach it, if it does not."""
        identity = self._actor.identity
        record = core.configuration.members.get(core.member)
        wanted = (identity.name, identity.client_urls)
        if self._publishing or record is None or not identity.client_urls or core.leader == NOBODY:
            return
        if (record.name, record.client_urls) == wanted:
            return
        self._publishing = True
        change = MemberChange(ChangeKind.PUBLISH, core.member, name=identity.name, client_urls=identity.client_urls)
        core.ask_change(OWN_SEQUENCE, change, now)
