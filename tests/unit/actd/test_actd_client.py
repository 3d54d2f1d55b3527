"""`Client` and `AsyncClient` against real doors: what users write, what they get, and what survives."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clusters import wait_until
from zmq_node import TIMEOUT_S, SoloNode

import actd
from actd import (
    AsyncClient,
    CallTimedOut,
    Client,
    ClientClosed,
    Delete,
    Get,
    KeyValue,
    Nested,
    Put,
    RequestRefused,
    TxnResult,
    calls,
    create_revision,
    mod_revision,
    session,
    value,
    version,
)
from actd.txn import TxnParts
from gateway import loop
from protocol.errors import ErrorCode
from protocol.types import ClusterId

ROOT = Path(actd.__file__).parent.parent


@pytest.fixture
def node() -> Iterator[SoloNode]:
    """A node that serves."""
    made = SoloNode().start()
    yield made
    made.close()


@pytest.fixture
def client(node: SoloNode) -> Iterator[Client]:
    """A client of the node."""
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[SoloNode, SoloNode]]:
    """Two nodes that know nothing of each other."""
    first, second = SoloNode("n1").start(), SoloNode("n2").start()
    yield first, second
    first.close()
    second.close()


# --- what users write ------------------------------------------------------------------------------


def test_put_and_get(client: Client) -> None:
    """Text and bytes are both keys; results are typed and say at which revision they were true."""
    assert client.put("greeting", "Hello").revision == 2
    assert client.put(b"greeting", b"\xff\x00", prev_kv=True).previous == KeyValue(
        key=b"greeting", value=b"Hello", create_revision=2, mod_revision=2, version=1
    )
    found = client.get("greeting")
    assert found is not None
    assert (found.value, found.version, found.create_revision, found.mod_revision) == (b"\xff\x00", 2, 2, 3)
    old = client.get("greeting", revision=2, serializable=True)
    assert old is not None
    assert old.text == "Hello"
    assert client.get("nobody") is None


def test_ranges_and_prefixes(client: Client) -> None:
    """Everything etcd's Range can do has a name."""
    for key in ("a/1", "a/2", "a/3", "b"):
        client.put(key, key.upper())
    found = client.get_prefix("a/", limit=2, order="descend")
    assert [pair.key for pair in found.pairs] == [b"a/3", b"a/2"]
    assert (found.more, found.count) == (True, 3)
    assert client.range("a/2", "b").count == 2
    assert [pair.value for pair in client.get_prefix("", keys_only=True).pairs] == [b""] * 4
    assert client.get_prefix("a/", count_only=True).pairs == ()
    assert [pair.key for pair in client.get_prefix("", sort_by="mod", order="descend", limit=1).pairs] == [b"b"]
    assert client.get_prefix("", min_mod_revision=4, max_mod_revision=4).pairs[0].key == b"a/3"


def test_deleting(client: Client) -> None:
    """The count, and the old pairs where they are asked for."""
    for key in ("a/1", "a/2", "b"):
        client.put(key, "x")
    gone = client.delete("b", prev_kv=True)
    assert (gone.deleted, [pair.key for pair in gone.previous]) == (1, [b"b"])
    assert client.delete("b").deleted == 0
    assert client.delete_prefix("a/").deleted == 2
    client.put("c", "x")
    assert client.delete_prefix("").deleted == 1


def test_transactions(client: Client) -> None:
    """Conditions choose a branch; each operation has its result, nested ones included."""
    client.put("k", "1")
    taken = (
        client.txn()
        .if_(value("k") == "1", version("k") > 0, create_revision("absent") == 0, mod_revision("k") != 99)
        .then(Put("k", "2", prev_kv=True), Get("k"), Delete("absent"))
        .else_(Get("k"))
        .commit()
    )
    assert isinstance(taken, TxnResult)
    assert taken.succeeded
    put, got, deleted = taken.results
    assert put.previous.value == b"1"  # type: ignore[union-attr]
    assert got.pairs[0].value == b"2"  # type: ignore[union-attr]
    assert deleted.deleted == 0  # type: ignore[union-attr]
    inner = TxnParts()
    other = client.txn().if_(value("k") == "1").else_(Get("k", limit=1), Nested(inner)).commit()
    assert not other.succeeded
    assert isinstance(other.results[1], TxnResult)


