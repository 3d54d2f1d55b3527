"""How the configuration changes: adopted on append, rolled back on truncation, one change in flight
(thesis, sections 4.1 to 4.3).

Invariants: `raft.configurations` holds the configuration at the mark and one per configuration entry behind it; a
change is appended only when the last one and an entry of the own term are committed (thesis, 4.1, and the bug found
later in single-server changes); everything a change says is checked here, because apply cannot refuse it any more; a
learner is promoted only when it has caught up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.errors import ErrorCode
from protocol.types import Entry, EntryKind, Index, LogMark, MemberId, StoreId
from raft import member_changes, replication
from raft.configuration import Configuration, MemberRecord
from raft.progress import ProgressState

if TYPE_CHECKING:
    from raft.core import Raft

PROMOTION_LAG_ENTRIES_MAX = 100
"""How far behind the leader's end a learner may be to become a voter."""


def load(raft: "Raft", founding: Configuration, mark: LogMark, entries: Sequence[Entry]) -> None:
    """Take the configurations out of the mark and the recovered entries."""
    base = Configuration.decode(mark.configuration) if mark.configuration else founding
    raft.configurations = [(mark.index, base)]
    appended(raft, entries)


def appended(raft: "Raft", entries: Sequence[Entry]) -> None:
    """Adopt the configurations among `entries`: they are in force from here on, committed or not."""
    for entry in entries:
        if entry.kind == EntryKind.CONFIGURATION:
            raft.configurations.append((entry.index, Configuration.decode(entry.data)))


def truncated(raft: "Raft", first_dropped: Index) -> None:
    """Roll back configurations whose entries are gone."""
    while raft.configurations[-1][0] >= first_dropped:
        raft.configurations.pop()
    assert raft.configurations, "the configuration at the mark stays"


def configuration_at(raft: "Raft", index: Index) -> Configuration:
    """Return the configuration in force at `index`, which is not before the mark."""
    assert index >= raft.configurations[0][0], f"configuration at {index} is history"
    return next(configuration for at, configuration in reversed(raft.configurations) if at <= index)


def cut(raft: "Raft", index: Index) -> None:
    """Forget configurations that a cut at `index` makes history."""
    base = configuration_at(raft, index)
    raft.configurations = [(index, base), *((at, later) for at, later in raft.configurations if at > index)]


def committed_configuration(raft: "Raft") -> Configuration:
    """Return the latest configuration that is committed."""
    index, configuration = raft.configurations[-1]
    return configuration if index <= raft.commit else configuration_at(raft, raft.commit)


def change_in_flight(raft: "Raft") -> bool:
    """Whether the latest configuration entry is not committed yet."""
    return raft.configurations[-1][0] > raft.commit


def may_change(raft: "Raft") -> bool:
    """Whether a configuration entry may be appended here and now."""
    leading = raft.leading
    return leading is not None and not change_in_flight(raft) and raft.commit >= leading.first_own_index


def _propose(raft: "Raft", configuration: Configuration) -> None:
    assert may_change(raft), "one change at a time, and only by a leader that knows the commit index"
    configuration.check()
    entry = raft.append(EntryKind.CONFIGURATION, configuration.encode())
    appended(raft, (entry,))
    replication.sync_followers(raft)


def caught_up(raft: "Raft", learner: MemberId) -> bool:
    """Whether `learner` is close enough behind the leader to vote (thesis, section 4.2.1)."""
    leading = raft.leading
    if leading is None or learner not in leading.progress:
        return False
    progress = leading.progress[learner]
    behind = raft.log.last.index - progress.matched
    return progress.state is ProgressState.REPLICATE and behind <= PROMOTION_LAG_ENTRIES_MAX


def change_members(
    raft: "Raft",
    voters: tuple[MemberId, ...],
    learners: tuple[MemberId, ...],
    members: dict[MemberId, MemberRecord],
    *,
    auto_leave: bool = True,
) -> ErrorCode:
    """Begin the change to exactly `voters` and `learners`, known as `members`.

    Other voters make a joint configuration, left by itself with `auto_leave`; learners alone change in one step.

    Returns:
        OK, and the entry is in the log; NOT_LEADER; MEMBER_NOT_FOUND where the lists and the table do not fit;
        UNHEALTHY while another change is under way, or for a promotion of a learner that has not caught up.
    """
    if raft.leading is None:
        return ErrorCode.NOT_LEADER
    current = raft.configuration
    if not _well_formed(voters, learners, members):
        return ErrorCode.MEMBER_NOT_FOUND
    if current.joint or not may_change(raft):
        return ErrorCode.UNHEALTHY
    newcomers = [member for member in voters if member not in current.voters]
    if any(not caught_up(raft, member) for member in newcomers):
        return ErrorCode.UNHEALTHY
    ordered = tuple(sorted(voters))
    if ordered == tuple(sorted(current.voters)):
        removed = current.removed_without(members)
        _propose(raft, Configuration(ordered, learners=tuple(sorted(learners)), members=members, removed=removed))
    else:
        _propose(raft, current.enter_joint(ordered, tuple(sorted(learners)), members, auto_leave=auto_leave))
    return ErrorCode.OK


def _well_formed(
    voters: tuple[MemberId, ...], learners: tuple[MemberId, ...], members: dict[MemberId, MemberRecord]
) -> bool:
    """Whether the lists are disjoint, not empty, and name exactly the table; and no two share an address."""
    everyone = [*voters, *learners]
    addresses = [url for record in members.values() for url in record.peer_urls]
    return (
        bool(voters)
        and len(set(everyone)) == len(everyone)
        and set(everyone) == set(members)
        and len(set(addresses)) == len(addresses)
    )


def leave_joint(raft: "Raft") -> ErrorCode:
    """Leave a joint configuration by hand, where it is not left by itself."""
    if raft.leading is None:
        return ErrorCode.NOT_LEADER
    if not raft.configuration.joint or not may_change(raft):
        return ErrorCode.UNHEALTHY
    _propose(raft, raft.configuration.leave_joint())
    return ErrorCode.OK


def store_wanted(raft: "Raft", member: MemberId) -> bool:
    """Whether this leader should log which data directory `member` answers from."""
    record = raft.configuration.members.get(member)
    return record is not None and not record.store and may_change(raft)


def bind_store(raft: "Raft", member: MemberId, store: StoreId) -> None:
    """Log which data directory `member` answers from: no other will be believed afterwards."""
    assert store_wanted(raft, member), f"the store of {member:x} cannot be bound now"
    record = raft.configuration.members[member]
    _propose(raft, raft.configuration.with_member(member, record._replace(store=store)))


def committed_as_leader(raft: "Raft") -> None:
    """Go on with a change that is committed: leave the joint configuration, or the office we no longer vote for.

    Also how a new leader goes on with a change that it finds half done.
    """
    if not may_change(raft):
        return
    configuration = raft.configuration
    if configuration.joint:
        if configuration.auto_leave:
            _propose(raft, configuration.leave_joint())
        return
    if raft.changes.busy:
        member_changes.settled(raft)
    if not configuration.is_voter(raft.member):
        # A leader outside the configuration serves until the change is committed (thesis, section 4.2.2).
        replication.leave_office(raft, "removed")
    elif raft.changes.waiting:
        member_changes.go_on(raft)
