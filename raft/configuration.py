"""Who belongs to the cluster: voters, learners, a joint half in passing, and what is known of each member.

Owns the form in which a configuration is logged, marked and snapshotted. Pure.
Invariants: no member is voter and learner at once; `outgoing` is empty outside a joint configuration.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgpack

from protocol.errors import Corruption
from protocol.identity import FoundingMember
from protocol.types import MemberId, StoreId

CONFIGURATION_FORMAT_VERSION = 1


class MemberRecord(NamedTuple):
    """What the cluster knows of one member; `store` 0: its data directory has not been seen yet."""

    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    store: StoreId


@dataclass(frozen=True, slots=True)
class Configuration:
    """One membership; joint while `outgoing` is not empty (thesis, section 4.3)."""

    voters: tuple[MemberId, ...]
    outgoing: tuple[MemberId, ...] = ()
    learners: tuple[MemberId, ...] = ()
    learners_next: tuple[MemberId, ...] = ()
    auto_leave: bool = False
    members: dict[MemberId, MemberRecord] = field(default_factory=dict)

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
            version, voters, outgoing, learners, learners_next, auto_leave, members = msgpack.unpackb(
                data, use_list=False
            )
        except Exception as error:
            raise Corruption(f"undecodable configuration of {len(data)} bytes") from error
        if version != CONFIGURATION_FORMAT_VERSION:
            raise Corruption(f"configuration of format {version}, this build knows {CONFIGURATION_FORMAT_VERSION}")
        records = {member: MemberRecord(name, peer, client, store) for member, name, peer, client, store in members}
        return cls(voters, outgoing, learners, learners_next, auto_leave, records)

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
        return Configuration(tuple(sorted(voters)), self.voters, now, demoted, auto_leave, kept)

    def leave_joint(self) -> "Configuration":
        """Return the configuration that the joint one leads to."""
        assert self.joint, "nothing to leave"
        learners = tuple(sorted({*self.learners, *self.learners_next}))
        alive = {*self.voters, *learners}
        members = {member: record for member, record in self.members.items() if member in alive}
        return Configuration(self.voters, (), learners, (), False, members)

    def check(self) -> None:
        """Assert the invariants."""
        assert self.voters, "a cluster has a voter"
        assert set(self.everyone()) == set(self.members), "the member table names the members"
        assert not set(self.voters) & set(self.learners), "nobody is voter and learner at once"
        assert not set(self.outgoing) & set(self.learners), "a learner does not vote in the outgoing half"
        assert self.joint or not self.learners_next, "learners to be belong to a joint configuration"


def founding_configuration(founders: tuple[FoundingMember, ...]) -> Configuration:
    """Return the configuration every founding member starts from; equal bytes on all of them."""
    members = {
        founder.member: MemberRecord(founder.name, founder.peer_urls, founder.client_urls, StoreId(0))
        for founder in sorted(founders)
    }
    return Configuration(tuple(sorted(members)), members=members)
