"""etcd's lock and election services in a node: who waits, who gets it, and what is left behind."""

import random

import pytest
from service_world import ServiceWorld

from actors.actor import Source
from protocol import local
from protocol.errors import ErrorCode
from protocol.types import Incarnation
from protocol.wire import election_pb2 as election
from protocol.wire import lock_pb2 as lock
from protocol.wire import rpc_pb2 as rpc


def wants(lease: int = 0, name: bytes = b"x") -> lock.LockRequest:
    """A Lock of the lock that most tests are about."""
    return lock.LockRequest(name=name, lease=lease)


def campaign(lease: int = 0, value: bytes = b"v") -> election.CampaignRequest:
    """A Campaign in the election that most tests are about."""
    return election.CampaignRequest(name=b"e", lease=lease, value=value)


@pytest.fixture
def world() -> ServiceWorld:
    """A fresh node."""
    return ServiceWorld()


# --- locks -----------------------------------------------------------------------------------------


def test_a_lock_passes_down_the_line_in_order(world: ServiceWorld) -> None:
    """Each waits for the one before it alone: an unlock answers one call, and wakes no other."""
    leases = [world.grant() for _ in range(20)]
    calls = [world.start(wants(lease)) for lease in leases]
    for place, (call, lease) in enumerate(zip(calls, leases, strict=True)):
        code, response = world.answers.pop(call)
        assert (code, response.key) == (ErrorCode.OK, b"x/%x" % lease)
        assert [world.waits(other) for other in calls[place + 1 :]] == [True] * (len(calls) - place - 1)
        assert world.core.watches.watchers == len(calls) - place - 1
        world.do(lock.UnlockRequest(key=response.key))
    assert (world.keys(b"x/"), world.core.conversations.open_flows) == ([], 0)


def test_a_lease_has_one_place_and_locks_again_at_once(world: ServiceWorld) -> None:
    """Its key is there already, so that a call repeated after a lost answer is answered as the first was."""
    lease = world.grant()
    first, again = world.do(wants(lease)), world.do(wants(lease))
    assert (first.key, world.keys(b"x/")) == (again.key, [again.key])


def test_without_a_lease_the_node_grants_one_of_a_minute(world: ServiceWorld) -> None:
    """It is named by the key; a client that gives up takes it along."""
    held = world.do(wants())
    assert held.key == b"x/%x" % world.do(rpc.LeaseLeasesRequest()).leases[0].ID
    waiting = world.start(wants())
    assert len(world.do(rpc.LeaseLeasesRequest()).leases) == 2
    world.cancel(waiting)
    assert (len(world.do(rpc.LeaseLeasesRequest()).leases), world.keys(b"x/")) == (1, [held.key])


def test_an_unknown_lease_cannot_lock(world: ServiceWorld) -> None:
    """It is refused as a put with it is."""
    assert world.call(wants(99)) == (ErrorCode.LEASE_NOT_FOUND, None)


def test_who_gives_up_leaves_no_key_behind(world: ServiceWorld) -> None:
    """A client that is gone, and one whose time is over, are in nobody's way."""
    leases = [world.grant() for _ in range(4)]
    held = world.do(wants(leases[0]))
    gone, late = world.start(wants(leases[1])), world.start(wants(leases[2]), patience_ms=300)
    last = world.start(wants(leases[3]))
    world.cancel(gone)
    world.pass_time(299)
    assert world.waits(late)
    world.pass_time(200)
    assert world.answers[late] == (ErrorCode.DEADLINE_EXCEEDED, None)
    assert world.keys(b"x/") == [held.key, b"x/%x" % leases[3]]
    assert world.waits(last)
    world.do(lock.UnlockRequest(key=held.key))
    assert world.answers[last][0] is ErrorCode.OK
    assert gone not in world.answers


def test_who_gives_up_while_it_asks_leaves_no_key_either(world: ServiceWorld) -> None:
    """The question is on its way and will be carried out: what it did is undone then."""
    lease = world.grant()
    world.core.holding = True
    call = world.start(wants(lease))
    world.cancel(call)
    world.core.holding = False
    world.core.carry_out(world.now)
    world.run()
    assert (world.keys(b"x/"), world.core.conversations.open_flows) == ([], 0)