def test_compaction_status_hash_and_members(client: Client, node: SoloNode) -> None:
    """What operators ask for."""
    for number in range(5):
        client.put("k", str(number))
    client.compact(4)
    with pytest.raises(RequestRefused, match="required revision has been compacted") as raised:
        client.get("k", revision=2)
    assert raised.value.code == ErrorCode.COMPACTED
    status = client.status()
    assert (status.member_id, status.leader, status.errors) == (node.member, node.member, ())
    assert status.version.count(".") == 2
    assert client.hash_kv().hash_revision == 6
    assert client.hash_kv(5).compact_revision == 4
    assert [(member.id, member.name) for member in client.members()] == [(node.member, "n1")]
    assert client.members(linearizable=False) == client.members()


def test_errors_say_what_can_be_done_about_them(client: Client) -> None:
    """The text is etcd's, the number ours, and there is no false hope."""
    with pytest.raises(RequestRefused, match="etcdserver: key is not provided") as raised:
        client.put("", "x")
    error = raised.value
    assert (error.code, error.retryable, error.outcome_unknown) == (ErrorCode.EMPTY_KEY, False, False)
    with pytest.raises(RequestRefused, match="requested lease not found"):
        client.put("k", "x", lease=77)
    with pytest.raises(RequestRefused, match="request is too large"):
        client.put("k", b"x" * (3 << 20))
    assert client.put("k", "still here").revision == 2


def test_objects_describe_themselves(client: Client, node: SoloNode) -> None:
    """In a debugger or a log one sees where a client points and what a pair holds."""
    assert repr(client) == f"Client({node.endpoint}; open)"
    client.put("k", "v")
    assert repr(client.get("k")).startswith("KeyValue(key=b'k', value=b'v', create_revision=2")
    client.close()
    assert repr(client).endswith("closed)")


def test_results_are_what_validation_would_make_of_them(client: Client) -> None:
    """They are built past pydantic for speed, and must not differ from what it builds: equal, frozen, dumpable."""
    client.put("k", "v")
    put, found = client.put("k", "w", prev_kv=True), client.get_prefix("k")
    txn = client.txn().then(Put("k"), Get("k"), Delete("other")).commit()
    for result in (put, found, txn, found.pairs[0], client.delete("k"), client.compact(3)):
        again = type(result).model_validate(result.model_dump())
        assert (again, repr(again), hash(again)) == (result, repr(result), hash(result))
        with pytest.raises(ValueError, match="frozen"):
            setattr(result, next(iter(type(result).model_fields)), 1)


# --- many at once ----------------------------------------------------------------------------------


def test_a_pipeline_keeps_many_calls_open(client: Client, node: SoloNode) -> None:
    """Results come in the order in which calls were begun; at most so many are open at once."""
    with client.pipeline(calls_open_max=50) as pipeline:
        puts = [pipeline.put(f"k{number}", str(number)) for number in range(500)]
        last = pipeline.get("k499")
        pipeline.delete("k0")
    assert [future.result().revision for future in puts] == list(range(2, 502))
    found = last.result()
    assert found is not None
    assert found.text == "499"
    assert client.range("k", "l", count_only=True).count == 499
    assert len(node.core.asked) == 503


def test_a_pipeline_tells_of_its_first_failure_and_finishes_the_rest(client: Client) -> None:
    """An error does not leave calls behind unseen."""
    with client.pipeline(calls_open_max=3) as pipeline:
        pipeline.put("", "wrong")
        later = [pipeline.put(f"k{number}", "x") for number in range(20)]
        with pytest.raises(RequestRefused, match="key is not provided"):
            pipeline.wait()
    assert all(future.done() for future in later)
    assert client.get_prefix("k").count == 20


