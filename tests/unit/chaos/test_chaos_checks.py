"""Each check is awake: a good history passes, and one with the fault it is there for does not."""

from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from histories import MadeUp, listing, pair, put_answer, txn_answer

from chaos.judge import linearizability
from chaos.requests import delete, get, if_revision, if_value, put, scan, txn
from chaos.revisions import RevisionChecker
from chaos.workloads import WORKLOADS
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc


def faults(workload: str, made: MadeUp) -> str:
    """What the workload's own check says."""
    return "\n".join(WORKLOADS[workload]().check(made.records))


def revision_faults(made: MadeUp) -> str:
    """What revisions alone say."""
    return "\n".join(RevisionChecker(made.records).check())


# --- revisions -------------------------------------------------------------------------------------


def test_good_revisions_pass() -> None:
    """Puts, a delete, reads of now and of then, and an unknown write that a read shows."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(2))
    made.call(get("a"), listing(2, pair("a", "1", 2)))
    made.call(put("b", "2"), None, "unknown")
    made.call(scan("b"), listing(3, pair("b", "2", 3)))
    made.call(delete("a"), rpc.DeleteRangeResponse(header={"revision": 4}, deleted=1))
    made.call(get("a"), listing(4))
    made.call(scan("a", revision=2), listing(4, pair("a", "1", 2)))
    assert revision_faults(made) == ""


def test_two_writes_of_one_revision() -> None:
    """A revision belongs to one write."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(2))
    made.call(put("b", "1"), put_answer(2))
    assert "two writes at revision 2" in revision_faults(made)


def test_a_read_after_a_newer_answer() -> None:
    """A read that began after a write was answered has its revision at least."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(5))
    made.call(get("b"), listing(4))
    assert "revision 4 after 5" in revision_faults(made)


def test_a_serializable_read_may_be_old() -> None:
    """It need not be of now, but must be of some time."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(5))
    old = get("a")
    old.serializable = True
    made.call(old, listing(4))
    assert revision_faults(made) == ""
    made.call(old, listing(5))
    assert "is missing" in revision_faults(made)


def test_a_lost_write() -> None:
    """An acknowledged write is in every later listing."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(2))
    made.call(put("a", "2"), put_answer(3))
    made.call(get("a"), listing(3, pair("a", "1", 2)))
    assert "of revision 2, although" in revision_faults(made)


def test_two_values_of_one_revision() -> None:
    """Two readers of one revision of a key see one value."""
    made = MadeUp("x")
    made.call(get("a"), listing(3, pair("a", "1", 2)))
    made.call(get("a"), listing(3, pair("a", "2", 2)))
    assert "another of its revision" in revision_faults(made)


def test_a_read_of_the_future() -> None:
    """No pair is newer than the listing it is in."""
    made = MadeUp("x")
    made.call(get("a"), listing(3, pair("a", "1", 4)))
    assert "of revision 4 in a listing of revision 3" in revision_faults(made)


def test_another_value_than_was_written() -> None:
    """A read of a revision shows what the write of that revision wrote."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(2))
    made.call(get("a"), listing(2, pair("a", "other", 2)))
    assert "was acknowledged, but read was" in revision_faults(made)


def test_the_search_judges_the_whole_history() -> None:
    """What no revision alone shows: a swap that found a value which was never there."""
    made = MadeUp("x")
    made.call(put("a", "1"), put_answer(2))
    made.call(txn([if_value("a", "1")], [put("a", "2")]), txn_answer(3, put_answer(3)))
    assert linearizability(made.history).passed
    made.call(txn([if_value("a", "1")], [put("a", "3")]), txn_answer(4, put_answer(4)))
    assert revision_faults(made) == ""
    judgement = linearizability(made.history)
    assert not judgement.passed
    assert judgement.contradiction is not None
    assert len(judgement.contradiction.numbers) <= 3, "the shortest contradiction is told"
    assert "not linearizable" in judgement.text()


# --- workloads -------------------------------------------------------------------------------------