def test_a_waiter_whose_lease_ends_never_has_the_lock(world: ServiceWorld) -> None:
    """When its turn comes it has no key any more, and is told so; the next in line has the lock."""
    leases = [world.grant() for _ in range(3)]
    calls = [world.start(wants(lease)) for lease in leases]
    world.revoke(leases[1])
    assert world.answers.pop(calls[0])[0] is ErrorCode.OK
    world.revoke(leases[0])
    assert world.answers[calls[1]] == (ErrorCode.SESSION_EXPIRED, None)
    assert world.answers[calls[2]][0] is ErrorCode.OK
    assert world.keys(b"x/") == [b"x/%x" % leases[2]]


def test_a_key_that_was_made_anew_is_no_place_in_line(world: ServiceWorld) -> None:
    """The lease ends and is granted and locks again under the same id: the first call waits for the place it had."""
    first = world.grant()
    world.do(wants(first))
    world.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    old = world.start(wants(7))
    world.revoke(7)
    world.do(rpc.LeaseGrantRequest(ID=7, TTL=60))
    new = world.start(wants(7))
    world.revoke(first)
    assert world.answers[old] == (ErrorCode.SESSION_EXPIRED, None)
    assert world.answers[new][0] is ErrorCode.OK
    assert world.keys(b"x/") == [b"x/7"]


def test_a_change_of_leader_ends_no_wait_and_takes_no_place_twice(world: ServiceWorld) -> None:
    """Who waits goes on waiting; who was asking asks again, and finds what the first question did."""
    leases = [world.grant() for _ in range(3)]
    held = world.do(wants(leases[0]))
    waiting = world.start(wants(leases[1]))
    world.core.holding = True
    asking = world.start(wants(leases[2]))
    world.lead(2, 9)
    world.core.holding = False
    world.core.carry_out(world.now)
    world.run()
    world.lead(3, world.core.identity.member)
    assert world.keys(b"x/") == [b"x/%x" % lease for lease in leases]
    assert world.waits(waiting)
    assert world.waits(asking)
    world.do(lock.UnlockRequest(key=held.key))
    assert world.answers[waiting][0] is ErrorCode.OK
    world.revoke(leases[1])
    assert world.answers[asking][0] is ErrorCode.OK


def test_a_compaction_ends_no_wait(world: ServiceWorld) -> None:
    """Another applier runs; before it is followed, the unlock happens and is compacted: the present is looked at."""
    leases = [world.grant() for _ in range(2)]
    held = world.do(wants(leases[0]))
    call = world.start(wants(leases[1]))
    core = world.core
    core.holding = True
    core.handle(local.ActorStarted(actor="applier", incarnation=Incarnation(2)), Source("supervisor"), world.now)
    world.run()
    compact = rpc.CompactionRequest(revision=core.revision + 2)
    world.start(lock.UnlockRequest(key=held.key), rpc.PutRequest(key=b"other"), compact)
    core.held.sort(key=lambda message: isinstance(message, local.FollowEvents))
    assert isinstance(core.held[-1], local.FollowEvents)
    assert any(isinstance(message, local.ProposeBatch) for message in core.held)
    core.holding = False
    core.carry_out(world.now)
    world.run()
    assert world.answers[call][0] is ErrorCode.OK


def test_calls_that_wait_are_bounded() -> None:
    """By the watchers and by the streams of the node; who is refused has no place in line."""
    for world in (ServiceWorld(watchers_max=2), ServiceWorld(open_streams_max=2)):
        held = world.do(wants(world.grant()))
        leases = [world.grant() for _ in range(3)]
        calls = [world.start(wants(lease)) for lease in leases]
        assert [world.waits(call) for call in calls] == [True, True, False]
        assert world.answers[calls[2]] == (ErrorCode.TOO_MANY_REQUESTS, None)
        assert world.keys(b"x/") == [held.key, *(b"x/%x" % lease for lease in leases[:2])]


def test_a_node_that_stops_answers_those_who_wait(world: ServiceWorld) -> None:
    """They go elsewhere with the same lease."""
    world.do(wants(world.grant()))
    call = world.start(wants(world.grant()))
    world.core.handle(local.StopActor(), Source("supervisor"), world.now)
    world.run()
    assert world.answers[call] == (ErrorCode.STOPPED, None)


