"""The multi-version store: committed entries in, answers out.

Owns the revision counter, the order of commands inside a batch, the compaction schedule and the one atomic write per
raft entry. Knows an `Engine` and protobuf bodies; no actor, clock or random source: apply is a pure function of the
log, so members that applied the same entries hold the same store.
Invariants: one entry is one engine write and that write holds the applied index; revisions grow by one per effective
command; an answer's bytes are complete and are only built when someone here waits for them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from protocol.auth import NOBODY_KNOWN, decode_as, decode_token_order
from protocol.command import CommandKind, Origin, decode_flat_batch
from protocol.errors import ClientError, Corruption, ErrorCode
from protocol.integrity import Finding, decode_check, decode_finding
from protocol.lease import decode_upkeep
from protocol.types import ClusterId, Entry, EntryKind, Index, MemberId, Revision, Term
from protocol.wire.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    AuthenticateResponse,
    CompactionRequest,
    DeleteRangeRequest,
    DowngradeRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    PutRequest,
    TxnRequest,
)
from storage.alarms import AlarmBook
from storage.auth import AuthBook
from storage.auth_commands import CHANGES
from storage.auth_guard import Guard
from storage.compaction import compaction_slice
from storage.dedupe import Windows
from storage.downgrade import DowngradeDesk
from storage.engine import Engine
from storage.integrity import CHECKED_KEY, Check, next_check
from storage.key_count import KeyCount
from storage.layout import (
    COUNTS_KEY,
    LOG_END,
    PUT,
    STATE_KEY,
    WINDOW_END,
    WINDOW_PREFIX,
    StoreState,
    log_key,
    pack_state,
    record_key,
    trailer,
    unpack_state,
)
from storage.lease import LeaseBook
from storage.mvcc_write import KeyWriter
from storage.txn import (
    TxnRun,
    check_path,
    check_put_key,
    check_put_lease,
    check_put_shape,
    choose,
    do_delete,
    do_put,
    has_put,
)
from storage.wire_bytes import header_prefix, plain_put, varint

COUNTS_SAVED_EVERY_REVISIONS: Final = 100_000
"""Key counts are saved at least this often, so that opening walks no more revisions than this."""

Result = tuple[int, bytes]
"""An `ErrorCode` and, with OK, the whole response."""

_NO_BODY: Final = b""
_NONE: Final[dict[int, Callable[[bytes, bool], "Result"]]] = {}
_OK: Final = int(ErrorCode.OK)
_OK_WITHOUT_BODY: Final = (_OK, _NO_BODY)
_TOO_LARGE: Final = (int(ErrorCode.RESPONSE_TOO_LARGE), _NO_BODY)
_PENDING: Final = (int(ErrorCode.PENDING), _NO_BODY)


def _refuse(code: ErrorCode, _body: bytes, _encode: bool) -> Result:
    raise ClientError(code)


class PhysicalWait(NamedTuple):
    """A Compact with `physical` set, to be answered once everything up to `revision` is given back."""

    revision: Revision
    origin: Origin
    position: int
    body: bytes


class Applied(NamedTuple):
    """What applying a COMMANDS entry gave: answers for the origin, empty if none is owed."""

    origin: Origin
    results: tuple[Result, ...]


class MvccStore:
    """One open store."""

    def __init__(self, engine: Engine, cluster: ClusterId, member: MemberId, *, response_bytes_max: int) -> None:
        self.engine = engine
        self.response_bytes_max = response_bytes_max
        self.answer_bytes_left = response_bytes_max
        """What the answers of the entry being applied may still take: those that may be large share one budget."""
        state = unpack_state(engine.get(STATE_KEY))
        self.applied: Index = state.applied
        self.term: Term = state.term
        self.revision: int = state.revision
        self.compacted: int = state.compacted
        self.finished: int = state.finished
        self.cursor: int = state.cursor
        self.waits: list[PhysicalWait] = []
        self.on_commit: Callable[[dict[bytes, bytes | None]], None] | None = None
        """Told what an entry writes, once per entry, while somebody wants to know."""
        self.counters = {"put": 0, "delete": 0, "txn": 0, "compacted_revisions": 0, "lease_upkeeps_ignored": 0}
        self._member = member
        self._writer = KeyWriter(engine)
        self._writer.restore_sizes(state.size, state.size_in_use)
        self.leases = LeaseBook(self._writer)
        self.auth = AuthBook(engine, self._writer.overlay)
        self.guard = Guard(self.auth)
        self._windows = Windows()
        for key, data in engine.scan(WINDOW_PREFIX, WINDOW_END):
            self._windows.load(key, data)
        self._counts_revision = self._load_counts()
        self._prefix = header_prefix(cluster, member)
        self._term_bytes = b""
        self._set_term(state.term)
        self._commands: dict[int, Callable[[bytes, bool], Result]] = {
            CommandKind.PUT: self._put,
            CommandKind.DELETE_RANGE: self._delete_range,
            CommandKind.TXN: self._txn,
            CommandKind.LEASE_GRANT: self._lease_grant,
            CommandKind.LEASE_REVOKE: self._lease_revoke,
            CommandKind.ALARM: self._alarm,
            CommandKind.DOWNGRADE: self._downgrade,
        }
        self._quick_commands = _NONE if self.auth.enabled else self._commands
        """What may be done without asking whose it is: everything usual, until rights matter."""
        self._allowed = dict(self._commands)
        self.alarms = AlarmBook(engine)
        self.downgrade = DowngradeDesk(engine)
        self._check: Check | None = None
        self._findings: list[Finding] = []
        self._heed_alarms()

    @property
    def keys(self) -> KeyCount:
        """Counts of live keys."""
        return self._writer.keys

    @property
    def size(self) -> int:
        """Logical bytes the store has taken: those in use at their most, given back by a defragmentation only."""
        return self._writer.size

    @property
    def size_in_use(self) -> int:
        """Logical bytes of the versions still stored."""
        return self._writer.size_in_use

    @property
    def compacting(self) -> bool:
        """Whether a compaction still has space to give back."""
        return self.finished < self.compacted

    def header(self, revision: int) -> bytes:
        """Return a response header for `revision`, framed as field 1."""
        body = self._prefix + b"\x18" + varint(revision) + self._term_bytes
        return b"\x0a" + varint(len(body)) + body

    # --- apply -----------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> Applied | None:
        """Apply one committed entry in one atomic write; entries already in the store are skipped.

        Raises:
            Corruption: the entry is of a kind or version this build does not know: the node must halt.
        """
        if entry.index <= self.applied:
            return None
        if entry.index != self.applied + 1:
            raise Corruption(f"entry {entry.index} follows entry {self.applied}: the log has a gap")
        if entry.term != self.term:
            self._set_term(entry.term)
        applied = None
        if entry.kind == EntryKind.COMMANDS:
            applied = self._apply_commands(entry.data)
        elif entry.kind == EntryKind.LEASE_UPKEEP:
            self._apply_lease_upkeep(entry)
        elif entry.kind not in (EntryKind.NOOP, EntryKind.CONFIGURATION):
            raise Corruption(f"entry {entry.index} has kind {entry.kind}, which this build does not know")
        self.applied = entry.index
        self._commit()
        return applied

    def _apply_commands(self, data: bytes) -> Applied | None:
        origin, flat = decode_flat_batch(data)
        if not self._windows.admit(origin, self._writer.overlay.changes):
            return None
        encode = origin.member == self._member
        results = self._run(origin, flat, encode=encode)
        return Applied(origin, tuple(results)) if encode else None

    def _run(self, origin: Origin, flat: list[Any], *, encode: bool) -> list[Result]:
        results: list[Result] = []
        self.answer_bytes_left = self.response_bytes_max
        handlers = self._quick_commands
        pairs = iter(flat)
        for kind, body in zip(pairs, pairs, strict=True):
            handler = handlers.get(kind)
            try:
                if handler is not None:
                    results.append(handler(body, encode))
                else:
                    results.append(self._guarded(kind, body, origin, len(results), encode=encode))
                    handlers = self._quick_commands
            except ClientError as error:
                results.append((int(error.code), _NO_BODY))
            except DecodeError:
                results.append((int(ErrorCode.MALFORMED), _NO_BODY))
        return results

    def _guarded(self, kind: int, body: bytes, origin: Origin, position: int, *, encode: bool) -> Result:
        """Apply a command that is not usual, or any command while rights matter: whose it is decides first."""
        identity = NOBODY_KNOWN
        if kind == CommandKind.AS_USER:
            identity, kind, body = decode_as(body)
        if kind == CommandKind.AS_NODE:
            kind, body = body[0], body[1:]
            if kind in (CommandKind.HASH_CHECK, CommandKind.HASH_FOUND):
                return self._compare(kind, body)
        elif self.auth.enabled:
            self.guard.check_command(identity, kind, body, self._writer.overlay)
        handler = self._commands.get(kind)
        if handler is not None:
            return handler(body, encode)
        if kind == CommandKind.COMPACT:
            return self._compact(body, origin, position, encode=encode)
        change = CHANGES.get(kind)
        if change is not None:
            change(self.auth, body)
            self._quick_commands = _NONE if self.auth.enabled else self._commands
            return _OK, self.header(self.revision) if encode else _NO_BODY
        if kind == CommandKind.ASSIGN_TOKEN:
            token = self.auth.assign_token(decode_token_order(body), Index(self.applied + 1))
            answer = AuthenticateResponse(token=token).SerializeToString()
            return _OK, self.header(self.revision) + answer if encode else _NO_BODY
        raise Corruption(f"command kind {kind}, which this build does not know")

    def _put(self, body: bytes, encode: bool) -> Result:
        writer = self._writer
        revision = self.revision + 1
        plain = plain_put(body)
        if plain is not None:
            key, key_field, value = plain
            writer.begin(revision)
            writer.put_fields(key, key_field, b"\x2a" + value, 0)
            previous = b""
        else:
            put = PutRequest.FromString(body)
            check_put_shape(put)
            check_put_lease(put, writer)  # in this order at the top level, the other way round in a txn: as in etcd
            check_put_key(put, writer)
            writer.begin(revision)
            previous = do_put(put, writer)
        self.revision = revision
        self.counters["put"] += 1
        if not encode:
            return _OK_WITHOUT_BODY
        if previous and not self._afford(len(previous)):
            return _TOO_LARGE
        header = b"%b\x18%b%b" % (self._prefix, writer.mod, self._term_bytes)
        return _OK, b"\x0a%c%b%b" % (len(header), header, previous)

    def _delete_range(self, body: bytes, encode: bool) -> Result:
        request = DeleteRangeRequest.FromString(body)
        if not request.key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        self._writer.begin(self.revision + 1)
        answer = do_delete(request, self._writer)
        if self._writer.sub:
            self.revision += 1
            self.counters["delete"] += 1
        if not self._afford(len(answer)):
            return _TOO_LARGE
        return _OK, self.header(self.revision) + answer if encode else _NO_BODY

    def _afford(self, size: int) -> bool:
        """Take an answer of `size` bytes from the entry's budget; False if it is over it: what was written stands."""
        if size > self.answer_bytes_left:
            return False
        self.answer_bytes_left -= size
        return True

    def _txn(self, body: bytes, encode: bool) -> Result:
        writer = self._writer
        path = choose(TxnRequest.FromString(body), writer.overlay)
        check_path(path, writer, self)
        writer.begin(self.revision + 1)
        run = TxnRun(writer, self, encode=encode)
        answer = run.run(path)
        if writer.sub:
            self.revision += 1
        self.counters["txn"] += 1
        if run.too_large or not self._afford(len(answer)):
            return _TOO_LARGE
        return _OK, self.header(self.revision) + answer if encode else _NO_BODY

    def _compact(self, body: bytes, origin: Origin, position: int, *, encode: bool) -> Result:
        request = CompactionRequest.FromString(body)
        if request.revision <= self.compacted:
            raise ClientError(ErrorCode.COMPACTED)
        if request.revision > self.revision:
            raise ClientError(ErrorCode.FUTURE_REVISION)
        if not self.compacting:
            self.cursor = max(self.finished, 0)
        self.compacted = request.revision
        answer = self.header(self.revision)
        if request.physical and encode:
            self.waits.append(PhysicalWait(Revision(request.revision), origin, position, answer))
            return _PENDING
        return _OK, answer

    def _lease_grant(self, body: bytes, encode: bool) -> Result:
        request = LeaseGrantRequest.FromString(body)
        self.leases.grant(request.ID, request.TTL, Index(self.applied + 1))
        if not encode:
            return _OK_WITHOUT_BODY
        return _OK, self.header(self.revision) + LeaseGrantResponse(ID=request.ID, TTL=request.TTL).SerializeToString()

    def _lease_revoke(self, body: bytes, encode: bool) -> Result:
        request = LeaseRevokeRequest.FromString(body)
        self._writer.begin(self.revision + 1)
        self.leases.revoke(request.ID)
        self.revision += self._writer.sub > 0
        return _OK, self.header(self.revision) if encode else _NO_BODY

    def _alarm(self, body: bytes, encode: bool) -> Result:
        answer = self.alarms.apply(AlarmRequest.FromString(body), self._writer.overlay.changes)
        self._heed_alarms()
        if not encode:
            return _OK_WITHOUT_BODY
        return _OK, self.header(self.revision) + AlarmResponse(alarms=answer).SerializeToString()

    def _compare(self, kind: int, body: bytes) -> Result:
        """Note that stores are to be compared, or what a member has found; the store's owner does the rest."""
        if kind == CommandKind.HASH_FOUND:
            self._findings.append(decode_finding(body))
        else:
            number, span = Index(self.applied + 1), decode_check(body)
            self._check, stored = next_check(self.engine, number, span, self.revision, self.compacted)
            self._writer.overlay.changes[CHECKED_KEY] = stored
        return _OK_WITHOUT_BODY

    def take_integrity_news(self) -> tuple[Check | None, list[Finding]]:
        """Return the newest check asked for and the findings since the last call."""
        check, self._check = self._check, None
        findings, self._findings = self._findings, []
        return check, findings

    @property
    def has_integrity_news(self) -> bool:
        """Whether `take_integrity_news` returns anything."""
        return self._check is not None or bool(self._findings)

    @property
    def quarantined(self) -> bool:
        """Whether this very member is known to differ from the others, so that nothing it says of pairs can be true."""
        return self.alarms.concerns(AlarmType.CORRUPT, self._member)

    def _downgrade(self, body: bytes, encode: bool) -> Result:
        answer = self.downgrade.apply(DowngradeRequest.FromString(body), self._writer.overlay.changes)
        return _OK, self.header(self.revision) + answer if encode else _NO_BODY

    def defragmented(self) -> None:
        """Count what is not used as not taken either: the owner has had the engine rewritten."""
        self._writer.defragmented()
        self.engine.write([(STATE_KEY, pack_state(self.state()))])

    def _heed_alarms(self) -> None:
        """Have the commands refused that the alarms forbid: others are looked up as ever, and pay nothing for it."""
        commands = self._commands
        commands.pop(CommandKind.COMPACT, None)
        commands.update(self._allowed)
        if self.alarms.has(AlarmType.NOSPACE):
            commands[CommandKind.TXN] = self._txn_without_space
        for kind, code in self.alarms.refusals().items():
            commands[kind] = partial(_refuse, code)

    def _txn_without_space(self, body: bytes, encode: bool) -> Result:
        if has_put(TxnRequest.FromString(body)):
            raise ClientError(ErrorCode.NO_SPACE)
        return self._txn(body, encode)

    def _apply_lease_upkeep(self, entry: Entry) -> None:
        """Believe a leader only of its own term: nobody else's clock may end a lease."""
        upkeep = decode_upkeep(entry.data)
        if upkeep.term != entry.term:
            self.counters["lease_upkeeps_ignored"] += 1
            return
        for lease, granted, remaining_ms in upkeep.recorded:
            self.leases.record_remaining(lease, granted, remaining_ms)
        self.revision = self.leases.expire(upkeep.expired, self.revision)

    def _commit(self) -> None:
        """Write everything pending together with the bookkeeping."""
        writer = self._writer
        overlay = writer.overlay
        overlay.changes[STATE_KEY] = pack_state(self.state())
        if self.revision - self._counts_revision >= COUNTS_SAVED_EVERY_REVISIONS:
            overlay.changes[COUNTS_KEY] = self._pack_counts()
        self.engine.write(overlay.changes.items())
        if self.on_commit is not None:
            self.on_commit(overlay.changes)
        overlay.clear()
        writer.trim_cache()
        writer.keys.split_overgrown(self.engine)

    def state(self) -> StoreState:
        """Return the bookkeeping as it is written with every entry."""
        writer = self._writer
        return StoreState(
            self.applied,
            self.term,
            Revision(self.revision),
            Revision(self.compacted),
            Revision(self.finished),
            Revision(self.cursor),
            writer.size,
            writer.size_in_use,
        )

    # --- compaction ------------------------------------------------------------------------------

    def compact_step(self, rows: int) -> list[PhysicalWait]:
        """Give back a slice of what the compaction freed; return the waits this ends."""
        assert self.compacting, "nothing is left to compact"
        assert not self._writer.overlay.changes, "a slice runs between entries"
        step = compaction_slice(self.engine, self.cursor, self.compacted, rows)
        self.cursor = step.cursor
        self._writer.give_back(step.freed_bytes)
        self.counters["compacted_revisions"] += step.freed_revisions
        if step.cursor > self.compacted:
            self.finished = self.compacted
            self.cursor = max(self.compacted, 0)
        if self._counts_revision < self.compacted:
            # The log gets gaps up to here, so counts can no longer be caught up from before.
            step.changes[COUNTS_KEY] = self._pack_counts()
        step.changes[STATE_KEY] = pack_state(self.state())
        self.engine.write(step.changes.items())
        ended = [wait for wait in self.waits if wait.revision <= self.finished]
        self.waits = [wait for wait in self.waits if wait.revision > self.finished]
        return ended

    # --- counts ----------------------------------------------------------------------------------

    def save_counts(self) -> None:
        """Write the key counts, so that the next open has little to walk."""
        if self._counts_revision != self.revision:
            self.engine.write([(COUNTS_KEY, self._pack_counts())])

    def _pack_counts(self) -> bytes:
        self._counts_revision = self.revision
        return self._writer.keys.pack(self.revision)

    def _load_counts(self) -> int:
        """Read saved counts and catch them up from the log, or count everything."""
        keys = self._writer.keys
        saved = self.engine.get(COUNTS_KEY)
        if saved is None:
            keys.rebuild(self.engine)
            return 0
        revision = keys.unpack(saved)
        for _, record in self.engine.scan(log_key(revision + 1, 0), LOG_END):
            place = trailer(record)
            if place.kind != PUT:
                keys.discard(record_key(record))
            elif not place.previous_main:
                keys.add(record_key(record))
        keys.split_overgrown(self.engine)
        return revision

    def _set_term(self, term: Term) -> None:
        self.term = term
        self._term_bytes = b"\x20" + varint(term) if term else b""

    def check_invariants(self) -> None:
        """Assert what must hold between entries."""
        assert not self._writer.overlay.changes, "everything is written between entries"
        assert self.finished <= self.compacted <= self.revision, "compaction never runs ahead"
        assert 0 <= self.size_in_use <= self.size, "sizes never go below nothing"
        assert unpack_state(self.engine.get(STATE_KEY)) == self.state(), "the store knows what it applied"
        if self.auth.users or self.auth.roles:
            self.auth.check(self.engine)