def test_threads_share_a_client(client: Client) -> None:
    """Their calls travel together over one socket."""
    with ThreadPoolExecutor(16) as pool:
        revisions = list(pool.map(lambda number: client.put(f"k{number}", "x").revision, range(400)))
    assert sorted(revisions) == list(range(2, 402))


def test_a_submitted_call_is_a_future(client: Client, node: SoloNode) -> None:
    """It can be waited for, with a time limit, or given up."""
    node.hold()
    future = client.submit(calls.put("k", "v"))
    with pytest.raises(TimeoutError):
        future.result(0.05)
    given_up = client.submit(calls.put("l", "v"))
    assert given_up.cancel()
    node.await_asked(2)
    node.release()
    assert future.result(TIMEOUT_S).revision == 2


# --- time-outs and closing -------------------------------------------------------------------------


def test_a_call_ends_at_its_own_deadline(client: Client, node: SoloNode) -> None:
    """A write that was sent is unknown; a read is not."""
    node.hold()
    with pytest.raises(CallTimedOut) as raised:
        client.put("k", "v", timeout_s=0.3)
    assert raised.value.outcome_unknown
    with pytest.raises(CallTimedOut) as raised:
        client.get("k", timeout_s=0.3)
    assert not raised.value.outcome_unknown
    with pytest.raises(CallTimedOut) as raised:
        client.put("k", "v", timeout_s=0.0)
    assert not raised.value.outcome_unknown
    node.release()
    assert client.status().member_id == node.member


def test_nobody_there_is_a_timeout_with_nothing_done() -> None:
    """The error names the address."""
    node = SoloNode()
    with Client(node.endpoint, timeout_s=0.2) as client, pytest.raises(CallTimedOut, match=node.address) as raised:
        client.put("k", "v")
    assert not raised.value.outcome_unknown
    node.close()


def test_closing_ends_open_calls(node: SoloNode) -> None:
    """From another thread, or from within a callback; afterwards nothing begins."""
    client = Client(node.endpoint, timeout_s=TIMEOUT_S)
    node.hold()
    future = client.submit(calls.put("k", "v"))
    node.await_asked(1)
    client.close()
    with pytest.raises(ClientClosed) as raised:
        future.result(TIMEOUT_S)
    assert raised.value.outcome_unknown
    with pytest.raises(ClientClosed):
        client.get("k")
    client.close()
    node.release()
    other = Client(node.endpoint, timeout_s=TIMEOUT_S)
    closed = threading.Event()

    def close_it(_future: Any) -> None:
        other.close()
        closed.set()

    other.submit(calls.get("k")).add_done_callback(close_it)
    assert closed.wait(TIMEOUT_S)
    with pytest.raises(ClientClosed):
        other.get("k")


def test_a_client_without_an_endpoint_is_refused() -> None:
    """At once, not at the first call."""
    with pytest.raises(ValueError, match="at least one endpoint"):
        Client([])
    with pytest.raises(ValueError, match="at least one endpoint"):
        AsyncClient([])


