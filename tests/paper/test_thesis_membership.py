"""The rules of Ongaro's thesis on changing members and handing over leadership, one test each, named by section."""

import pytest

from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.peer import AppendEntries, TimeoutNow
from protocol.types import Entry, EntryKind, Index, LogPosition, MemberId, Millis, StoreId, Term
from raft import membership, transfer
from raft.configuration import Configuration, MemberRecord
from raft.transitions import Role
from sim.core_cluster import CoreCluster

N1, N2, N3, N4, N5 = (MemberId(number) for number in range(1, 6))


def table(*numbers: int) -> dict[MemberId, MemberRecord]:
    """A member table with an address each."""
    return {
        MemberId(each): MemberRecord(f"n{each}", (f"http://n{each}:2380",), (f"http://n{each}:2379",), StoreId(0))
        for each in numbers
    }


def change(
    cluster: CoreCluster, number: int, voters: list[int], learners: list[int], *, auto_leave: bool = True
) -> ErrorCode:
    """Ask member `number` for this membership, and end its turn."""
    code = membership.change_members(
        cluster.core(number),
        tuple(MemberId(each) for each in voters),
        tuple(MemberId(each) for each in learners),
        table(*voters, *learners),
        auto_leave=auto_leave,
    )
    cluster[number].turn()
    return code


def add_caught_up(cluster: CoreCluster, voters: list[int], learners: list[int]) -> None:
    """Start the learners and let them catch up."""
    for number in learners:
        cluster.add_member(number)
    assert change(cluster, 1, voters, learners) is ErrorCode.OK
    cluster.advance(300)


def test_configuration_is_adopted_on_append() -> None:
    """A server uses the latest configuration in its log, committed or not (section 4.1)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.add_member(4)
    assert change(cluster, 1, [1, 2, 3], [4]) is ErrorCode.OK

    assert leader.core.commit == 1
    assert leader.core.configuration.learners == (N4,)
    cluster.deliver_to(2)
    assert cluster.core(2).configuration.learners == (N4,)


def test_configuration_is_rolled_back_on_truncation() -> None:
    """A configuration whose entry is overwritten is no longer in force (section 4.1)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.add_member(4)
    assert change(cluster, 1, [1, 2, 3], [4]) is ErrorCode.OK
    while cluster[1].persist():
        pass
    cluster.elect_among(2, 3)
    cluster.propose(2, b"other")
    cluster.settle()
    cluster.heal()
    cluster.advance(1000)

    assert cluster.core(1).configuration.learners == ()
    assert cluster.commands(1) == [b"other"]


def test_one_change_at_a_time() -> None:
    """No second change begins before the first is committed (section 4.1)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.add_member(4)
    cluster.isolate(1)
    assert change(cluster, 1, [1, 2, 3], [4]) is ErrorCode.OK
    assert change(cluster, 1, [1, 2, 3], []) is ErrorCode.UNHEALTHY
    cluster.heal()
    cluster.advance(500)
    assert change(cluster, 1, [1, 2, 3], []) is ErrorCode.OK


def test_no_change_before_a_commit_of_the_own_term() -> None:
    """A new leader changes nothing before an entry of its term is committed (section 4.1 and its erratum)."""
    cluster = CoreCluster()
    leader = cluster[1]
    leader.core.election_due = cluster.now
    leader.core.tick(cluster.now)
    leader.turn()
    while leader.core.role is not Role.LEADER:
        cluster.deliver()
        for number in (1, 2, 3):
            cluster[number].persist()

    assert change(cluster, 1, [1, 2], []) is ErrorCode.UNHEALTHY


def test_learner_replicates_and_does_not_vote() -> None:
    """A learner gets the log, and counts neither for commits nor for elections (section 4.2.1)."""
    cluster = CoreCluster(4, learners=[4])
    leader = cluster.elect(1)
    cluster.isolate(2, 3)
    cluster.propose(1, b"x")
    cluster.advance(500)
    assert cluster.core(4).log.last.index == 2
    assert leader.core.commit == 1, "leader and learner are no majority of three voters"
    cluster.heal()
    cluster.advance(3000)
    assert cluster.commands(4) == [b"x"]
    cluster.isolate(4)
    cluster.advance(20_000)
    assert cluster.core(4).role is Role.FOLLOWER, "a learner never stands"


def test_learner_is_promoted_when_it_has_caught_up() -> None:
    """A server joins as learner and becomes a voter only when its log has caught up (section 4.2.1)."""
    cluster = CoreCluster()
    cluster.elect(1)
    for number in range(150):
        cluster.propose(1, b"%d" % number, number + 1)
    cluster.settle()
    cluster.add_member(4)
    cluster.cut_off.add(frozenset((N1, N4)))
    assert change(cluster, 1, [1, 2, 3], [4]) is ErrorCode.OK
    cluster.advance(300)
    assert change(cluster, 1, [1, 2, 3, 4], []) is ErrorCode.UNHEALTHY
    cluster.heal()
    cluster.advance(1000)
    assert change(cluster, 1, [1, 2, 3, 4], []) is ErrorCode.OK
    cluster.advance(300)

    configuration = cluster.core(4).configuration
    assert configuration.voters == (N1, N2, N3, N4)
    assert not configuration.joint


@pytest.mark.parametrize("silent", [(2, 3), (4, 5)], ids=["old", "new"])
def test_joint_configuration_needs_both_majorities(silent: tuple[int, int]) -> None:
    """While the change is joint, entries commit only with majorities of the old and of the new (section 4.3)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4, 5])
    before = leader.core.commit
    cluster.isolate(*silent)
    assert change(cluster, 1, [1, 4, 5], []) is ErrorCode.OK
    assert leader.core.configuration.joint
    cluster.advance(300)
    assert leader.core.commit == before, "the other half is no majority of both"
    cluster.heal()
    cluster.advance(500)
    assert leader.core.commit > before


