"""The applier actor: entries and reads in, answers out, over RocksDB in a real directory."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.actor import Source
from actors.applier import REPORT_DELAY_MS, REPORT_ENTRIES, ApplierActor
from actors.effects import Effect, Halt, Log, RunInBackground, Send
from protocol.command import CommandKind, Origin, ReadKind, encode_batch
from protocol.config import ClusterConfig, LimitsConfig, NodeConfig, StorageConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.local import (
    ActorStarted,
    ApplyEntries,
    BuildSnapshot,
    CommandAnswered,
    CommandsApplied,
    DropSnapshot,
    EntriesApplied,
    FlushStore,
    InstallSnapshot,
    OpenStore,
    ReadsServed,
    ServeReads,
    SnapshotBuilt,
    SnapshotInstalled,
    StopActor,
    StoreFlushed,
    StoreOpened,
    StoreProgressed,
)
from protocol.message import Message
from protocol.types import ClusterId, Entry, EntryKind, Incarnation, Index, LogMark, MemberId, Millis, StoreId, Term
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DefragmentRequest,
    HashKVRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    StatusResponse,
)
from storage.posix_disk import PosixDisk
from storage.range_read import SLICE_ROWS
from storage.rocks import RocksEngine

MEMBER = MemberId(0xA1)
OTHER = MemberId(0xB2)
GATEWAY = Incarnation(3)
RAFT = Source("raft")
CONFIG = ClusterConfig(
    nodes=(NodeConfig(name="n1", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3"),),
    limits=LimitsConfig(response_bytes_max=1 << 20),
)
NO_MARK = LogMark(Index(0), Term(0), b"", "")


class Node:
    """An applier and what a shell would do for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = Millis(1000)
        self.index = 0
        self.sequence = 0
        self.background: list[RunInBackground] = []
        self.actor = self._make()

    def _make(self) -> ApplierActor:
        identity = NodeIdentity(ClusterId(7), MEMBER, "n1", StoreId(1), Incarnation(1), ())
        actor = ApplierActor(
            identity, PosixDisk(self.root), lambda path: RocksEngine(self.root, path, StorageConfig()), CONFIG
        )
        assert actor.start(self.now) == []
        return actor

    def open(self, mark: LogMark = NO_MARK) -> list[Effect]:
        """Open the store and learn where it stands."""
        effects = self.turn(OpenStore(mark=mark))
        opened = sent(effects, StoreOpened)
        self.index = opened[0].applied if opened else 0
        return effects

    def restart(self, mark: LogMark = NO_MARK) -> list[Effect]:
        """A new incarnation over the same directory."""
        self.stop()
        self.actor = self._make()
        return self.open(mark)

    def stop(self) -> list[Effect]:
        """Stop cleanly."""
        return self.turn(StopActor())

    def turn(self, *messages: Message, source: Source = RAFT) -> list[Effect]:
        """One shell turn."""
        effects: list[Effect] = []
        for message in messages:
            effects += self.actor.handle(message, source, self.now)
        effects += self.actor.end_turn(self.now)
        self.actor.check_invariants()
        self.background += [effect for effect in effects if isinstance(effect, RunInBackground)]
        return effects

    def run_background(self) -> list[Effect]:
        """Do the oldest background job and hand its message back."""
        return self.turn(self.background.pop(0).job())

    def work(self) -> list[Effect]:
        """Wake the actor for as long as it wants to be woken now."""
        effects: list[Effect] = []
        for _ in range(100_000):
            if self.actor.deadline is None or self.actor.deadline > self.now:
                return effects
            effects += self.actor.wake(self.now) + self.actor.end_turn(self.now)
        raise AssertionError("the actor never rests")

    def commands(self, *flat: Any, member: MemberId = MEMBER, sequence: int = 0) -> Entry:
        """The next entry, with a batch of commands."""
        self.index += 1
        self.sequence += 1
        origin = Origin(member, GATEWAY, sequence or self.sequence)
        return Entry(Term(2), Index(self.index), EntryKind.COMMANDS, encode_batch(origin, flat))

    def puts(self, *keys: bytes, member: MemberId = MEMBER) -> Entry:
        """An entry that puts each key."""
        flat: list[Any] = []
        for key in keys:
            flat += [CommandKind.PUT, PutRequest(key=key, value=b"v").SerializeToString()]
        return self.commands(*flat, member=member)

    def apply(self, *entries: Entry) -> list[Effect]:
        """Hand entries over."""
        return self.turn(ApplyEntries(entries=entries, commit=Index(self.index)))

    def read(self, *flat: Any, sequence: int = 9) -> list[Effect]:
        """Ask for reads."""
        return self.turn(ServeReads(sequence=sequence, payload=encode_batch(Origin(MEMBER, GATEWAY, sequence), flat)))