def test_a_program_that_forgets_to_close_ends_all_the_same(node: SoloNode) -> None:
    """The thread is a daemon and the socket does not linger."""
    program = f"from actd import Client; c = Client({node.endpoint!r}); print(c.put('k', 'v').revision)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_a_client_works_on_both_sides_of_a_fork(node: SoloNode) -> None:
    """The child gets a socket and a thread of its own; the parent's calls are not disturbed."""
    program = f"""
import os
from actd import Client, calls
client = Client({node.endpoint!r}, timeout_s=10)
client.put("before", "x")
open_call = client.submit(calls.get_prefix(""))
child = os.fork()
if child == 0:
    for number in range(100):
        client.put(f"child{{number}}", "x")
    client.close()
    os._exit(7)
for number in range(100):
    client.put(f"parent{{number}}", "x")
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status), open_call.result().count, client.get_prefix("").count)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    code, before, after = done.stdout.split()
    assert (code, after) == ("7", "201")
    assert int(before) >= 1


# --- failover --------------------------------------------------------------------------------------


def test_a_restarted_node_is_found_again(client: Client, node: SoloNode) -> None:
    """The next write after a restart is simply done, once."""
    client.put("k", "1")
    node.kill()
    node.start()
    assert client.put("k", "2").revision == 3
    assert client.status().raft_applied_index == 2


def test_when_a_node_dies_reads_go_on_elsewhere_and_writes_say_that_they_are_unknown(
    pair: tuple[SoloNode, SoloNode],
) -> None:
    """A read may be asked twice; a write that was sent may have happened."""
    first, second = pair
    with Client([first.endpoint, second.endpoint], timeout_s=TIMEOUT_S) as client:
        assert client.status().member_id == first.member
        first.hold()
        write, read = client.submit(calls.put("k", "v")), client.submit(calls.get("k"))
        first.await_asked(3)
        first.kill()
        with pytest.raises(actd.Unavailable) as raised:
            write.result(TIMEOUT_S)
        assert raised.value.outcome_unknown
        assert read.result(TIMEOUT_S) is None
        assert client.status().member_id == second.member


def test_a_draining_node_hands_its_clients_over_without_an_error(
    pair: tuple[SoloNode, SoloNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops a node in the orderly way is not noticed: no call fails, reads or writes, and order is kept."""
    # However slow this machine is: the open call is answered before anybody stops waiting for it.
    monkeypatch.setattr(session, "LEAVE_S", TIMEOUT_S)
    monkeypatch.setattr(loop, "DRAIN_MS_MAX", TIMEOUT_S * 1000)
    first, second = pair
    with Client([first.endpoint, second.endpoint], timeout_s=TIMEOUT_S) as client:
        client.put("k", "v")
        first.hold()
        open_write = client.submit(calls.put("open", "v"))
        first.await_asked(2)
        first.drain()
        wait_until(lambda: first.loop.stopping, TIMEOUT_S, "it is stopping")
        late = [client.submit(calls.put(f"late{number}", "v")) for number in range(20)]
        first.release()
        assert open_write.result(TIMEOUT_S).revision == 3
        assert [future.result(TIMEOUT_S).revision for future in late] == list(range(2, 22))
        assert client.status().member_id == second.member


def test_a_node_of_another_cluster_is_passed_over(pair: tuple[SoloNode, SoloNode]) -> None:
    """The client serves itself where it belongs; where it belongs nowhere it is told so."""
    first, second = pair
    first.kill()
    first.cluster = ClusterId(second.cluster + 1)
    first.start()
    with Client([first.endpoint, second.endpoint], cluster=second.cluster, timeout_s=TIMEOUT_S) as client:
        assert client.status().member_id == second.member
    with (
        Client(first.endpoint, cluster=second.cluster, timeout_s=TIMEOUT_S) as client,
        pytest.raises(actd.ProtocolFault, match="you look for cluster c1"),
    ):
        client.get("k")


def test_doors_are_learnt_from_the_first_that_answers() -> None:
    """One address is enough to survive the loss of that node."""
    second = SoloNode("n2").start()
    first = SoloNode("n1", second.address).start()
    try:
        with Client(first.endpoint, timeout_s=TIMEOUT_S) as client:
            assert client.status().member_id == first.member
            first.kill()
            wait_until(lambda: client.status().member_id == second.member, TIMEOUT_S, "the other serves")
    finally:
        first.close()
        second.close()


def test_a_refusal_that_is_certain_is_tried_again(client: Client, node: SoloNode) -> None:
    """The caller does not even notice; a write is done exactly once."""
    refusals = [ErrorCode.TOO_MANY_REQUESTS, ErrorCode.NO_LEADER]
    node.on_loop(lambda: node.core.refusals.extend(refusals))
    assert client.put("k", "v").revision == 2
    assert node.core.asked == ["Put"] * 3