def swap(old: str, new: str) -> rpc.TxnRequest:
    """A compare-and-swap of a register."""
    return txn([if_value("register/0", old)], [put("register/0", new)], [get("register/0")])


def register(*, between: bool) -> MadeUp:
    """A swap, with or without another write between what it compared with and itself."""
    made = MadeUp("register")
    made.call(put("register/0", "a"), put_answer(2))
    if between:
        made.call(put("register/0", "b"), put_answer(3))
    made.call(swap("a", "c"), txn_answer(4, put_answer(4)), old="a")
    return made


def appended(*states: str) -> MadeUp:
    """A list that is read in these states, one a revision."""
    made = MadeUp("append")
    for revision, state in enumerate(states, 2):
        made.call(get("append/0"), listing(revision, pair("append/0", state, revision)))
    return made


def added(*listed: str) -> MadeUp:
    """A set with x added, y refused and z unknown, and then a listing."""
    made = MadeUp("set")
    for revision, (element, outcome) in enumerate((("x", "ok"), ("y", "failed"), ("z", "unknown")), 2):
        answer = put_answer(revision) if outcome == "ok" else None
        made.call(put(f"set/0/{element}", element), answer, outcome, set="set/0/", element=element)  # type: ignore[arg-type]
    pairs = [pair(f"set/0/{element}", element, 2) for element in listed]
    made.call(scan("set/0/"), listing(4, *pairs), set="set/0/")
    return made


def ring(*following: int) -> MadeUp:
    """A ring with these successors, looked at."""
    made = MadeUp("ring")
    pairs = [pair(f"ring/{at}", str(to), 2) for at, to in enumerate(following)]
    made.call(scan("ring/"), listing(2, *pairs))
    return made


def bank(*balances: int) -> MadeUp:
    """A bank, added up."""
    made = MadeUp("bank")
    made.call(scan("bank/"), listing(2, *(pair(f"bank/{at}", str(held), 2) for at, held in enumerate(balances))))
    return made


def pages(second: str, count: int = 2) -> MadeUp:
    """A listing in two pages, and at once."""
    made = MadeUp("pages")
    first = pair("pages/1", "v", 2)
    made.call(scan("pages/", limit=1), listing(5, first, more=True, count=2), listing="l")
    made.call(scan("pages/", revision=5, limit=1), listing(5, pair(second, "v", 3), count=1), listing="l")
    whole = listing(5, first, pair("pages/2", "v", 3), count=count)
    made.call(scan("pages/", revision=5), whole, listing="l", whole=True)
    return made


def objects(*expected: int, delete_second: bool = False) -> MadeUp:
    """Changes of one object at revisions 2, 3, …, each with the revision it expected."""
    made = MadeUp("objects")
    key = "registry/pods/default/0"
    for revision, before in enumerate(expected, 2):
        deletes = delete_second and revision == 3
        change = delete(key) if deletes else put(key, str(revision))
        done = rpc.DeleteRangeResponse(header={"revision": revision}, deleted=1) if deletes else put_answer(revision)
        request = txn([if_revision(key, before)], [change], [get(key)])
        made.call(request, txn_answer(revision, done), key=key, expected=before)
    return made


