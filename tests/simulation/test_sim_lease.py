"""Leases in simulated clusters: no promise is cut short, fences hold, snapshots carry them, broken ones are told."""

from collections import Counter
from typing import Any

import pytest
from google.protobuf.message import Message

from protocol.config import ClusterConfig
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.mvcc_pb2 import KeyValue
from sim.clients import Call, SimClient
from sim.lease_checkers import LeaseChecker, LogTimes
from sim.lease_clients import GUARDED
from sim.lease_run import run_lease_seed
from sim.node import SimNode
from sim.parts import ProductionParts
from sim.replay import Replay
from sim.run import Options
from sim.trouble import SimulationFailed
from sim.weather import FAIR, draw_config
from sim.workload import RESPONSES, Request
from sim.world import World
from storage.lease import attached_keys, leases_from

SHORT = Options(nodes=3)
SEEDS = range(1, 9)


def test_leases_keep_their_promises_under_faults() -> None:
    """Leases run out, and are told of, as was promised; the late writes of owners that slept are refused."""
    met: Counter[str] = Counter()
    for seed in SEEDS:
        report = run_lease_seed(seed, SHORT)
        assert report.failure is None, f"{report.failure}\npython -m tools.simulate --leases --nodes 3 --seed {seed}"
        met.update(report.counts)
    assert met["lease_promises"] > 200
    assert met["lease_ran_out"] > 100
    assert met["lease_told_over"] > 3
    assert met["lease_fenced"] > 0


def test_one_seed_is_one_trace() -> None:
    """A run with leases repeats to the bit."""
    assert run_lease_seed(5, SHORT).digest == run_lease_seed(5, SHORT).digest


def test_writes_of_an_earlier_owner_after_a_later_one_are_noticed() -> None:
    """The rule of the fence fails for what it is there for."""
    world = _world()
    replay = Replay()
    checker = LeaseChecker(world, LogTimes(world), replay)
    for revision, token in ((2, 2), (3, 7), (4, 7), (5, 2)):
        pair = KeyValue(key=GUARDED, value=b"%d x" % token, mod_revision=revision)
        replay.model.past[revision] = {GUARDED: pair}
        if revision < 5:
            checker.check()
    with pytest.raises(SimulationFailed, match="the fence holds"):
        checker.check()


# --- a lock owner that sleeps ------------------------------------------------------------------------


