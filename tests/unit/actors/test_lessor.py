"""The leader's clock over leases: when they run out, what is kept alive, and what the next leader inherits."""

import pytest
from lease_world import ELECTION_TIMEOUT_MS, LeaseWorld

from actors.lessor import ENTRIES_PER_SECOND, HEAP_SLACK, LEASES_PER_SLICE
from protocol.config import LeasesConfig
from protocol.lease import UPKEEP_ITEMS_MAX
from protocol.types import Millis, Term


@pytest.fixture
def world() -> LeaseWorld:
    """A store without leases, and a lessor in office."""
    return LeaseWorld()


def test_a_lease_runs_out_when_its_time_is_over_and_not_before(world: LeaseWorld) -> None:
    """To the millisecond, as far as the lessor is woken."""
    world.grant(7, 10)
    world.attach(7, b"a", b"b")
    world.run(9_999)
    assert world.leases == [7]
    assert world.remaining(7) == 0
    world.run(1)
    assert world.leases == []
    assert world.driver.range(b"a", b"c").response.count == 0
    assert world.remaining(7) == -1


def test_a_keep_alive_gives_the_whole_time_again_and_costs_no_entry(world: LeaseWorld) -> None:
    """However often, for a lease that is kept alive oftener than it would be recorded."""
    world.grant(7, 60)
    before = len(world.driver.entries)
    for _ in range(20):
        world.run(10_000)
        assert world.ask_keep_alive(7) == 60
    assert len(world.driver.entries) == before
    assert world.lessor.renewed == 20
    world.run(59_999)
    assert world.leases == [7]


def test_an_unknown_lease_has_no_time(world: LeaseWorld) -> None:
    """Zero seconds, not an error."""
    assert world.ask_keep_alive(7) == 0
    world.grant(7, 5)
    world.revoke(7)
    assert world.ask_keep_alive(7) == 0
    assert world.remaining(7) == -1


def test_a_lease_whose_end_is_under_way_is_not_kept_alive(world: LeaseWorld) -> None:
    """The client hears that it is over, even before it is."""
    world.grant(7, 5)
    world.now = Millis(world.now + 5000)
    assert world.wake()
    assert world.under_way is not None
    assert world.ask_keep_alive(7) == 0
    world.commit()
    assert world.leases == []


def test_a_keep_alive_that_came_in_time_counts_although_it_is_served_late(world: LeaseWorld) -> None:
    """The leadership round took its time: the client asked before the lease was over."""
    world.grant(7, 5)
    world.now = Millis(world.now + 5100)
    assert world.ask_keep_alive(7, confirmed_ms_ago=200) == 5
    world.run(4_999)
    assert world.leases == [7]
    world.grant(8, 5)
    world.now = Millis(world.now + 5100)
    assert world.ask_keep_alive(8, confirmed_ms_ago=50) == 0


def test_an_office_that_was_confirmed_too_long_ago_promises_nothing(world: LeaseWorld) -> None:
    """Another leader may count from an earlier moment by then."""
    world.grant(7, 60)
    assert world.ask_keep_alive(7, confirmed_ms_ago=ELECTION_TIMEOUT_MS) == 60
    assert world.ask_keep_alive(7, confirmed_ms_ago=ELECTION_TIMEOUT_MS + 1) is None


def test_a_member_that_does_not_lead_promises_and_ends_nothing(world: LeaseWorld) -> None:
    """Between offices there is no time."""
    world.grant(7, 5)
    world.lessor.dismissed()
    world.run(60_000)
    assert world.leases == [7]
    assert world.ask_keep_alive(7) is None
    assert world.remaining(7) is None
    assert world.lessor.deadline is None


def test_an_appointed_lessor_waits_for_the_first_entry_of_its_office(world: LeaseWorld) -> None:
    """Until then the store may lack what an earlier leader has promised."""
    world.grant(7, 5)
    world.lessor.appointed(Term(9))
    assert world.ask_keep_alive(7) is None
    assert world.lessor.deadline is None
    world.lessor.begin(world.now)
    assert world.ask_keep_alive(7) == 5


def test_a_new_leader_grants_the_whole_time_and_an_election_timeout(world: LeaseWorld) -> None:
    """Nothing was recorded of a short lease."""
    world.grant(7, 10)
    world.run(9_000)
    world.elect()
    world.run(10_000 + ELECTION_TIMEOUT_MS - 1)
    assert world.leases == [7]
    world.run(1)
    assert world.leases == []


def test_a_new_leader_grants_what_was_recorded_and_an_election_timeout(world: LeaseWorld) -> None:
    """Long leases are recorded oftener than every checkpoint interval (20 s here)."""
    world.grant(7, 100)
    world.run(50_000)
    recorded = world.recorded_ms(7)
    assert 50_000 <= recorded <= 50_000 + 20_000 - 2 * ELECTION_TIMEOUT_MS
    world.elect()
    world.run(recorded + ELECTION_TIMEOUT_MS - 1)
    assert world.leases == [7]
    world.run(1)
    assert world.leases == []


def test_a_keep_alive_takes_back_what_was_recorded_before_it_is_answered(world: LeaseWorld) -> None:
    """Else the next leader would cut short what this one promises."""
    world.grant(7, 100)
    world.run(50_000)
    assert world.recorded_ms(7) > 0
    assert world.ask_keep_alive(7) is None
    assert world.wake()
    assert world.ask_keep_alive(7) is None
    world.commit()
    assert world.recorded_ms(7) == -1
    assert world.ask_keep_alive(7) == 100
    world.elect()
    world.run(100_000)
    assert world.leases == [7]