GOOD: dict[str, Callable[[], MadeUp]] = {
    "register": lambda: register(between=False),
    "append": lambda: appended("a", "a b", "a b c"),
    "set": lambda: added("x", "z"),
    "ring": lambda: ring(1, 2, 3, 4, 5, 6, 7, 0),
    "bank": lambda: bank(100, 100, 100, 100, 100, 100),
    "pages": lambda: pages("pages/2"),
    "objects": lambda: objects(0, 2, 0, delete_second=True),
    "watch": lambda: watched(TOLD, TOLD[:1], ()),
    "leases": lambda: held(kept_at_s=4, looked_at_s=8),
}
BAD: list[tuple[str, Callable[[], MadeUp], str]] = [
    ("register", lambda: register(between=True), "swapped what was no longer there"),
    ("append", lambda: appended("a", "b a"), "was ['a'] before"),
    ("append", lambda: appended("a b", "a"), "was ['a', 'b'] before"),
    ("append", lambda: appended("a", "a a"), "twice"),
    ("set", lambda: added("z"), "lacks [b'x']"),
    ("set", lambda: added("x", "y"), "has [b'y']"),
    ("set", lambda: added("x", "never"), "has [b'never']"),
    ("ring", lambda: ring(1, 0, 3, 4, 5, 6, 7, 2), "from 0 round to 0"),
    ("ring", lambda: ring(1, 2, 3), "3 members instead of 8"),
    ("bank", lambda: bank(100, 100, 100, 100, 100, 99), "add up to 599"),
    ("bank", lambda: bank(-1, 201, 100, 100, 100, 100), "-1"),
    ("pages", lambda: pages("pages/3"), "but at once"),
    ("pages", lambda: pages("pages/2", count=3), "but the count is 3"),
    ("objects", lambda: objects(0, 2, 2), "overwritten unseen"),
    ("objects", lambda: objects(0, 0), "overwritten unseen"),
    ("leases", lambda: held(looked_at_s=4, gone=True), "cut short by 9"),
    ("leases", lambda: held(kept_at_s=4, looked_at_s=8, gone=True), "cut short by 9"),
    ("leases", lambda: held(kept_at_s=4, told_ttl_s=0), "cut short by 9"),
    ("leases", lambda: held(looked_at_s=6, gone=True, kept_at_s=7), "came back"),
    ("leases", lambda: held(left=1), "1 leases were still there"),
    ("leases", lambda: held(outlived=True), "outlived their leases"),
]


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_a_good_history_passes(workload: str) -> None:
    """No check cries wolf."""
    assert faults(workload, GOOD[workload]()) == ""


@pytest.mark.parametrize(("workload", "make", "told"), BAD)
def test_a_bad_history_does_not(workload: str, make: Callable[[], MadeUp], told: str) -> None:
    """Each check finds what it is there for, and says it."""
    assert told in faults(workload, make())


def test_an_element_whose_writer_was_refused() -> None:
    """What a client was told did not happen is in no list."""
    made = appended("a b")
    made.call(put("append/0", "a b"), None, "failed", element="b")
    assert "told that nothing happened" in faults("append", made)


def test_a_value_from_nowhere() -> None:
    """A register holds only what somebody wrote."""
    made = MadeUp("register")
    made.call(get("register/0"), listing(2, pair("register/0", "ghost", 2)))
    assert "which nobody wrote" in faults("register", made)


def test_a_list_that_lost_its_end() -> None:
    """The final read shows the last state anybody saw."""
    made = appended("a", "a b")
    made.call(get("append/0"), listing(9, pair("append/0", "a", 2)), final=True)
    assert "ends at revision 2" in faults("append", made)


# --- watchers --------------------------------------------------------------------------------------


def event(key: str, value: str | None, revision: int, previous: mvcc.KeyValue | None = None) -> mvcc.Event:
    """A put of a key that was written once before at most, or its deletion."""
    if value is None:
        return mvcc.Event(
            type=mvcc.Event.DELETE, kv=mvcc.KeyValue(key=key.encode(), mod_revision=revision), prev_kv=previous
        )
    return mvcc.Event(kv=pair(key, value, revision), prev_kv=previous)


def told(*events: mvcc.Event, revision: int = 9) -> rpc.WatchResponse:
    """A response."""
    return rpc.WatchResponse(header=rpc.ResponseHeader(revision=revision), events=events)


A2, B3, A4 = pair("watch/a", "1", 2), pair("watch/b", "1", 3), pair("watch/a", "2", 4)
PUT_A2, PUT_B3 = event("watch/a", "1", 2), event("watch/b", "1", 3)
PUT_A4, DELETE_B4 = event("watch/a", "2", 4, A2), event("watch/b", None, 4, B3)
TOLD = (told(PUT_A2), told(PUT_B3), told(PUT_A4, DELETE_B4))