def test_an_uncertain_refusal_of_a_write_is_told(client: Client, node: SoloNode) -> None:
    """Reads are asked again."""
    node.on_loop(lambda: node.core.refusals.append(ErrorCode.LEADER_CHANGED))
    with pytest.raises(actd.Unavailable, match="etcdserver: leader changed") as raised:
        client.put("k", "v")
    assert raised.value.outcome_unknown
    node.on_loop(lambda: node.core.refusals.append(ErrorCode.LEADER_CHANGED))
    assert client.get("k") is None


def test_large_answers_keep_coming(client: Client) -> None:
    """The client gives credit back, so that any amount may be read."""
    for number in range(8):
        client.put(f"k{number}", b"x" * 1_000_000)
    total = 0
    with client.pipeline() as pipeline:
        reads = [pipeline.get(f"k{number % 8}") for number in range(60)]
    for read in reads:
        pair = read.result()
        assert pair is not None
        total += len(pair.value)
    assert total == 60_000_000


# --- asyncio ---------------------------------------------------------------------------------------


def run(coroutine: Any) -> Any:
    """Run a coroutine to its end."""
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))


def test_the_asyncio_client_does_the_same(node: SoloNode) -> None:
    """Every call can be awaited, and many at once."""

    async def scenario() -> None:
        async with AsyncClient(node.endpoint) as client:
            assert repr(client).startswith(f"AsyncClient({node.endpoint}")
            results = await asyncio.gather(*(client.put(f"k{number:03}", str(number)) for number in range(300)))
            assert [result.revision for result in results] == list(range(2, 302))
            found = await client.get("k007")
            assert found is not None
            assert found.text == "7"
            assert (await client.get_prefix("k", limit=10)).count == 300
            assert (await client.range("k000", "k010", count_only=True)).count == 10
            done = await client.txn().if_(version("k000") == 1).then(Put("k000", "again"), Get("k001")).commit()
            assert done.succeeded
            assert (await client.delete("k000", prev_kv=True)).previous[0].value == b"again"
            assert (await client.delete_prefix("k")).deleted == 299
            await client.compact(302)
            assert (await client.status()).member_id == node.member
            assert (await client.hash_kv()).revision == (await client.status()).revision
            assert len(await client.members()) == 1
            with pytest.raises(RequestRefused, match="key is not provided"):
                await client.put("", "x")
        with pytest.raises(ClientClosed):
            await client.get("k")

    run(scenario())


def test_asyncio_calls_end_at_their_deadline_and_can_be_cancelled(node: SoloNode) -> None:
    """A short deadline is not kept waiting by a longer one; a cancelled task leaves nothing behind."""
    node.hold()

    async def scenario() -> None:
        async with AsyncClient(node.endpoint) as client:
            slow = asyncio.ensure_future(client.put("slow", "x"))
            await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
            with pytest.raises(CallTimedOut):
                await client.put("k", "v", timeout_s=0.2)
            assert asyncio.get_running_loop().time() - began < 5.0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get("k"), 0.05)
            await asyncio.to_thread(node.release)
            assert (await slow).revision == 2
            with pytest.raises(CallTimedOut):
                await client.put("k", "v", timeout_s=0.0)

    run(scenario())


def test_the_asyncio_client_goes_to_the_next_door(pair: tuple[SoloNode, SoloNode]) -> None:
    """A dead node is left behind."""
    first, second = pair

    async def scenario() -> None:
        async with AsyncClient([first.endpoint, second.endpoint], timeout_s=TIMEOUT_S) as client:
            assert (await client.status()).member_id == first.member
            await asyncio.to_thread(first.kill)
            assert (await client.status()).member_id == second.member

    run(scenario())


def test_an_asyncio_client_does_not_cross_a_fork(node: SoloNode) -> None:
    """Its loop belongs to the parent: the child is told to make its own."""
    client = AsyncClient(node.endpoint)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.submit(calls.get("k"))
        except ClientClosed as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"one per process" in os.read(read, 200)
    os.close(read)
    os.close(write)
