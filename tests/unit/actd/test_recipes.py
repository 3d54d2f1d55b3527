"""Recipes of both clients over a real door and store: contention, lost leases, and what is left behind."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from clusters import wait_until
from zmq_node import TIMEOUT_S, SoloNode

from actd import AsyncClient, CallTimedOut, Client, LeaseLost, Put
from actd.recipes import (
    AsyncBarrier,
    AsyncDoubleBarrier,
    AsyncElection,
    AsyncLock,
    AsyncMemory,
    AsyncPriorityQueue,
    AsyncQueue,
    AsyncSemaphore,
    Barrier,
    DoubleBarrier,
    Election,
    Lock,
    Memory,
    NotHeld,
    PriorityQueue,
    Queue,
    Semaphore,
    transact,
    transact_async,
)
from actd.results import KeyValue

TTL_S = 60


@pytest.fixture(scope="module")
def node() -> Iterator[SoloNode]:
    """A node that serves; tests use names of their own."""
    made = SoloNode().start()
    yield made
    made.close()


@pytest.fixture
def client(node: SoloNode) -> Iterator[Client]:
    """A client of the node."""
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made


def together(node: SoloNode, count: int, work: Callable[[Client, int], object]) -> list[object]:
    """Have so many threads, each with a client of its own, do something at once; return what each returned."""

    def one(number: int) -> object:
        with Client(node.endpoint, timeout_s=TIMEOUT_S) as own:
            return work(own, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def waits(client: Client, name: str, count: int) -> bool:
    """Whether so many stand in a line."""
    return client.get_prefix(f"{name}/").count == count


# --- locks -----------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_its_tokens_grow(node: SoloNode, client: Client) -> None:
    """Many clients each add to a number in two steps that would lose additions without the lock."""
    client.put("sum", "0")

    def add(own: Client, _number: int) -> list[int]:
        tokens = []
        for _ in range(4):
            with Lock(own, "adding", ttl_s=TTL_S) as lock:
                found = own.get("sum")
                assert found is not None
                own.put("sum", str(int(found.value) + 1))
                last = own.get("last token")
                assert last is None or int(last.value) < lock.token
                own.put("last token", str(lock.token))
                tokens.append(lock.token)
        return tokens

    tokens = [token for mine in together(node, 6, add) if isinstance(mine, list) for token in mine]
    found = client.get("sum")
    assert found is not None
    assert int(found.value) == len(tokens) == len(set(tokens)) == 24
    assert waits(client, "adding", 0)


def test_a_lock_whose_lease_is_lost_says_so_and_fences_its_holder(client: Client) -> None:
    """The next holder has it; what the former does under the condition of its token does not happen."""
    former, next_one = Lock(client, "lost", ttl_s=2), Lock(client, "lost", ttl_s=TTL_S)
    former.acquire()
    assert not former.lost
    assert client.txn().if_(former.held()).then(Put("guarded", "former")).commit().succeeded
    client.lease_revoke(former.lease.id)
    next_one.acquire()
    assert next_one.token > former.token
    assert not client.txn().if_(former.held()).then(Put("guarded", "too late")).commit().succeeded
    assert client.txn().if_(next_one.held()).then(Put("guarded", "next")).commit().succeeded
    assert former.lease.lost.wait(TIMEOUT_S)
    assert former.lost
    with pytest.raises(LeaseLost):
        former.check()
    assert former.release() is False
    assert next_one.release() is True


def test_who_waits_for_a_lock_no_longer_leaves_no_key(client: Client) -> None:
    """Its time is over, or its lease is lost: it is in nobody's way."""
    with Lock(client, "kept", ttl_s=TTL_S):
        late = Lock(client, "kept", ttl_s=TTL_S)
        with pytest.raises(CallTimedOut):
            late.acquire(timeout_s=0.2)
        assert waits(client, "kept", 1)
        losing = Lock(client, "kept", ttl_s=2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(losing.acquire)
            wait_until(lambda: waits(client, "kept", 2), TIMEOUT_S)
            client.lease_revoke(losing.lease.id)
            with pytest.raises(LeaseLost):
                waiting.result(TIMEOUT_S)
        assert (late.lost, late.token, losing.token) == (True, 0, 0)
    late.acquire(timeout_s=TIMEOUT_S)
    late.release()
    with pytest.raises(NotHeld):
        late.held()


def test_a_semaphore_has_so_many_holders_and_never_more(node: SoloNode) -> None:
    """Eight want three places: all get one in the end, and three are inside at once at some time."""
    inside: list[int] = []
    most = [0]
    guard = threading.Lock()
    three = threading.Barrier(3)

    def enter(own: Client, number: int) -> None:
        with Semaphore(own, "places", 3, ttl_s=TTL_S):
            with guard:
                inside.append(number)
                most[0] = max(most[0], len(inside))
            if number < 3:
                with contextlib.suppress(threading.BrokenBarrierError):
                    three.wait(1)
            with guard:
                inside.remove(number)

    together(node, 8, enter)
    assert 2 <= most[0] <= 3


# --- elections -------------------------------------------------------------------------------------


def test_leaders_follow_each_other_and_are_observed(client: Client) -> None:
    """Every leader and every value is told, in order; a former leader proclaims nothing."""
    told: list[KeyValue] = []
    watching = Election(client, "office")
    observer = threading.Thread(target=lambda: told.extend(watching.observe(timeout_s=3.0)))
    observer.start()
    first, second = (Election(client, "office", ttl_s=TTL_S) for _ in range(2))
    first.campaign("one")
    wait_until(lambda: len(told) == 1, TIMEOUT_S)
    first.proclaim("one again")
    with ThreadPoolExecutor(1) as pool:
        elected = pool.submit(second.campaign, "two")
        wait_until(lambda: waits(client, "office", 2), TIMEOUT_S)
        leader = watching.leader()
        assert leader is not None
        assert (leader.value, leader.create_revision) == (b"one again", first.token)
        wait_until(lambda: len(told) == 2, TIMEOUT_S)
        client.lease_revoke(first.lease.id)
        assert elected.result(TIMEOUT_S) > first.token
    with pytest.raises(NotHeld):
        first.proclaim("mine")
    assert first.resign() is False
    wait_until(lambda: len(told) == 3, TIMEOUT_S)
    assert second.resign() is True
    assert watching.leader() is None
    observer.join(TIMEOUT_S)
    assert [pair.value for pair in told] == [b"one", b"one again", b"two"]


# --- barriers --------------------------------------------------------------------------------------


def test_a_barrier_holds_everybody_until_it_is_released(node: SoloNode, client: Client) -> None:
    """Or until the lease ends that it hangs on."""
    barrier = Barrier(client, "gate")
    for open_it in (lambda _lease: barrier.release(), client.lease_revoke):
        lease = client.lease_grant(TTL_S).lease
        assert barrier.hold(lease) is True
        assert barrier.hold() is False
        with pytest.raises(CallTimedOut):
            barrier.wait(timeout_s=0.1)
        with ThreadPoolExecutor(1) as pool:
            passed = pool.submit(together, node, 3, lambda own, _n: Barrier(own, "gate").wait(timeout_s=TIMEOUT_S))
            open_it(lease)
            assert len(passed.result(TIMEOUT_S)) == 3
    assert barrier.release() is False


def test_a_double_barrier_begins_and_ends_rounds_together(node: SoloNode) -> None:
    """Nobody is in a round before all have come, nor in the next before all have left; five rounds."""
    guard = threading.Lock()
    inside = [0] * 5
    left = [0] * 5

    def take_part(own: Client, _number: int) -> None:
        barrier = DoubleBarrier(own, "rounds", 4, ttl_s=TTL_S)
        for number in range(5):
            barrier.enter(timeout_s=TIMEOUT_S)
            with guard:
                inside[number] += 1
                assert number == 0 or left[number - 1] == 4
            barrier.leave(timeout_s=TIMEOUT_S)
            with guard:
                assert inside[number] == 4, "all have been inside before anybody is out"
                left[number] += 1

    together(node, 4, take_part)
    assert inside == left == [4] * 5


def test_who_gives_up_a_double_barrier_does_not_count(node: SoloNode, client: Client) -> None:
    """Two are needed: one that gave up and one that came later are not two."""
    early = DoubleBarrier(client, "pair", 2, ttl_s=TTL_S)
    with pytest.raises(CallTimedOut):
        early.enter(timeout_s=0.2)
    with pytest.raises(CallTimedOut):
        DoubleBarrier(client, "pair", 2, ttl_s=TTL_S).enter(timeout_s=0.2)
    together(node, 2, lambda own, _n: DoubleBarrier(own, "pair", 2, ttl_s=TTL_S).enter(timeout_s=TIMEOUT_S))


# --- queues ----------------------------------------------------------------------------------------


def test_a_queue_hands_each_element_to_one_consumer_in_order(node: SoloNode, client: Client) -> None:
    """Four consumers empty it while it is filled; each hears its elements in the order in which they came."""
    count = 40

    def consume(own: Client, _number: int) -> list[tuple[int, bytes]]:
        taken = []
        while True:
            element = Queue(own, "work").dequeue(timeout_s=TIMEOUT_S)
            if element.value == b"end":
                return taken
            taken.append((element.enqueued_at, element.value))

    with ThreadPoolExecutor(1) as pool:
        consuming = pool.submit(together, node, 4, consume)
        queue = Queue(client, "work")
        revisions = [queue.enqueue(str(number)) for number in range(count)]
        for _ in range(4):
            queue.enqueue("end")
        taken = [mine for mine in consuming.result(60) if isinstance(mine, list)]
    assert revisions == sorted(revisions)
    assert all(mine == sorted(mine) for mine in taken)
    assert sorted(int(value) for mine in taken for _, value in mine) == list(range(count))
    assert queue.try_dequeue() is None


def test_a_priority_queue_takes_the_smallest_and_of_equals_the_oldest(client: Client) -> None:
    """Whatever the order in which they came."""
    queue = PriorityQueue(client, "urgent")
    elements = [(priority, place) for place, priority in enumerate((3, 1, 2, 1, 65535, 0, 3, 1))]
    for priority, place in elements:
        queue.enqueue(str(place), priority)
    taken = []
    while (element := queue.try_dequeue()) is not None:
        taken.append((element.priority, int(element.value)))
    assert taken == sorted(elements)
    with pytest.raises(ValueError, match="65535"):
        queue.enqueue("x", 65536)


# --- transactional memory --------------------------------------------------------------------------


def test_transfers_never_make_or_lose_money(node: SoloNode, client: Client) -> None:
    """Four clients move money between five accounts at once: the sum stays, whoever looks."""
    accounts = [f"account {number}" for number in range(5)]
    for account in accounts:
        client.put(account, "100")

    def move(own: Client, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(12):
            source, target = rng.sample(accounts, 2)

            def transfer(memory: Memory, source: str = source, target: str = target) -> None:
                memory.put(source, str(int(memory.get(source) or b"0") - 7))
                memory.put(target, str(int(memory.get(target) or b"0") + 7))

            transact(own, transfer)
            total = transact(own, lambda memory: sum(int(memory.get(account) or b"0") for account in accounts))
            assert total == 500

    together(node, 4, move)


def test_a_transaction_sees_its_own_writes_and_one_revision(client: Client) -> None:
    """What others write meanwhile is not seen, and makes it run again."""
    client.put("a", "1")
    client.delete("c")
    runs: list[object] = []

    def function(memory: Memory) -> None:
        runs.append(memory.get("a"))
        if len(runs) == 1:
            client.put("a", "2")
            client.put("b", "2")
        runs.append(memory.get("b"))
        memory.put("c", "3")
        assert memory.get("c") == b"3"
        memory.delete("a")
        assert memory.get("a") is None

    client.delete("b")
    transact(client, function)
    assert runs == [b"1", None, b"2", b"2"]
    assert (client.get("a"), client.get("c") is not None) == (None, True)


def test_what_is_written_unread_conflicts_only_where_that_is_wanted(client: Client) -> None:
    """`serializable_snapshot` minds it, `serializable` does not."""
    for isolation, expected in (("serializable_snapshot", 2), ("serializable", 1)):
        runs = [0]

        def function(memory: Memory, runs: list[int] = runs) -> None:
            memory.get("other")
            memory.put("blind", "mine")
            runs[0] += 1
            if runs[0] == 1:
                client.put("blind", "theirs")

        transact(client, function, isolation=isolation)  # type: ignore[arg-type]
        assert runs == [expected]


# --- asyncio ---------------------------------------------------------------------------------------


def test_the_same_recipes_on_a_loop(node: SoloNode) -> None:
    """Every one of them, with contention."""

    async def everything() -> None:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as client:
            await asyncio.gather(_locks(client), _elections(client), _barriers(client), _queues(client), _stm(client))

    asyncio.run(asyncio.wait_for(everything(), 60))


async def _locks(client: AsyncClient) -> None:
    inside, most = [0, 0], [0, 0]

    async def enter(place: int, lock: AsyncLock) -> int:
        async with lock:
            inside[place] += 1
            most[place] = max(most[place], inside[place])
            await client.put(f"async {place}")
            inside[place] -= 1
            return lock.token

    tokens = await asyncio.gather(
        *(enter(0, AsyncLock(client, "async lock", ttl_s=TTL_S)) for _ in range(6)),
        *(enter(1, AsyncSemaphore(client, "async places", 2, ttl_s=TTL_S)) for _ in range(6)),
    )
    assert most[0] == 1
    assert 1 <= most[1] <= 2
    assert len(set(tokens)) == 12
    async with AsyncLock(client, "async lost", ttl_s=2) as held:
        late = AsyncLock(client, "async lost", ttl_s=TTL_S)
        with pytest.raises(CallTimedOut):
            await late.acquire(timeout_s=0.1)
        waiting = asyncio.ensure_future(late.acquire())
        await client.lease_revoke(held.lease.id)
        assert await waiting > held.token
        await held.lease.lost.wait()
        assert held.lost
    await late.release()


async def _elections(client: AsyncClient) -> None:
    election = AsyncElection(client, "async office", ttl_s=TTL_S)
    await election.campaign("one")
    heard = election.observe()
    assert (await anext(heard)).value == b"one"
    await election.proclaim("two")
    assert (await anext(heard)).value == b"two"
    assert await election.resign()
    assert await election.leader() is None


async def _barriers(client: AsyncClient) -> None:
    gate = AsyncBarrier(client, "async gate")
    assert await gate.hold()
    waiting = asyncio.ensure_future(gate.wait())
    assert await gate.release()
    await waiting

    async def take_part() -> None:
        barrier = AsyncDoubleBarrier(client, "async rounds", 3, ttl_s=TTL_S)
        for _ in range(3):
            await barrier.enter(timeout_s=TIMEOUT_S)
            await barrier.leave(timeout_s=TIMEOUT_S)

    await asyncio.gather(*(take_part() for _ in range(3)))


async def _queues(client: AsyncClient) -> None:
    queue, urgent = AsyncQueue(client, "async work"), AsyncPriorityQueue(client, "async urgent")
    waiting = asyncio.ensure_future(queue.dequeue(timeout_s=TIMEOUT_S))
    await queue.enqueue("one")
    assert (await waiting).value == b"one"
    assert await queue.try_dequeue() is None
    for priority in (2, 1):
        await urgent.enqueue(str(priority), priority)
    assert [(await urgent.dequeue()).priority for _ in range(2)] == [1, 2]


async def _stm(client: AsyncClient) -> None:
    async def add(memory: AsyncMemory) -> None:
        memory.put("async sum", str(int(await memory.get("async sum") or b"0") + 1))

    await asyncio.gather(*(transact_async(client, add) for _ in range(8)))
    found = await client.get("async sum")
    assert found is not None
    assert found.value == b"8"