@pytest.mark.parametrize("seed", range(20))
def test_at_most_one_holds_a_lock_whatever_happens(seed: int) -> None:
    """Clients lock, give up, unlock and lose their leases in any order: the holder is the oldest key, or nobody is."""
    world, rng = ServiceWorld(), random.Random(seed)
    leases = [world.grant() for _ in range(6)]
    waiting: dict[int, int] = {}
    for _ in range(150):
        lease = rng.choice(leases)
        roll = rng.random()
        if roll < 0.5 and lease not in waiting:
            waiting[lease] = world.start(wants(lease))
        elif roll < 0.6 and lease in waiting and world.waits(waiting[lease]):
            world.cancel(waiting.pop(lease))
        elif roll < 0.85 and lease in waiting and not world.waits(waiting[lease]):
            world.do(lock.UnlockRequest(key=b"x/%x" % lease))
            del waiting[lease]
        elif roll < 0.95:
            world.revoke(lease)
            world.do(rpc.LeaseGrantRequest(ID=lease, TTL=60))
            if lease in waiting and not world.waits(waiting[lease]):
                del waiting[lease]
        for each in [each for each, call in waiting.items() if world.answers.get(call, (0,))[0]]:
            assert world.answers[waiting.pop(each)][0] is ErrorCode.SESSION_EXPIRED
        holders = [each for each, call in waiting.items() if not world.waits(call)]
        assert world.keys(b"x/")[:1] == [b"x/%x" % each for each in holders], "the oldest key holds the lock"


# --- elections -------------------------------------------------------------------------------------


def test_an_election_passes_from_leader_to_leader_and_is_observed(world: ServiceWorld) -> None:
    """Observers hear each leader and each value, in order; a former leader proclaims nothing."""
    observer = world.observe(b"e")
    first, second = world.grant(), world.grant()
    leader = world.do(campaign(first, b"one")).leader
    waiting = world.start(campaign(second, b"two"))
    assert (leader.name, leader.key, leader.lease) == (b"e", b"e/%x" % first, first)
    world.do(election.ProclaimRequest(leader=leader, value=b"one again"))
    assert world.do(election.LeaderRequest(name=b"e")).kv.value == b"one again"
    world.do(election.ResignRequest(leader=leader))
    assert world.answers[waiting][1].leader.key == b"e/%x" % second
    assert world.call(election.ProclaimRequest(leader=leader, value=b"mine")) == (ErrorCode.NOT_ELECTED, None)
    world.do(election.ResignRequest(leader=leader))
    world.revoke(second)
    assert world.call(election.LeaderRequest(name=b"e")) == (ErrorCode.NOBODY_ELECTED, None)
    third = world.grant()
    world.do(campaign(third, b"three"))
    told = world.told[observer]
    assert [response.kv.value for response in told] == [b"one", b"one again", b"two", b"three"]
    revisions = [response.header.revision for response in told]
    assert revisions == sorted(revisions)
    assert observer not in world.ended
    world.cancel(observer)
    assert (world.core.watches.watchers, world.core.conversations.open_flows) == (0, 0)


def test_a_candidate_that_campaigns_again_changes_its_value(world: ServiceWorld) -> None:
    """Its place in line stays."""
    lease = world.grant()
    first = world.do(campaign(lease, b"one"))
    again = world.do(campaign(lease, b"two"))
    assert again.leader == first.leader
    assert world.do(election.LeaderRequest(name=b"e")).kv.value == b"two"


def test_a_candidate_whose_lease_ends_while_it_waits_has_not_won(world: ServiceWorld) -> None:
    """Its key is gone when its turn would have come."""
    first, second = world.grant(), world.grant()
    world.do(campaign(first))
    waiting = world.start(campaign(second))
    world.revoke(second)
    world.revoke(first)
    assert world.answers[waiting] == (ErrorCode.NOT_ELECTED, None)


def test_a_candidate_that_gives_up_stands_no_more(world: ServiceWorld) -> None:
    """Nobody is ever led by a client that is gone."""
    first, second, third = (world.grant() for _ in range(3))
    leader = world.do(campaign(first)).leader
    gone, waiting = world.start(campaign(second)), world.start(campaign(third))
    world.cancel(gone)
    world.do(election.ResignRequest(leader=leader))
    assert world.answers[waiting][1].leader.lease == third


@pytest.mark.parametrize("request_type", [election.ProclaimRequest, election.ResignRequest])
def test_a_leader_key_must_be_given(world: ServiceWorld, request_type: type[election.ProclaimRequest]) -> None:
    """Without it nobody knows who speaks."""
    assert world.call(request_type()) == (ErrorCode.LEADER_KEY_MISSING, None)