def sent(effects: list[Effect], kind: type) -> list[Any]:
    """The messages of one kind among the effects."""
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def range_of(key: bytes, range_end: bytes = b"", **fields: Any) -> bytes:
    """A serialized RangeRequest."""
    return RangeRequest(key=key, range_end=range_end, **fields).SerializeToString()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with an open, empty store; its invariants hold after every turn."""
    node = Node(tmp_path)
    node.open()
    yield node
    node.stop()


def test_open_tells_raft_and_gateway_where_the_store_stands(tmp_path: Path) -> None:
    """A fresh store is at index 0 and revision 1, and says so to both."""
    node = Node(tmp_path)
    effects = node.open()
    assert sent(effects, StoreOpened) == [StoreOpened(applied=Index(0), revision=1)]
    assert sent(effects, StoreProgressed)[0].compacted == -1
    node.stop()


def test_answers_go_to_the_gateway_that_asked(node: Node) -> None:
    """A batch of this member is answered in full, with header, revision and term."""
    effects = node.apply(node.puts(b"a", b"b"))
    (answer,) = sent(effects, CommandsApplied)
    assert (answer.incarnation, answer.sequence, answer.applied, answer.revision) == (GATEWAY, 1, 1, 3)
    first, second = (PutResponse.FromString(body) for _, body in answer.results)
    assert (first.header.cluster_id, first.header.member_id, first.header.raft_term) == (7, MEMBER, 2)
    assert (first.header.revision, second.header.revision) == (2, 3)
    assert CommandsApplied.model_validate(answer.model_dump()) == answer


def test_batches_of_others_are_applied_silently(node: Node) -> None:
    """What another member proposed changes the store and is answered there, not here."""
    effects = node.apply(node.puts(b"a", member=OTHER))
    assert sent(effects, CommandsApplied) == []
    assert node.actor.store is not None
    assert node.actor.store.revision == 2


def test_a_repeated_batch_is_neither_applied_nor_answered(node: Node) -> None:
    """The same (member, incarnation, sequence) a second time is a no-op that still advances the applied index."""
    put = [CommandKind.PUT, PutRequest(key=b"a").SerializeToString()]
    node.apply(node.commands(*put, sequence=5))
    node.now = Millis(node.now + REPORT_DELAY_MS)
    effects = node.apply(node.commands(*put, sequence=5))
    assert sent(effects, CommandsApplied) == []
    assert sent(effects, EntriesApplied) == [EntriesApplied(applied=Index(2))]
    assert node.actor.store is not None
    assert node.actor.store.revision == 2


def test_applied_is_reported_once_per_turn(node: Node) -> None:
    """Two messages in one turn give one credit for raft."""
    one, two = node.puts(b"a"), node.puts(b"b")
    effects = node.turn(ApplyEntries(entries=(one,), commit=Index(2)), ApplyEntries(entries=(two,), commit=Index(2)))
    assert sent(effects, EntriesApplied) == [EntriesApplied(applied=Index(2))]
    assert sent(node.turn(), EntriesApplied) == []


def test_noop_and_configuration_entries_only_advance(node: Node) -> None:
    """They leave no revision and need no answer."""
    node.index += 2
    node.apply(
        Entry(Term(1), Index(1), EntryKind.NOOP, b""), Entry(Term(1), Index(2), EntryKind.CONFIGURATION, b"opaque")
    )
    assert node.actor.store is not None
    assert (node.actor.store.applied, node.actor.store.revision) == (2, 1)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Term(1), Index(1), 77, b""),
        Entry(Term(1), Index(1), EntryKind.COMMANDS, b"garbage"),
        Entry(Term(1), Index(1), EntryKind.COMMANDS, encode_batch(Origin(MEMBER, GATEWAY, 1), [99, b""])),
        Entry(Term(1), Index(5), EntryKind.NOOP, b""),
    ],
    ids=["entry kind", "batch", "command kind", "gap"],
)
def test_what_this_build_does_not_know_halts_the_node(node: Node, entry: Entry) -> None:
    """Skipping it would make members differ."""
    effects = node.apply(entry)
    (halt,) = [effect for effect in effects if isinstance(effect, Halt)]
    assert halt.failed
    assert halt.fatal
    assert node.turn(FlushStore(ticket=1)) == []
    node.actor.store.engine.close()  # type: ignore[union-attr]


def test_reads_are_answered_by_position(node: Node) -> None:
    """Short reads of a batch come back in one message, each with its position and code."""
    node.apply(node.puts(b"a", b"b"))
    effects = node.read(
        ReadKind.RANGE, range_of(b"a"),
        ReadKind.RANGE, range_of(b"a", revision=9),
        ReadKind.BARRIER, b"",
        ReadKind.RANGE, b"\xff\xff",
        ReadKind.STATUS, b"",
    )  # fmt: skip
    (served,) = sent(effects, ReadsServed)
    assert (served.incarnation, served.sequence, served.revision) == (GATEWAY, 9, 3)
    codes = [(position, code) for position, code, _ in served.results]
    assert codes == [
        (0, ErrorCode.OK), (1, ErrorCode.FUTURE_REVISION), (2, ErrorCode.OK), (3, ErrorCode.MALFORMED), (4, 0)
    ]  # fmt: skip
    assert RangeResponse.FromString(served.results[0][2]).kvs[0].value == b"v"
    status = StatusResponse.FromString(served.results[4][2])
    assert (status.raftIndex, status.raftAppliedIndex, status.raftTerm, status.version) == (1, 1, 2, "3.7.1")


def test_reads_before_the_store_is_open_are_refused(tmp_path: Path) -> None:
    """A gateway may ask early; it gets an answer that a client retries."""
    node = Node(tmp_path)
    (served,) = sent(node.read(ReadKind.RANGE, range_of(b"a")), ReadsServed)
    assert served.results == ((0, ErrorCode.UNHEALTHY, b""),)


def test_a_long_read_yields_to_others_and_sees_one_moment(node: Node) -> None:
    """A range over several slices is answered later, and writes in between are not in it."""
    keys = [b"%06d" % number for number in range(3 * SLICE_ROWS)]
    node.apply(node.puts(*keys[:1000]), node.puts(*keys[1000:]))
    assert sent(node.read(ReadKind.RANGE, range_of(b"\x00", b"\x00")), ReadsServed) == []
    assert node.actor.deadline == node.now
    node.apply(node.puts(b"000000a", b"zzz"))
    assert sent(node.read(ReadKind.RANGE, range_of(b"zzz")), ReadsServed)
    (served,) = sent(node.work(), ReadsServed)
    response = RangeResponse.FromString(served.results[0][2])
    assert [pair.key for pair in response.kvs] == keys
    assert (response.count, response.header.revision) == (len(keys), len(keys) + 1)


def test_the_count_of_a_long_page_is_of_the_same_moment(node: Node) -> None:
    """A page over several slices counts what was there when it began, not what came meanwhile."""
    keys = [b"%06d" % number for number in range(3 * SLICE_ROWS)]
    node.apply(node.puts(*keys[:1000]), node.puts(*keys[1000:]))
    limit = 2 * SLICE_ROWS
    node.read(ReadKind.RANGE, range_of(b"\x00", b"\x00", limit=limit))
    node.apply(node.puts(b"000000a", b"zzz"))
    (served,) = sent(node.work(), ReadsServed)
    response = RangeResponse.FromString(served.results[0][2])
    assert [pair.key for pair in response.kvs] == keys[:limit]
    assert (response.count, response.more) == (len(keys), True)


def test_an_answer_over_the_byte_budget_is_refused(node: Node) -> None:
    """The client is told to page instead of the node running out of memory."""
    big = PutRequest(key=b"a", value=b"x" * 700_000), PutRequest(key=b"b", value=b"x" * 700_000)
    node.apply(node.commands(*[part for put in big for part in (CommandKind.PUT, put.SerializeToString())]))
    (served,) = sent(node.read(ReadKind.RANGE, range_of(b"a", b"z")), ReadsServed)
    assert served.results == ((0, ErrorCode.RESPONSE_TOO_LARGE, b""),)


def test_physical_compaction_answers_when_space_is_given_back(node: Node) -> None:
    """The command is answered PENDING at once and for good when the last slice is done."""
    for _ in range(3):
        node.apply(node.puts(*[b"%04d" % number for number in range(SLICE_ROWS)]))
    body = CompactionRequest(revision=1200, physical=True).SerializeToString()
    (answer,) = sent(node.apply(node.commands(CommandKind.COMPACT, body)), CommandsApplied)
    assert answer.results == ((ErrorCode.PENDING, b""),)
    assert node.actor.deadline == node.now
    (late,) = sent(node.work(), CommandAnswered)
    assert (late.incarnation, late.sequence, late.position, late.code) == (GATEWAY, 4, 0, ErrorCode.OK)
    assert CompactionResponse.FromString(late.body).header.revision == 1501
    assert node.actor.store is not None
    assert not node.actor.store.compacting


def test_compaction_waits_for_reads_it_would_hurt(node: Node) -> None:
    """A long read at an old revision finds everything although that revision is compacted meanwhile."""
    keys = [b"%06d" % number for number in range(3 * SLICE_ROWS)]
    node.apply(node.puts(*keys[:1000]), node.puts(*keys[1000:]))
    old_revision = len(keys) + 1
    node.apply(node.puts(*keys[:1000]), node.puts(*keys[1000:]))
    node.read(ReadKind.RANGE, range_of(b"\x00", b"\x00", revision=old_revision))
    compaction = CompactionRequest(revision=2 * len(keys) + 1).SerializeToString()
    node.apply(node.commands(CommandKind.COMPACT, compaction))
    (served,) = sent(node.work(), ReadsServed)
    response = RangeResponse.FromString(served.results[0][2])
    assert [pair.mod_revision for pair in response.kvs] == list(range(2, old_revision + 1))
    assert node.actor.store is not None
    assert not node.actor.store.compacting


def test_flush_reports_what_was_applied_before_it_began(node: Node) -> None:
    """Entries applied while the flush runs are not called durable."""
    node.apply(node.puts(b"a"))
    node.turn(FlushStore(ticket=4))
    node.apply(node.puts(b"b"))
    assert sent(node.run_background(), StoreFlushed) == [StoreFlushed(ticket=4, durable=Index(1))]


def test_a_snapshot_is_a_store_at_its_index(node: Node) -> None:
    """The checkpoint opens as a store that holds exactly the index it was announced with."""
    node.apply(node.puts(b"a"), node.puts(b"b"))
    node.turn(BuildSnapshot(name="s1"))
    node.apply(node.puts(b"c"))
    (built,) = sent(node.run_background(), SnapshotBuilt)
    assert (built.name, built.index, built.term) == ("s1", 3, 2)
    engine = RocksEngine(node.root, "snapshots/s1", StorageConfig())
    assert engine.get(b"kc") is not None
    engine.close()
    node.turn(DropSnapshot(name="s1"))
    assert not (node.root / "snapshots" / "s1").exists()


def test_a_snapshot_that_cannot_be_built_is_reported_as_index_0(node: Node) -> None:
    """Raft learns of the failure, the store goes on, the reason is logged."""
    (node.root / "snapshots").write_text("in the way")
    node.turn(BuildSnapshot(name="s1"))
    effects = node.run_background()
    assert sent(effects, SnapshotBuilt)[0].index == 0
    assert [effect.event for effect in effects if isinstance(effect, Log)] == ["snapshot_failed"]
    assert sent(node.apply(node.puts(b"a")), CommandsApplied)
    (node.root / "snapshots").unlink()


def stage_snapshot(node: Node, tmp_path: Path, stage: str) -> Index:
    """Build a snapshot on another node and put it where a finished receiver leaves it."""
    donor = Node(tmp_path / "donor")
    donor.root.mkdir()
    donor.open()
    donor.apply(*[donor.puts(b"donor%d" % number, member=OTHER) for number in range(5)])
    donor.turn(BuildSnapshot(name="s"))
    donor.run_background()
    (node.root / "stage").mkdir(exist_ok=True)
    (donor.root / "snapshots" / "s").rename(node.root / "stage" / stage)
    donor.stop()
    return Index(donor.index)


def test_install_swaps_the_store(node: Node, tmp_path: Path) -> None:
    """Afterwards the store is the snapshot, the stage is gone, and reads in progress were answered."""
    node.apply(node.puts(*[b"%06d" % number for number in range(2 * SLICE_ROWS)]))
    node.read(ReadKind.RANGE, range_of(b"\x00", b"\x00"))
    index = stage_snapshot(node, tmp_path, "t9")
    effects = node.turn(InstallSnapshot(stage="t9", index=index, term=Term(2)))
    assert sent(effects, ReadsServed)[0].results == ((0, ErrorCode.LEADER_CHANGED, b""),)
    assert sent(effects, SnapshotInstalled) == [SnapshotInstalled(index=index, revision=6)]
    assert sent(effects, StoreProgressed)[0].applied == index
    assert not (node.root / "stage" / "t9").exists()
    (served,) = sent(node.read(ReadKind.RANGE, range_of(b"\x00", b"\x00")), ReadsServed)
    assert RangeResponse.FromString(served.results[0][2]).count == 5


def test_install_waits_for_a_running_flush_and_keeps_the_order(node: Node, tmp_path: Path) -> None:
    """The engine is never closed under a background job; what came behind the install is done behind it."""
    node.apply(node.puts(b"a"))
    node.turn(FlushStore(ticket=1))
    index = stage_snapshot(node, tmp_path, "t9")
    node.index = index
    behind = node.puts(b"behind")
    assert node.turn(InstallSnapshot(stage="t9", index=index, term=Term(2))) == []
    assert node.apply(behind) == []
    node.now = Millis(node.now + REPORT_DELAY_MS)
    effects = node.run_background()
    kinds = [type(effect.message).__name__ for effect in effects if isinstance(effect, Send)]
    told = ["StoreProgressed", "AuthChanged"]
    assert kinds == ["StoreFlushed", "SnapshotInstalled", *told, "CommandsApplied", "EntriesApplied"]


@pytest.mark.parametrize("step", ["staged", "old store half removed", "swapped"])
def test_open_finishes_an_announced_swap(node: Node, tmp_path: Path, step: str) -> None:
    """Wherever the crash came after the mark was durable, opening ends with the snapshot as the store."""
    node.apply(node.puts(b"mine"))
    node.stop()
    index = stage_snapshot(node, tmp_path, "t9")
    if step == "old store half removed":
        (node.root / "store" / "CURRENT").unlink()
    if step == "swapped":
        (node.root / "store").rename(tmp_path / "gone")
        (node.root / "stage" / "t9").rename(node.root / "store")
    (node.root / "stage" / "other.partial").mkdir()
    node.actor = node._make()
    opened = sent(node.open(LogMark(index, Term(2), b"", "t9")), StoreOpened)
    assert opened == [StoreOpened(applied=index, revision=6)]
    assert list((node.root / "stage").iterdir()) == []


def test_open_deletes_a_stage_no_mark_announces(node: Node, tmp_path: Path) -> None:
    """A staged snapshot without a mark was never allowed to replace anything."""
    node.apply(node.puts(b"mine"))
    stage_snapshot(node, tmp_path, "t9")
    (node.root / "snapshots" / "stale").mkdir(parents=True)
    effects = node.restart()
    assert sent(effects, StoreOpened) == [StoreOpened(applied=Index(1), revision=2)]
    assert list((node.root / "stage").iterdir()) == []
    assert list((node.root / "snapshots").iterdir()) == []


def test_install_of_a_stage_that_is_not_there_halts(node: Node) -> None:
    """The mark promised it; without it this node has no state."""
    effects = node.turn(InstallSnapshot(stage="nowhere", index=Index(3), term=Term(1)))
    assert [effect.fatal for effect in effects if isinstance(effect, Halt)] == [True]
    node.actor.store.engine.close()  # type: ignore[union-attr]


def test_progress_is_told_at_most_once_a_second(node: Node) -> None:
    """While it moves, and a last time after it stopped moving."""
    node.now = Millis(node.now + 1000)
    assert len(sent(node.apply(node.puts(b"a")), StoreProgressed)) == 1
    assert sent(node.apply(node.puts(b"b")), StoreProgressed) == []
    assert node.actor.deadline == node.now + REPORT_DELAY_MS
    node.now = Millis(node.now + REPORT_DELAY_MS)
    node.actor.end_turn(node.now)
    assert node.actor.deadline == node.now - REPORT_DELAY_MS + 1000
    node.now = Millis(node.now + 1000)
    effects = node.actor.wake(node.now) + node.actor.end_turn(node.now)
    assert [message.applied for message in sent(effects, StoreProgressed)] == [2]
    assert node.actor.deadline is None


def test_a_new_gateway_is_told_where_the_store_stands(node: Node) -> None:
    """A gateway that restarted serves nothing before it knows."""
    assert len(sent(node.turn(ActorStarted(actor="gateway", incarnation=Incarnation(9))), StoreProgressed)) == 1
    assert sent(node.turn(ActorStarted(actor="wal", incarnation=Incarnation(9))), StoreProgressed) == []


def test_stop_keeps_everything_without_a_log(node: Node) -> None:
    """A clean stop flushes: the next incarnation starts where this one ended."""
    node.apply(node.puts(b"a"), node.puts(b"b"))
    assert [effect.failed for effect in node.stop() if isinstance(effect, Halt)] == [False]
    node.actor = node._make()
    assert sent(node.open(), StoreOpened) == [StoreOpened(applied=Index(2), revision=3)]


def test_metrics_follow_the_store(node: Node) -> None:
    """Counters and gauges carry etcd's names."""
    node.apply(node.puts(b"a", b"b"))
    node.read(ReadKind.RANGE, range_of(b"a"), ReadKind.HASH_KV, HashKVRequest().SerializeToString())
    node.actor.measure()
    counters, gauges = node.actor.metrics.counters, node.actor.metrics.gauges
    assert (counters["etcd_mvcc_put_total"], counters["etcd_mvcc_range_total"]) == (2, 2)
    assert counters["etcd_server_proposals_applied_total"] == 1
    assert (gauges["etcd_debugging_mvcc_keys_total"], gauges["etcd_debugging_mvcc_current_revision"]) == (2, 3)
    assert 0 < gauges["etcd_mvcc_db_total_size_in_use_in_bytes"] <= gauges["etcd_mvcc_db_total_size_in_bytes"]


