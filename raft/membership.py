"""How the configuration changes: adopted on append, rolled back on truncation, one change in flight
(thesis, sections 4.1 to 4.3).

Invariants: `raft.configurations` holds the configuration at the mark and one per configuration entry behind it;
a new change is appended only when the last one is committed; a learner is promoted only when it has caught up.
"""

from typing import TYPE_CHECKING

from protocol.errors import ErrorCode
from protocol.types import NOBODY, Entry, EntryKind, Index, MemberId, StoreId
from raft import replication
from raft.configuration import Configuration, MemberRecord
from raft.progress import ProgressState

if TYPE_CHECKING:
    from raft.core import Raft, Recovered

PROMOTION_LAG_ENTRIES_MAX = 100
"""How far behind the leader's end a learner may be to become a voter."""


def load(raft: "Raft", founding: Configuration, recovered: "Recovered") -> None:
    """Take the configurations out of the mark and the recovered entries."""
    mark = recovered.mark
    base = Configuration.decode(mark.configuration) if mark.configuration else founding
    raft.configurations = [(mark.index, base)]
    appended(raft, recovered.entries)


def appended(raft: "Raft", entries: tuple[Entry, ...]) -> None:
    """Adopt the configurations among `entries`: they are in force from here on."""
    for entry in entries:
        if entry.kind == EntryKind.CONFIGURATION:
            raft.configurations.append((entry.index, Configuration.decode(entry.data)))


def truncated(raft: "Raft", first_dropped: Index) -> None:
    """Roll back configurations whose entries are gone."""
    while raft.configurations[-1][0] >= first_dropped:
        raft.configurations.pop()
    assert raft.configurations, "the configuration at the mark stays"


def configuration_at(raft: "Raft", index: Index) -> Configuration:
    """Return the configuration in force at `index`."""
    for position, configuration in reversed(raft.configurations):
        if position <= index:
            return configuration
    raise AssertionError(f"no configuration at {index}")


def cut(raft: "Raft", index: Index) -> None:
    """Forget configurations that a cut at `index` makes history."""
    base = configuration_at(raft, index)
    raft.configurations = [(index, base), *((at, later) for at, later in raft.configurations if at > index)]


def change_in_flight(raft: "Raft") -> bool:
    """Whether the latest configuration entry is not committed yet."""
    return raft.configurations[-1][0] > raft.commit


def propose(raft: "Raft", configuration: Configuration) -> ErrorCode:
    """Append a configuration entry.

    Returns:
        OK, or why not: not the leader, or the previous change is still in flight.
    """
    leading = raft.leading
    if leading is None:
        return ErrorCode.NOT_LEADER
    if change_in_flight(raft) or raft.commit < leading.first_own_index:
        return ErrorCode.UNHEALTHY
    configuration.check()
    entry = raft.append(EntryKind.CONFIGURATION, configuration.encode())
    appended(raft, (entry,))
    replication.sync_followers(raft)
    return ErrorCode.OK


def caught_up(raft: "Raft", learner: MemberId) -> bool:
    """Whether `learner` is close enough behind the leader to vote."""
    leading = raft.leading
    if leading is None or learner not in leading.progress:
        return False
    progress = leading.progress[learner]
    behind = raft.log.last.index - progress.matched
    return progress.state is ProgressState.REPLICATE and behind <= PROMOTION_LAG_ENTRIES_MAX


def change_members(
    raft: "Raft", voters: tuple[MemberId, ...], learners: tuple[MemberId, ...], members: dict[MemberId, MemberRecord]
) -> ErrorCode:
    """Begin the change to `voters` and `learners` through a joint configuration, left by itself.

    Returns:
        OK; or `MEMBER_NOT_FOUND` for a promotion of a learner that has not caught up or an unknown member.
    """
    current = raft.configuration
    promoted = [member for member in voters if member in current.learners]
    if current.joint:
        return ErrorCode.UNHEALTHY
    if any(member not in members for member in (*voters, *learners)) or not voters:
        return ErrorCode.MEMBER_NOT_FOUND
    if any(not caught_up(raft, member) for member in promoted):
        return ErrorCode.UNHEALTHY
    return propose(raft, current.enter_joint(voters, learners, members))


def bind_store(raft: "Raft", member: MemberId, store: StoreId) -> ErrorCode:
    """Log which data directory `member` answers from: no other will be believed afterwards."""
    record = raft.configuration.members.get(member)
    if record is None or record.store:
        return ErrorCode.OK
    return propose(raft, raft.configuration.with_member(member, record._replace(store=store)))


def office_taken(raft: "Raft") -> None:
    """A new leader goes on with a change that it finds half done, once its own term has a commit."""
    committed_as_leader(raft)


def committed_as_leader(raft: "Raft") -> None:
    """Leave a joint configuration that has been committed; step down if we are no longer a member of it."""
    if raft.leading is None or change_in_flight(raft) or raft.commit < raft.leading.first_own_index:
        return
    configuration = raft.configuration
    if configuration.joint and configuration.auto_leave:
        propose(raft, configuration.leave_joint())
    elif not configuration.is_voter(raft.member):
        raft.become_follower(raft.term, NOBODY)