def test_joint_configuration_is_left_by_itself() -> None:
    """When the joint configuration is committed the leader appends the new one alone (section 4.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4])
    assert change(cluster, 1, [1, 2, 4], []) is ErrorCode.OK
    cluster.advance(300)

    for number in (1, 2, 4):
        configuration = cluster.core(number).configuration
        assert (configuration.voters, configuration.joint) == ((N1, N2, N4), False)
    assert set(cluster.core(1).configuration.members) == {N1, N2, N4}


def test_joint_configuration_can_be_left_by_hand() -> None:
    """Without automatic leave the change stays joint until it is left (section 4.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4])
    assert change(cluster, 1, [1, 2, 4], [], auto_leave=False) is ErrorCode.OK
    cluster.advance(1000)
    assert cluster.core(1).configuration.joint
    assert change(cluster, 1, [1, 2, 3], []) is ErrorCode.UNHEALTHY
    assert membership.leave_joint(cluster.core(1)) is ErrorCode.OK
    cluster[1].turn()
    cluster.advance(300)
    assert not cluster.core(4).configuration.joint


def test_new_leader_finishes_a_joint_change() -> None:
    """A change whose leader died in the middle is left by its successor (section 4.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4])
    assert change(cluster, 1, [1, 2, 3, 4], []) is ErrorCode.OK
    for number in (2, 3, 4):
        cluster.deliver_to(number)
        while cluster[number].persist():
            pass
    cluster.crash(1)
    cluster.advance(5000)

    configuration = cluster.leader.core.configuration
    assert (configuration.voters, configuration.joint) == ((N1, N2, N3, N4), False)


def test_demoted_voter_becomes_a_learner() -> None:
    """A voter that becomes a learner votes in the outgoing half until the change is left (section 4.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(200)
    assert change(cluster, 1, [1, 2], [3]) is ErrorCode.OK
    joint = cluster.core(1).configuration
    assert joint.is_voter(N3)
    assert joint.learners_next == (N3,)
    cluster.advance(300)
    final = cluster.core(3).configuration
    assert (final.voters, final.learners) == ((N1, N2), (N3,))


def test_removed_leader_serves_until_the_change_is_committed() -> None:
    """A leader that removes itself leads until the change is committed, not counting itself (section 4.2.2)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(200)
    assert change(cluster, 1, [2, 3], []) is ErrorCode.OK
    assert cluster.core(1).role is Role.LEADER
    cluster.advance(200)

    assert cluster.core(1).role is not Role.LEADER
    assert cluster.leader.member in (N2, N3), "it told another one to stand"
    assert cluster.leader.core.configuration.voters == (N2, N3)


def test_removed_member_stands_while_its_removal_is_not_committed() -> None:
    """As long as it alone holds the entry that removes it, nobody else can be elected without it (section 4.2.2)."""
    cluster = CoreCluster(2)
    cluster.elect(1)
    cluster.advance(200)
    assert change(cluster, 1, [2], []) is ErrorCode.OK
    while cluster.core(1).configuration.joint:
        for number in (1, 2):
            while cluster[number].persist():
                pass
        cluster.deliver()
    while cluster[1].persist():
        pass
    cluster.wire.clear()
    assert cluster.core(1).configuration.voters == (N2,)
    assert cluster.core(2).configuration.joint, "it has not heard of the end of the change"
    cluster.crash(1)
    cluster.restart(1)
    cluster.advance(10_000)

    assert cluster.leader.member == N2
    assert cluster.core(2).configuration.voters == (N2,)
    assert not cluster.core(2).configuration.joint


@pytest.mark.parametrize(
    ("voters", "learners"), [([], [1]), ([1, 2, 2], []), ([1, 2], [2])], ids=["nobody", "twice", "both"]
)
def test_senseless_change_is_refused(voters: list[int], learners: list[int]) -> None:
    """A change without voters, or that names a member twice, is refused before it is in the log (section 4.1)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)

    assert change(cluster, 1, voters, learners) is ErrorCode.MEMBER_NOT_FOUND
    assert leader.core.log.last.index == 1


def test_only_the_leader_changes_members() -> None:
    """A follower refuses a change (section 4.1)."""
    cluster = CoreCluster()
    cluster.elect(1)
    assert change(cluster, 2, [1, 2], []) is ErrorCode.NOT_LEADER


