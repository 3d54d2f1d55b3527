"""The raft actor's desk for the member table: asks and answers of the gateway, and what this node says of itself.

Owns when a node publishes its name and client URLs: as soon as somebody leads and the table says something else.
Knows no rule of membership; those are in `raft.member_rules`.
Invariant: every `ChangeMembers` and `ListMembers` of a gateway is answered once, unless that gateway is gone.
"""

from typing import TYPE_CHECKING, Final

from actors.effects import Send
from protocol import local
from protocol.errors import ErrorCode
from protocol.membership import ChangeKind, MemberChange
from protocol.message import Message
from protocol.types import NOBODY, Millis
from raft import membership
from raft.core import Raft

if TYPE_CHECKING:
    from actors.raft import RaftActor

OWN_SEQUENCE: Final = -1
"""Under which this node asks for itself; a gateway's sequences begin above 0."""


class MemberDesk:
    """What is under way between this node and the member table."""

    def __init__(self, actor: "RaftActor") -> None:
        self._actor = actor
        self._publishing = False
        self.deadline: Millis | None = None
        """When to publish again what was refused."""

    def on_local(self, core: Raft, message: Message, now: Millis) -> bool:
        """Take in a request of the gateway; False if it is none for this desk."""
        if isinstance(message, local.ChangeMembers):
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
                self.deadline = Millis(now + core.config.election_timeout_ms)

    def wake(self, core: Raft, now: Millis) -> None:
        """Try again what was refused."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.publish(core, now)

    def gateway_started(self, core: Raft) -> None:
        """Another gateway speaks from now on; what this node asked for itself is forgotten with the rest."""
        core.changes.forget_gateway()
        if self._publishing:
            self._publishing = False
            self.deadline = core.now

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
