"""Which followers are fed late: those that the quorum does without, as long as nobody notices."""

import dataclasses

import pytest

from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.peer import AppendEntries
from protocol.types import MemberId, Millis
from raft import membership, spares, transfer
from raft.durability import PersistBatch
from sim.core_cluster import CoreCluster, Wire

CONFIG = RaftConfig(commit_news_delay_ms=5, unattended_delay_ms=20)


def led(size: int = 3, *, config: RaftConfig = CONFIG, learners: tuple[int, ...] = ()) -> CoreCluster:
    """A cluster that member 1 leads, and in which nothing is under way."""
    cluster = CoreCluster(size, config=config, learners=learners)
    cluster.elect(1)
    cluster.advance(100)
    return cluster


def spare(cluster: CoreCluster) -> list[int]:
    """The members that member 1 feeds late."""
    leading = cluster.core(1).leading
    assert leading is not None
    return [int(member) for member, progress in sorted(leading.progress.items()) if progress.spare]


def fed(cluster: CoreCluster, data: bytes = b"x") -> list[int]:
    """Whom a proposal of the leader's own reaches without any time passing."""
    reached: list[int] = []

    def note(wire: Wire) -> None:
        if isinstance(wire.message, AppendEntries) and wire.message.entries:
            reached.append(int(wire.to))

    cluster.on_put = note
    cluster.propose(1, data)
    cluster.settle()
    cluster.on_put = lambda _wire: None
    return sorted(reached)


@pytest.mark.parametrize(("size", "eager"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)])
def test_those_fed_at_once_make_a_quorum_with_the_leader(size: int, eager: int) -> None:
    """A majority is committed without any delay; everybody else has it when the delay is over."""
    cluster = led(size)
    reached = fed(cluster)
    assert len(reached) == eager
    assert cluster.commands(1) == [b"x"]

    cluster.advance(CONFIG.unattended_delay_ms)
    cluster.advance(CONFIG.unattended_delay_ms)
    assert all(cluster.commands(number) == [b"x"] for number in range(1, size + 1))


def test_entries_gather_for_a_spare_follower_and_travel_together() -> None:
    """Ten proposals within the delay are one append to it."""
    cluster = led()
    (late,) = spare(cluster)
    for number in range(10):
        assert late not in fed(cluster, b"%d" % number)
    sent: list[AppendEntries] = []
    cluster.on_put = lambda wire: (
        sent.append(wire.message) if wire.to == late and isinstance(wire.message, AppendEntries) else None
    )
    cluster.advance(CONFIG.unattended_delay_ms)
    assert [len(message.entries) for message in sent if message.entries] == [10]


def test_without_a_delay_nobody_is_spared() -> None:
    """0 turns it off."""
    cluster = led(5, config=RaftConfig(unattended_delay_ms=0), learners=(5,))
    assert spare(cluster) == []
    assert fed(cluster) == [2, 3, 4, 5]


def test_learners_are_spared_and_joint_voters_are_not() -> None:
    """No quorum asks a learner; while two configurations decide, each needs its own majority."""
    cluster = led(4, learners=(4,))
    assert 4 in spare(cluster)
    core = cluster.core(1)
    joint = dataclasses.replace(
        core.configuration,
        voters=(MemberId(1), MemberId(2)),
        outgoing=(MemberId(1), MemberId(2), MemberId(3)),
    )
    core.configurations.append((core.log.last.index, joint))
    spares.appoint(core)
    assert spare(cluster) == [4]


def test_a_silent_follower_changes_places_with_a_spare_one() -> None:
    """What the silent one was to confirm is committed as soon as the spare one is fed, and then at once again."""
    cluster = led()
    (late,) = spare(cluster)
    silent = 5 - late
    cluster.crash(silent)
    assert fed(cluster, b"a") == [silent]
    assert cluster.commands(1) == []
    cluster.advance(CONFIG.unattended_delay_ms)
    assert cluster.commands(1) == [b"a"]
    assert spare(cluster) == [silent]
    assert late in fed(cluster, b"b")
    assert cluster.commands(1) == [b"a", b"b"]


def test_clients_of_a_spare_follower_wait_for_nothing() -> None:
    """Its own proposals come back at once, and while clients use it everything reaches it at once."""
    cluster = led()
    (late,) = spare(cluster)
    cluster.propose(late, b"own")
    cluster.settle()
    assert cluster.commands(late) == [b"own"]
    # The next heartbeat tells the leader that somebody is there.
    cluster.advance(CONFIG.heartbeat_interval_ms)
    assert late in fed(cluster, b"other")
    cluster.advance(CONFIG.commit_news_delay_ms)
    assert cluster.commands(late) == [b"own", b"other"]

    cluster.advance(2 * CONFIG.election_timeout_ms)
    assert late in spare(cluster)
    assert late not in fed(cluster, b"unseen")


def test_watchers_make_a_member_attended_for_an_election_timeout() -> None:
    """`attend` is what the gateway says for clients that raft does not see."""
    core = led().core(2)
    assert not core.attended
    core.attend(core.now)
    assert core.attended
    core.tick(Millis(core.now + CONFIG.election_timeout_ms - 1))
    assert core.attended
    core.tick(Millis(core.now + 1))
    assert not core.attended


def test_a_large_amount_does_not_gather() -> None:
    """Half an append is enough to leave."""
    cluster = led(config=RaftConfig(commit_news_delay_ms=5, unattended_delay_ms=20, append_bytes_max=100))
    (late,) = spare(cluster)
    assert late not in fed(cluster, b"small")
    assert late in fed(cluster, b"x" * 60)


def test_leadership_goes_to_a_spare_follower_without_delay() -> None:
    """A transfer waits for nobody who could be fed at once."""
    cluster = led()
    (late,) = spare(cluster)
    fed(cluster)
    before = cluster.now
    assert transfer.start(cluster.core(1), MemberId(late))
    cluster[1].turn()
    cluster.settle()
    assert cluster.now == before
    assert cluster.leader.member == late


def test_an_unattended_follower_lets_its_disk_answer_late() -> None:
    """The write says how long its answer may take: nothing at a leader, or where clients are."""
    cluster = led()
    (late,) = spare(cluster)
    eager = cluster[5 - late]

    def allowed(number: int) -> list[int]:
        return [write.answer_within_ms for write in cluster[number].writes if isinstance(write, PersistBatch)]

    cluster.propose(1, b"x")
    while cluster.deliver():
        pass
    assert (allowed(1), allowed(5 - late)) == ([0], [CONFIG.unattended_delay_ms])
    eager.core.attend(cluster.now)
    cluster.settle()
    cluster.propose(1, b"y")
    while cluster.deliver():
        pass
    assert allowed(5 - late) == [0]
    cluster.settle()


def test_a_leader_removed_by_the_word_of_a_spare_follower_ends_its_office_in_peace() -> None:
    """The commit that ends an office may come from a follower fed late: nobody is appointed any more."""
    cluster = led(4)
    core = cluster.core(1)
    rest = {member: record for member, record in core.configuration.members.items() if member != 1}
    assert membership.change_members(core, tuple(sorted(rest)), (), rest) is ErrorCode.OK
    cluster[1].turn()
    while core.configuration.joint:
        assert cluster.deliver() or any(member.persist() for member in cluster.members.values())
    # The entry that leaves the joint configuration is appended: two of three are to confirm it at once.
    (late,) = spare(cluster)
    cluster.crash(min({2, 3, 4} - {late}))
    cluster.advance(CONFIG.unattended_delay_ms)
    assert core.leading is None, "it is no member any more"
    assert core.configuration.voters == (2, 3, 4)