def test_a_keep_alive_during_a_record_under_way_waits_for_it(world: LeaseWorld) -> None:
    """The record is true when it is proposed and would be wrong when it is applied."""
    world.grant(7, 100)
    while world.under_way is None:
        due = world.lessor.deadline
        assert due is not None
        world.now = due
        world.wake()
    assert world.under_way.recorded
    assert world.ask_keep_alive(7) is None
    world.commit()
    assert world.keep_alive(7) == 100
    assert world.recorded_ms(7) == -1


def test_a_refused_upkeep_is_proposed_again(world: LeaseWorld) -> None:
    """Raft was busy: ends, records and records taken back are all named again."""
    world.grant(7, 100)
    world.grant(8, 30)
    world.grant(9, 100)
    world.run(20_000)
    assert world.recorded_ms(9) > 0
    assert world.ask_keep_alive(9) is None
    world.now = Millis(world.now + 10_000)
    assert world.wake()
    refused, world.under_way = world.under_way, None
    assert refused is not None
    assert [name.lease for name in refused.expired] == [8]
    assert {left.lease: left.remaining_ms < 0 for left in refused.recorded}[9]
    world.lessor.refused(refused.term, world.now)
    world.lessor.check()
    assert not world.wake() or world.under_way is not None
    world.run(1000)
    assert world.leases == [7, 9]
    assert world.recorded_ms(9) == -1
    assert world.ask_keep_alive(9) == 100


def test_a_refusal_of_another_term_is_not_about_this_office(world: LeaseWorld) -> None:
    """What is under way stays under way."""
    world.grant(7, 5)
    world.now = Millis(world.now + 5000)
    world.wake()
    world.lessor.refused(Term(world.driver.term - 1), world.now)
    world.commit()
    assert world.leases == []


def test_an_upkeep_that_outlives_its_office_ends_what_it_named(world: LeaseWorld) -> None:
    """It was proposed by a leader of its own term, and the next leader has it in its log."""
    world.grant(7, 5)
    world.now = Millis(world.now + 5000)
    world.wake()
    world.elect(upkeep_survives=True)
    assert world.leases == []
    world.run(20_000)
    assert world.ask_keep_alive(7) == 0


def test_a_lease_granted_anew_has_its_own_time(world: LeaseWorld) -> None:
    """What is planned for the lease before it of the same id does not concern it."""
    world.grant(7, 5)
    world.run(4000)
    world.revoke(7)
    world.grant(7, 50)
    world.run(49_999)
    assert world.leases == [7]
    world.run(1)
    assert world.leases == []


def test_a_mass_expiry_is_cut_into_small_entries(world: LeaseWorld) -> None:
    """3,000 leases a second, 60 an entry, never more than 500, and all are gone in time."""
    for lease in range(1, 9001):
        world.grant(lease, 5)
    world.run(5000)
    gone_at_once = 9000 - len(world.leases)
    assert 0 < gone_at_once <= world.config.expiries_per_second_max // ENTRIES_PER_SECOND
    world.run(1000)
    assert 5500 <= len(world.leases) <= 6500
    world.run(2100)
    assert world.leases == []
    assert max(len(upkeep.expired) for upkeep in world.upkeeps) <= UPKEEP_ITEMS_MAX


def test_leases_with_many_keys_are_given_up_more_slowly(world: LeaseWorld) -> None:
    """The keys are what costs."""
    for lease in range(1, 11):
        world.grant(lease, 5)
        world.attach(lease, *(b"%d/%d" % (lease, number) for number in range(50)))
    world.run(5000)
    assert [len(upkeep.expired) for upkeep in world.upkeeps] == [2]
    world.run(1000)
    assert world.leases == []


def test_a_new_leader_takes_over_in_slices(world: LeaseWorld) -> None:
    """And what clients ask of a lease in between is answered as if it had been taken over."""
    count = 2 * LEASES_PER_SLICE + 1
    for lease in range(1, count + 1):
        world.grant(lease, 10)
    world.elect()
    assert world.wake()
    assert world.ask_keep_alive(count) == 10
    assert world.remaining(count) == 10
    world.grant(count + 1, 100)
    world.run(10_000 + ELECTION_TIMEOUT_MS - 1)
    assert len(world.leases) == count + 1
    assert world.keep_alive(count) == 10
    world.run(9000)
    assert world.leases == [count, count + 1]


def test_what_is_planned_for_leases_that_are_gone_does_not_pile_up(world: LeaseWorld) -> None:
    """A client that grants and revokes all day costs no memory; `check` holds the bound after every step."""
    for lease in range(1, HEAP_SLACK + 10):
        world.grant(lease, 1000)
        world.revoke(lease)
    assert world.leases == []


def test_sorting_by_end_knows_the_end(world: LeaseWorld) -> None:
    """Leases are listed in the order in which they run out; a keep-alive moves one back."""
    world.grant(1, 10)
    world.grant(2, 20)
    assert sorted([2, 1], key=world.lessor.expires_at) == [1, 2]  # type: ignore[arg-type]
    world.run(9000)
    world.grant(3, 5)
    world.keep_alive(1)
    assert sorted([2, 1, 3], key=world.lessor.expires_at) == [3, 1, 2]  # type: ignore[arg-type]


def test_records_are_spread_after_an_election() -> None:
    """A new leader does not record everything at once."""
    world = LeaseWorld(LeasesConfig(checkpoint_interval_ms=20_000))
    for lease in range(1, 401):
        world.grant(lease, 1000)
    world.elect()
    world.upkeeps.clear()
    world.run(9_000)
    done = sum(len(upkeep.recorded) for upkeep in world.upkeeps)
    assert 100 <= done <= 300
    world.run(9_000)
    assert all(world.recorded_ms(lease) > 0 for lease in range(1, 401))