def test_members_that_applied_the_same_entries_hash_the_same(node: Node, tmp_path: Path) -> None:
    """Whoever encodes answers and whoever does not ends with the same store."""
    rng = random.Random(3)
    other = Node(tmp_path / "other")
    other.root.mkdir()
    other.open()
    for _ in range(20):
        entry = node.puts(*[rng.randbytes(1) for _ in range(5)], member=rng.choice([MEMBER, OTHER]))
        node.apply(entry)
        other.apply(entry)
    body = HashKVRequest().SerializeToString()
    (mine,), (theirs,) = (sent(each.read(ReadKind.HASH_KV, body), ReadsServed) for each in (node, other))
    assert mine.results == theirs.results
    other.stop()


def test_raft_hears_of_applied_entries_in_bounds_not_one_by_one(node: Node) -> None:
    """The first of a burst at once, then after a while or so many; never nothing."""
    assert sent(node.apply(node.puts(b"a")), EntriesApplied) == [EntriesApplied(applied=Index(1))]
    told = [sent(node.apply(node.puts(b"b")), EntriesApplied) for _ in range(REPORT_ENTRIES)]
    assert [message for message in told if message] == [[EntriesApplied(applied=Index(REPORT_ENTRIES + 1))]]
    node.apply(node.puts(b"c"))
    due = node.actor.deadline
    assert due == node.now + REPORT_DELAY_MS
    node.now = due
    effects = node.actor.wake(due) + node.actor.end_turn(due)
    assert sent(effects, EntriesApplied) == [EntriesApplied(applied=Index(REPORT_ENTRIES + 2))]