class Asker(SimClient):
    """A client that asks what a test wants, of whom it wants."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number, world.rng(f"asker:{number}"))
        self._timeout_ms = 5_000
        self._wanted: Request | None = None
        self._answers: list[tuple[int, Any]] = []

    def ask(self, node: SimNode, method: str, message: Message) -> Any:
        """Ask until it is answered well; return the answer."""
        self._workload.next = lambda _seen: Request(method, message, message.SerializeToString(), writes=True)  # type: ignore[method-assign]
        self._answers, self._node, self.stopped = [], node, False
        self._later(0)
        assert self.world.run_until(self.world.now_us + 30_000_000, lambda: bool(self._answers)), f"{method}: no answer"
        self.stopped = True
        return self._answers[0]

    def _learn(self, call: Call, body: bytes) -> None:
        self._answers.append(RESPONSES[call.request.method].FromString(body))  # type: ignore[arg-type]

    def _go_elsewhere(self) -> None:
        self._later(50_000)

    def _pause_us(self) -> int:
        return 1_000_000_000


def _world(**raft: int) -> World:
    drawn = draw_config(1, 3, frozenset())
    config: ClusterConfig = drawn.model_copy(update={"raft": drawn.raft.model_copy(update=raft)})
    world = World(1, config, FAIR, ProductionParts(config), clients_max=0)
    world.clients = []
    return world


def _lock(lease: int) -> rpc.TxnRequest:
    free = rpc.Compare(key=b"lock", target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
    put = rpc.PutRequest(key=b"lock", value=b"%d" % lease, lease=lease)
    return rpc.TxnRequest(compare=[free], success=[rpc.RequestOp(request_put=put)])


def _write_under(token: int, value: bytes) -> rpc.TxnRequest:
    mine = rpc.Compare(key=b"lock", target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=token)
    return rpc.TxnRequest(
        compare=[mine], success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"guarded", value=value))]
    )


def test_a_lock_owner_that_wakes_up_too_late_writes_nothing() -> None:
    """Its lease ran out while it slept and another owns the lock: the token that it still holds opens nothing."""
    world = _world()
    for node in world.nodes:
        node.boot()
    first, second = Asker(world, 1), Asker(world, 2)
    node, other = world.nodes[0], world.nodes[1]
    first.ask(node, "grant", rpc.LeaseGrantRequest(ID=1, TTL=2))
    taken = first.ask(node, "txn", _lock(1))
    assert taken.succeeded
    token = taken.header.revision
    assert first.ask(node, "txn", _write_under(token, b"awake")).succeeded

    second.ask(other, "grant", rpc.LeaseGrantRequest(ID=2, TTL=60))
    assert not second.ask(other, "txn", _lock(2)).succeeded
    world.run_until(world.now_us + 5_000_000)  # the first owner sleeps
    later = second.ask(other, "txn", _lock(2))
    assert later.succeeded
    assert later.header.revision > token
    assert second.ask(other, "txn", _write_under(later.header.revision, b"second")).succeeded

    assert not first.ask(node, "txn", _write_under(token, b"late")).succeeded
    assert second.ask(other, "range", rpc.RangeRequest(key=b"guarded")).kvs[0].value == b"second"


# --- snapshots ---------------------------------------------------------------------------------------


def _leases_of(node: SimNode) -> dict[int, tuple[Any, list[bytes]]]:
    engine = node.processes["applier"].actor.store.engine  # type: ignore[attr-defined]
    return {lease: (record, attached_keys(engine, lease)) for lease, record in leases_from(engine, b"", 100)[0]}


def test_a_snapshot_carries_leases_to_a_follower_that_was_cut_off() -> None:
    """Ids, times and attached keys arrive; when it leads, the leases go on, and end in time with their keys."""
    world = _world(snapshot_count=3, catchup_entries=0)
    for node in world.nodes:
        node.boot()
    asker = Asker(world, 1)
    asker.ask(world.nodes[0], "put", rpc.PutRequest(key=b"before", value=b"1"))
    leader = world.leader()
    assert leader is not None
    behind = next(node for node in world.nodes if node is not leader)
    others = [node for node in world.nodes if node is not behind]
    links = [pair for node in others for pair in ((node.member, behind.member), (behind.member, node.member))]
    for sender, receiver in links:
        for bulk in (False, True):
            world.network.cut(sender, receiver, bulk=bulk)
    world.run_until(world.now_us + 3_000_000)  # nobody waits any more for one that is not heard
    for lease, ttl_s in ((11, 30), (12, 600), (13, 40)):
        asker.ask(leader, "grant", rpc.LeaseGrantRequest(ID=lease, TTL=ttl_s))
        asker.ask(leader, "put", rpc.PutRequest(key=b"a%d" % lease, value=b"v", lease=lease))
    asker.ask(leader, "put", rpc.PutRequest(key=b"moved", value=b"v", lease=12))
    asker.ask(leader, "revoke", rpc.LeaseRevokeRequest(ID=13))
    for number in range(20):
        asker.ask(leader, "put", rpc.PutRequest(key=b"more", value=b"%d" % number))
        world.run_until(world.now_us + 200_000)
    assert _leases_of(behind) == {}
    for sender, receiver in links:
        for bulk in (False, True):
            world.network.mend(sender, receiver, bulk=bulk)

    caught_up = world.run_until(world.now_us + 30_000_000, lambda: 11 in _stored(behind))
    assert caught_up
    assert world.counts["snapshot_receiver"] >= 1
    assert _leases_of(behind) == _leases_of(leader)
    assert _leases_of(behind)[12][1] == [b"a12", b"moved"]
    assert sorted(_leases_of(behind)) == [11, 12]

    while world.leader() is not behind:
        _elect_another(world, behind)
    left = asker.ask(behind, "time_to_live", rpc.LeaseTimeToLiveRequest(ID=12, keys=True))
    assert (left.grantedTTL, list(left.keys)) == (600, [b"a12", b"moved"])
    assert left.TTL >= 500
    world.run_until(world.now_us + 45_000_000)
    assert [sorted(_leases_of(node)) for node in world.nodes] == [[12]] * 3
    assert not asker.ask(behind, "range", rpc.RangeRequest(key=b"a11")).kvs


def _stored(node: SimNode) -> dict[int, Any]:
    applier = node.processes.get("applier")
    return {} if applier is None or applier.actor.store is None else _leases_of(node)  # type: ignore[attr-defined]


def _elect_another(world: World, heir: SimNode) -> None:
    """Cut the current of whoever leads and let the rest elect another; the heir has the better chance."""
    leader = world.leader()
    assert leader is not None
    leader.lose_power("test")
    third = next(node for node in world.nodes if node not in (leader, heir))
    third.pause("raft", 900_000)
    world.run_until(world.now_us + 6_000_000, lambda: world.leader() not in (None, leader))
    if not leader.powered:
        leader.boot()
    world.run_until(world.now_us + 3_000_000)