def test_candidate_outside_the_voters_configuration_gets_votes() -> None:
    """A voter grants votes to a server that its own configuration does not know yet (section 4.2.2)."""
    cluster = CoreCluster()
    cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4])
    assert change(cluster, 1, [1, 2, 4], []) is ErrorCode.OK
    cluster.deliver_to(4)
    while cluster[4].persist():
        pass
    assert not cluster.core(2).configuration.is_voter(N4)
    cluster.wire.clear()
    cluster.crash(1)
    cluster.now = Millis(cluster.now + 5000)
    cluster.elect_among(4, 2, 3)
    assert cluster.leader.member == N4


def test_store_ids_are_logged_once() -> None:
    """The leader commits the data directory a member first speaks from; it does not change afterwards (DESIGN 4)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    assert membership.store_wanted(leader.core, N2)
    membership.bind_store(leader.core, N2, StoreId(77))
    leader.turn()
    assert not membership.store_wanted(leader.core, N3), "one change at a time"
    cluster.settle()

    assert cluster.core(3).configuration.members[N2].store == 77
    assert not membership.store_wanted(leader.core, N2)
    assert membership.store_wanted(leader.core, N3)


def test_configuration_survives_a_cut_and_a_restart() -> None:
    """The configuration is part of the log's mark (section 5)."""
    cluster = CoreCluster(config=RaftConfig(unattended_delay_ms=0, snapshot_count=1, catchup_entries=0))
    cluster.elect(1)
    add_caught_up(cluster, [1, 2, 3], [4])
    cluster.propose(1, b"x")
    cluster.settle()
    member = cluster[1]
    member.cut_log()
    while member.persist():
        pass
    cluster.crash(1)
    cluster.restart(1)

    assert member.core.log.mark.index == 3
    assert member.core.configuration.learners == (N4,)


def test_unknown_configuration_bytes_are_corruption() -> None:
    """A configuration round-trips through its bytes."""
    configuration = Configuration((N1, N2), (N3,), (N4,), (), True, table(1, 2, 3, 4))
    assert Configuration.decode(configuration.encode()) == configuration


# --- handing over (section 3.10) -------------------------------------------------------------------


def test_transfer_makes_the_target_leader() -> None:
    """The target stands as soon as it holds the whole log, and wins at once (section 3.10)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(300)
    before = cluster.now
    assert transfer.start(cluster.core(1), N3)
    cluster[1].turn()
    cluster.settle()

    assert cluster.leader.member == N3
    assert cluster.now == before
    assert cluster.core(1).transfer.take_ended() is True


def test_transfer_waits_for_a_target_that_lags() -> None:
    """The target is told to stand only when it holds everything (section 3.10)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(300)
    cluster.propose(1, b"x")
    assert transfer.start(cluster.core(1), N2)
    cluster[1].turn()
    assert not [wire for wire in cluster.wire if isinstance(wire.message, TimeoutNow)]
    cluster.settle()

    assert cluster.leader.member == N2
    assert cluster.commands(2) == [b"x"]


def test_nothing_is_proposed_during_a_transfer() -> None:
    """While it hands over a leader refuses proposals (section 3.10)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(300)
    cluster.cut_off.add(frozenset((N1, N2)))
    assert transfer.start(cluster.core(1), N2)
    cluster.propose(1, b"x", 5)

    assert cluster[1].refused == [(5, ErrorCode.NO_LEADER)]


def test_transfer_that_fails_is_given_up() -> None:
    """A transfer that does not succeed within an election timeout ends, and the leader goes on (section 3.10)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(300)
    cluster.cut_off.add(frozenset((N1, N2)))
    assert transfer.start(cluster.core(1), N2)
    cluster.advance(cluster.config.election_timeout_ms + 100)
    assert cluster.core(1).transfer.take_ended() is False
    cluster.propose(1, b"x")
    cluster.settle()

    assert cluster.commands(1) == [b"x"]


@pytest.mark.parametrize("target", [N4, N1])
def test_transfer_to_who_cannot_lead_is_refused(target: MemberId) -> None:
    """Learners and the leader itself are no targets (section 3.10)."""
    cluster = CoreCluster(4, learners=[4])
    cluster.elect(1)
    assert not transfer.start(cluster.core(1), target)


def test_offer_of_a_stranger_is_ignored() -> None:
    """Only the leader a server follows can make it stand (section 3.10)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.step(cluster[2], N3, TimeoutNow(term=Term(1)))
    assert cluster.core(2).role is Role.FOLLOWER
    assert cluster.core(2).term == 1


def test_configuration_entries_travel_like_any_other() -> None:
    """A follower adopts a configuration from an append of its leader (section 4.1)."""
    cluster = CoreCluster()
    configuration = Configuration((N1, N2, N3), learners=(N5,), members=table(1, 2, 3, 5))
    entry = Entry(Term(1), Index(1), EntryKind.CONFIGURATION, configuration.encode())
    message = AppendEntries(
        term=Term(1), previous=LogPosition(Term(0), Index(0)), entries=(entry,), commit=Index(0), quiet=False
    )
    cluster.step(cluster[2], N1, message)
    assert cluster.core(2).configuration == configuration
