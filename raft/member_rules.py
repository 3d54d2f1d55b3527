"""Which changes of the membership are refused, and as what: etcd's rules, looked at by the leader before it proposes.

Owns the order of the checks and their codes (feature map, rules 66 to 69). Pure: reads the core, changes nothing.
A member that was added to vote counts as a voter here from the start, as it does in etcd, although it is a learner
until it has caught up.
"""

from typing import TYPE_CHECKING

from protocol.errors import ErrorCode
from protocol.membership import ChangeKind, MemberChange
from protocol.types import MemberId, Millis
from raft import membership
from raft.configuration import Configuration

if TYPE_CHECKING:
    from raft.core import Raft


def refusal(raft: "Raft", change: MemberChange) -> ErrorCode:
    """Return why `change` must not be made, or OK."""
    return _RULES[ChangeKind(change.kind)](raft, change)


def voters_to_be(configuration: Configuration) -> list[MemberId]:
    """Return who votes, or will as soon as it has caught up; sorted."""
    return [member for member in sorted(configuration.members) if _votes(configuration, member)]


def _votes(configuration: Configuration, member: MemberId) -> bool:
    return member in configuration.voters or configuration.members[member].promised


def _started(configuration: Configuration, members: list[MemberId]) -> int:
    """How many of `members` have told their names."""
    return sum(bool(configuration.members[member].name) for member in members)


def _heard(raft: "Raft", member: MemberId) -> bool:
    if member == raft.member:
        return True
    progress = raft.leading.progress.get(member) if raft.leading is not None else None
    return progress is not None and progress.heard_since(Millis(raft.now - raft.config.election_timeout_ms))


def _add(raft: "Raft", change: MemberChange) -> ErrorCode:
    configuration = raft.configuration
    voters = voters_to_be(configuration)
    if raft.config.strict_reconfig_check:
        started, size = _started(configuration, voters), len(voters) + 1
        # The second member of a cluster could never be added otherwise.
        if not change.is_learner and (started, size) != (1, 2) and started < size // 2 + 1:
            return ErrorCode.NOT_ENOUGH_STARTED_MEMBERS
        if not all(_heard(raft, voter) for voter in voters):
            return ErrorCode.UNHEALTHY
    if change.member in configuration.removed:
        return ErrorCode.MEMBER_NOT_FOUND
    if change.member in configuration.members:
        return ErrorCode.MEMBER_EXISTS
    if _urls_taken(configuration, change):
        return ErrorCode.PEER_URL_EXISTS
    learners = len(configuration.members) - len(voters)
    if change.is_learner and learners >= raft.config.learners_max:
        return ErrorCode.TOO_MANY_LEARNERS
    return ErrorCode.OK


def _urls_taken(configuration: Configuration, change: MemberChange) -> bool:
    taken = {
        url for member, record in configuration.members.items() if member != change.member for url in record.peer_urls
    }
    return bool(taken & set(change.peer_urls))


def _remove(raft: "Raft", change: MemberChange) -> ErrorCode:
    configuration = raft.configuration
    voters = voters_to_be(configuration)
    known = change.member in configuration.members
    if raft.config.strict_reconfig_check and not (known and change.member not in voters):
        left = [voter for voter in voters if voter != change.member]
        if _started(configuration, left) < len(left) // 2 + 1:
            return ErrorCode.NOT_ENOUGH_STARTED_MEMBERS
        # Who is down is safe to remove: it is part of no quorum now.
        if known and _heard(raft, change.member):
            active = sum(_heard(raft, voter) for voter in voters)
            if active - 1 < 1 + (len(voters) - 1) // 2:
                return ErrorCode.UNHEALTHY
    if not known:
        return ErrorCode.MEMBER_NOT_FOUND
    if not any(voter != change.member for voter in configuration.voters):
        # Whatever the checks allow: without the last one that votes nobody could ever be added again.
        return ErrorCode.NOT_ENOUGH_STARTED_MEMBERS
    return ErrorCode.OK


def _update(raft: "Raft", change: MemberChange) -> ErrorCode:
    if change.member not in raft.configuration.members:
        return ErrorCode.MEMBER_NOT_FOUND
    return ErrorCode.PEER_URL_EXISTS if _urls_taken(raft.configuration, change) else ErrorCode.OK


def _promote(raft: "Raft", change: MemberChange) -> ErrorCode:
    configuration = raft.configuration
    record = configuration.members.get(change.member)
    if record is None:
        return ErrorCode.MEMBER_NOT_FOUND
    if configuration.is_voter(change.member):
        return ErrorCode.MEMBER_NOT_LEARNER
    if not membership.caught_up(raft, change.member):
        return ErrorCode.LEARNER_NOT_READY
    voters = voters_to_be(configuration)
    # The learner counts as started, whatever the table says: it is in sync.
    if raft.config.strict_reconfig_check and 1 + _started(configuration, voters) < (len(voters) + 1) // 2 + 1:
        return ErrorCode.NOT_ENOUGH_STARTED_MEMBERS
    return ErrorCode.OK


def _publish(raft: "Raft", change: MemberChange) -> ErrorCode:
    return ErrorCode.OK if change.member in raft.configuration.members else ErrorCode.MEMBER_NOT_FOUND


_RULES = {
    ChangeKind.ADD: _add,
    ChangeKind.REMOVE: _remove,
    ChangeKind.UPDATE: _update,
    ChangeKind.PROMOTE: _promote,
    ChangeKind.PUBLISH: _publish,
}
