"""Who belongs to the cluster: voters, learners, a joint half in passing, and what is known of each member.

Owns the form in which a configuration is logged, marked and snapshotted. Pure.
Invariants: no member is voter and learner at once; `outgoing` is empty outside a joint configuration.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgpack

from protocol.errors import Corruption
from protocol.identity import FoundingMember
from protocol.membership import MemberView
from protocol.types import MemberId, StoreId

CONFIGURATION_FORMAT_VERSION = 2
FORMAT_WITHOUT_REMOVED = 1
"""An older form that is still read: nobody had been removed, and nobody was promised a vote."""
REMOVED_REMEMBERED_MAX = 1000
"""Ids of removed members that are kept; an id is made of the second it was given, so older ones do not come again."""


class MemberRecord(NamedTuple):
    """What the cluster knows of one member; `store` 0: its data directory has not been seen yet.

    `promised`: it was added to vote, and is a learner only until it has caught up.
    """

    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    store: StoreId
    promised: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """One membership; joint while `outgoing` is not empty (thesis, section 4.3)."""

    voters: tuple[MemberId, ...]
    outgoing: tuple[MemberId, ...] = ()
    learners: tuple[MemberId, ...] = ()
    learners_next: tuple[MemberId, ...] = ()
    auto_leave: bool = False
    members: dict[MemberId, MemberRecord] = field(default_factory=dict)
    removed: tuple[MemberId, ...] = ()
    """Who once belonged, the latest last; the rules of `raft.member_rules` never let one back in."""

    @property
    def joint(self) -> bool:
        """Whether two majorities are needed now."""
        return bool(self.outgoing)

    def is_voter(self, member: MemberId) -> bool:
        """Whether `member` votes in either half."""
        return member in self.voters or member in self.outgoing

    def everyone(self) -> tuple[MemberId, ...]:
        """Return all members that replicate the log, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next}))

    def everyone_voting(self) -> tuple[MemberId, ...]:
        """Return the voters of both halves, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing}))

    def encode(self) -> bytes:
        """Return the bytes that `decode` reads."""
        members = [(member, *self.members[member]) for member in sorted(self.members)]
        packed: bytes = msgpack.packb(
            (
                CONFIGURATION_FORMAT_VERSION,
                self.voters,
                self.outgoing,
                self.learners,
                self.learners_next,
                self.auto_leave,
                members,
                self.removed,
            )
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Configuration":
        """Return the configuration in `data`.

        Raises:
            Corruption: the bytes are no configuration this build knows.
        """
        try:
            version, *parts = msgpack.unpackb(data, use_list=False)
            if version == FORMAT_WITHOUT_REMOVED:
                parts.append(())
            if version in (FORMAT_WITHOUT_REMOVED, CONFIGURATION_FORMAT_VERSION):
                voters, outgoing, learners, learners_next, auto_leave, members, removed = parts
                records = {member: MemberRecord(*record) for member, *record in members}
                return cls(voters, outgoing, learners, learners_next, auto_leave, records, removed)
        except Exception as error:
            raise Corruption(f"undecodable configuration of {len(data)} bytes") from error
        raise Corruption(f"configuration of format {version}, this build knows {CONFIGURATION_FORMAT_VERSION}")

    def with_member(self, member: MemberId, record: MemberRecord) -> "Configuration":
        """Return a copy that knows `record` of `member`; roles stay."""
        return replace(self, members={**self.members, member: record})

    def enter_joint(
        self,
        voters: tuple[MemberId, ...],
        learners: tuple[MemberId, ...],
        members: dict[MemberId, MemberRecord],
        *,
        auto_leave: bool,
    ) -> "Configuration":
        """Return the joint configuration on the way to `voters` and `learners`.

        A voter that becomes a learner stays a voter of the outgoing half until the change is left.
        """
        assert not self.joint, "one change at a time"
        demoted = tuple(member for member in learners if member in self.voters)
        now = tuple(member for member in learners if member not in demoted)
        kept = {**members, **{member: self.members[member] for member in self.voters if member not in members}}
        removed = self.removed_without(kept)
        return Configuration(tuple(sorted(voters)), self.voters, now, demoted, auto_leave, kept, removed)

    def removed_without(self, members: Collection[MemberId]) -> tuple[MemberId, ...]:
        """Return who has been removed once only `members` are left."""
        gone = sorted(member for member in self.members if member not in members)
        return tuple(member for member in (*self.removed, *gone) if member not in members)[-REMOVED_REMEMBERED_MAX:]

    def leave_joint(self) -> "Configuration":
        """Return the configuration that the joint one leads to."""
        assert self.joint, "nothing to leave"
        learners = tuple(sorted({*self.learners, *self.learners_next}))
        alive = {*self.voters, *learners}
        members = {member: record for member, record in self.members.items() if member in alive}
        removed = self.removed_without(alive)
        return Configuration(self.voters, (), learners, (), False, members, removed)

    def views(self) -> tuple[MemberView, ...]:
        """Return the members as `MemberList` shows them, by id; who is promised a vote is no learner there."""
        return tuple(
            MemberView(
                member,
                record.name,
                record.peer_urls,
                record.client_urls,
                is_learner=not record.promised and not self.is_voter(member),
            )
            for member, record in sorted(self.members.items())
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert self.voters, "a cluster has a voter"
        assert set(self.everyone()) == set(self.members), "the member table names the members"
        assert not set(self.voters) & set(self.learners), "nobody is voter and learner at once"
        assert not set(self.outgoing) & set(self.learners), "a learner does not vote in the outgoing half"
        assert self.joint or not self.learners_next, "learners to be belong to a joint configuration"
        assert not set(self.removed) & set(self.members), "nobody is in the table and removed at once"


def founding_configuration(founders: tuple[FoundingMember, ...]) -> Configuration:
    """Return the configuration a member starts from; of founding members, equal bytes on all of them."""
    members = {
        founder.member: MemberRecord(
            founder.name, founder.peer_urls, founder.client_urls, StoreId(0), promised=founder.promised
        )
        for founder in sorted(founders)
    }
    learners = tuple(sorted(founder.member for founder in founders if founder.is_learner))
    return Configuration(tuple(sorted(set(members) - set(learners))), learners=learners, members=members)