def test_a_rotten_block_ends_the_node_and_names_its_file(node: Node, tmp_path: Path) -> None:
    """A read over damage is neither answered nor tried by another incarnation: the node ends with the file's name."""
    node.apply(*(node.puts(b"%04d" % number) for number in range(300)))
    node.stop()
    [table] = (tmp_path / "store").glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 0x55
    table.write_bytes(data)
    node.actor = node._make()
    node.open()
    effects: list[Effect] = []
    for number in range(300):
        effects = node.read(ReadKind.RANGE, range_of(b"%04d" % number))
        if not sent(effects, ReadsServed):
            break
    [halt] = [effect for effect in effects if isinstance(effect, Halt)]
    assert (halt.failed, halt.fatal) == (True, True)
    assert halt.reason.startswith("Corruption: read failed: Corruption: block checksum mismatch")
    assert table.name in halt.reason


def test_a_defragmentation_runs_behind_requests_and_gives_size_back(node: Node) -> None:
    """Table by table in the background; reads go on, the gateway hears of the size before whoever asked is told."""
    node.apply(*(node.puts(b"k") for _ in range(20)))
    node.apply(node.commands(CommandKind.COMPACT, CompactionRequest(revision=21).SerializeToString()))
    node.work()
    store = node.actor.store
    assert store is not None
    before = store.size
    origin = Origin(MEMBER, GATEWAY, 1)
    body = DefragmentRequest().SerializeToString()
    ask = ServeReads(sequence=7, payload=encode_batch(origin, [ReadKind.DEFRAGMENT, body, ReadKind.DEFRAGMENT, body]))
    assert sent(node.turn(ask), ReadsServed) == []
    assert len(node.background) == 1
    effects: list[Effect] = []
    while node.background:
        effects += node.run_background()
        assert store.engine.get(b"kk") is not None
    kinds = [effect.message.kind for effect in effects if isinstance(effect, Send)]
    assert kinds == ["StoreProgressed", "ReadsServed", "ReadsServed"]
    assert sent(effects, StoreProgressed)[0].logical_bytes == store.size < before
    assert [message.results for message in sent(effects, ReadsServed)] == [((0, 0, b""),), ((1, 0, b""),)]


def test_a_stop_does_not_wait_for_a_whole_defragmentation(node: Node) -> None:
    """For the table that is being rewritten only; whoever asked is told the outcome."""
    origin = Origin(MEMBER, GATEWAY, 1)
    body = DefragmentRequest().SerializeToString()
    node.turn(ServeReads(sequence=7, payload=encode_batch(origin, [ReadKind.DEFRAGMENT, body])))
    assert node.turn(StopActor()) == []
    effects = node.run_background()
    assert node.background == []
    assert len(sent(effects, ReadsServed)) == 1
    assert any(isinstance(effect, Halt) for effect in effects)