def watched(*listeners: tuple[rpc.WatchResponse, ...], behind: tuple[str, ...] = ()) -> MadeUp:
    """Two puts, a txn of unknown fate, and what watchers from revision 2 on were told."""
    made = MadeUp("watch")
    made.call(put("watch/a", "1"), put_answer(2))
    made.call(put("watch/b", "1"), put_answer(3))
    made.call(txn([], [put("watch/a", "2"), delete("watch/b")]), None, "unknown")
    for number, responses in enumerate(listeners):
        request = rpc.WatchCreateRequest(key=b"watch/")
        note = {"listener": f"w{number}", "start": 2, "whole": True, "responses": list(responses)}
        made.call(request, rpc.WatchResponse(), "ok", **note)
    made.call(put("watch/end", "x"), put_answer(5), final=True, behind=list(behind))
    return made


@pytest.mark.parametrize(
    ("fault", "responses"),
    [
        ("was not told of [(2, b'watch/a')]", TOLD[1:]),
        ("was not told of [(3, b'watch/b')]", (TOLD[0], TOLD[2])),
        ("was not told of [(4, b'watch/b')]", (*TOLD[:2], told(PUT_A4))),
        ("twice", (TOLD[0], *TOLD)),
        ("after revision 3", (TOLD[1], TOLD[0])),
        ("in two responses", (*TOLD[:2], told(PUT_A4), told(DELETE_B4))),
        ("after progress to 3", (TOLD[0], told(revision=3), *TOLD[1:])),
        ("which nobody did", (told(event("watch/a", "9", 6)),)),
        ("acknowledged was b'1'", (told(event("watch/a", "9", 2)),)),
        ("prev_kv", (*TOLD[:2], told(event("watch/a", "2", 4), DELETE_B4))),
        ("prev_kv", (*TOLD[:2], told(event("watch/a", "2", 4, B3), DELETE_B4))),
    ],
)
def test_a_watcher_that_is_told_wrong(fault: str, responses: tuple[rpc.WatchResponse, ...]) -> None:
    """Each promise of watches that is broken is told."""
    assert fault in faults("watch", watched(TOLD, responses))


def test_a_watcher_that_never_hears_the_last_write() -> None:
    """At rest a watcher comes to the end."""
    assert "had not heard" in faults("watch", watched(TOLD, behind=("w0",)))


# --- leases ----------------------------------------------------------------------------------------


def held(
    *,
    kept_at_s: int = 0,
    told_ttl_s: int = 5,
    looked_at_s: int = 0,
    gone: bool = False,
    left: int = 0,
    outlived: bool = False,
) -> MadeUp:
    """A lease of 5 s with one key, kept alive once perhaps, and looked at once perhaps."""
    made = MadeUp("leases")
    key = pair("leases/a", "held", 2)

    def call(at_s: int, request: Message, response: Message) -> None:
        record = made.call(request, response, "ok", lease=1)
        record.invoked_us, record.returned_us = at_s * 1_000_000, at_s * 1_000_000 + 1000

    call(0, rpc.LeaseGrantRequest(ID=1, TTL=5), rpc.LeaseGrantResponse(ID=1, TTL=5))
    call(0, rpc.PutRequest(key=key.key, value=key.value, lease=1), put_answer(2))
    keep = (rpc.LeaseKeepAliveRequest(ID=1), rpc.LeaseKeepAliveResponse(ID=1, TTL=told_ttl_s))
    if kept_at_s and kept_at_s < (looked_at_s or 99):
        call(kept_at_s, *keep)
    if looked_at_s:
        call(looked_at_s, get("leases/a"), listing(3) if gone else listing(2, key))
    if looked_at_s and kept_at_s > looked_at_s:
        call(kept_at_s, *keep)
    made.call(scan("leases/"), listing(3, key) if outlived else listing(3), "ok", final=True, left=left)
    return made
