"""What the actors of one node say to each other. Lossless and ordered per link, until one of them dies.

Links: gateway <-> raft, raft <-> wal, raft <-> applier, applier -> gateway, gateway -> applier.
Events: the gateway asks for them while somebody watches, and gives back credit as it takes them; what it was not sent
for want of credit, or for any other reason, it reads from the log with `ReadEvents`.
A payload here is opaque to everyone but the actor that applies it.
"""

from typing import ClassVar, NamedTuple

from protocol.membership import MemberChange
from protocol.membership import MemberView as MemberView
from protocol.message import Message
from protocol.types import Entry, HardState, Incarnation, Index, LogMark, LogPosition, MemberId, Millis, Revision, Term


class LocalMessage(Message):
    """A message inside one node."""

    abstract: ClassVar[bool] = True


# --- gateway -> raft -------------------------------------------------------------------------------


class ProposeBatch(LocalMessage):
    """Put `payload` (a `protocol.command` batch) into the log, here or at the leader; at most once."""

    sequence: int
    payload: bytes


class RequestReads(LocalMessage):
    """Confirm leadership, then have the applier serve `payload` no earlier than what is committed now.

    `payload` is a `protocol.command` batch of `ReadKind`s whose origin names this gateway.
    """

    sequence: int
    payload: bytes


class AskLessor(LocalMessage):
    """Have the leader's lessor answer `payload`, here or at another member, once its leadership is confirmed.

    `payload` is a `protocol.command` batch of lease `ReadKind`s.
    """

    sequence: int
    payload: bytes


class ClientsAttended(LocalMessage):
    """Clients of this node watch, or read what is here: for an election timeout it should not learn anything late."""


class TransferLeadership(LocalMessage):
    """Hand leadership to `target` (NOBODY: the voter that is furthest ahead)."""

    sequence: int
    target: MemberId


class ChangeMembers(LocalMessage):
    """Change the member table, here or at the leader; answered by `MembersAnswered`, at most once done."""

    sequence: int
    change: MemberChange


class ListMembers(LocalMessage):
    """Tell the members as of what is committed now; answered by `MembersAnswered`."""

    sequence: int


# --- raft -> gateway -------------------------------------------------------------------------------


class ProposalRefused(LocalMessage):
    """The batch `sequence` was certainly not put into any log; `code` is a `protocol.errors.ErrorCode`."""

    sequence: int
    code: int


class ReadsRefused(LocalMessage):
    """The reads `sequence` will not be served; `code` is a `protocol.errors.ErrorCode`."""

    sequence: int
    code: int


class LessorAnswered(LocalMessage):
    """The lessor's answers to the batch `sequence`, one `(code, body)` per call in order; bodies lack their header.

    A code of `NOT_LEADER` says: this one not yet, ask again.
    """

    sequence: int
    results: tuple[tuple[int, bytes], ...]


class LessorRefused(LocalMessage):
    """The batch `sequence` will not be answered; `code` is a `protocol.errors.ErrorCode`. Asking again is harmless."""

    sequence: int
    code: int


class LeadershipTransferEnded(LocalMessage):
    """The transfer `sequence` succeeded (code 0) or did not."""

    sequence: int
    code: int


class MembersAnswered(LocalMessage):
    """The answer to `ChangeMembers` or `ListMembers`: an `ErrorCode`, and where it is OK the members from then on.

    `NO_LEADER` says that the change was certainly not made, `LEADER_CHANGED` that nobody knows.
    """

    sequence: int
    code: int
    members: tuple[MemberView, ...]


class LeadershipChanged(LocalMessage):
    """Term, leader or committed membership changed; sent at once. `leader` is NOBODY while none is known.

    Every proposal and read that was pending on another (term, leader) has an unknown outcome from here on.
    """

    term: Term
    leader: MemberId
    members: tuple[MemberView, ...]


# --- raft <-> wal ----------------------------------------------------------------------------------


class PeerOutbound(NamedTuple):
    """An encoded peer message that must not leave before the write it waits for is synced."""

    to: MemberId
    bulk: bool
    body: bytes


class PersistEntries(LocalMessage):
    """Write and sync; only then let `outbound` leave and answer `EntriesPersisted(ticket, last)`.

    Entries replace whatever the log holds from the first one's index on (a follower's conflict).
    `last` is the log's last position once this write is durable. Tickets grow by one per message.
    `outbound` never waits; the answer may, `answer_within_ms` for others to share it.
    """

    ticket: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    last: LogPosition
    outbound: tuple[PeerOutbound, ...]
    answer_within_ms: int = 0


class PeersChanged(LocalMessage):
    """From now on these are the members and the peer URLs they are dialled at: what is held may be for a new one."""

    peers: tuple[tuple[MemberId, str], ...]


class EntriesPersisted(LocalMessage):
    """Everything up to and including `ticket` is on disk; the log ended at `last` when it was.

    Ticket and position both, because an index can be rewritten while its first write is in flight.
    """

    ticket: int
    last: LogPosition


class CutLog(LocalMessage):
    """Make `mark` durable, then forget entries up to `keep_after` (at most `mark.index`).

    With `mark.stage` set the log restarts empty behind the mark: a snapshot is about to be installed.
    """

    ticket: int
    mark: LogMark
    keep_after: Index


class LogCut(LocalMessage):
    """The mark of `ticket` is durable and the space is being given back."""

    ticket: int
    mark_index: Index


class RecoverLog(LocalMessage):
    """Asked by raft at its start, and again after each `LogRecovered` that is not the final one."""


class LogRecovered(LocalMessage):
    """The next part of what the disk held: entries in order, at most 4 MiB unless one is larger; `final` ends it."""

    mark: LogMark
    hard_state: HardState
    entries: tuple[Entry, ...]
    final: bool


# --- raft <-> applier ------------------------------------------------------------------------------


class OpenStore(LocalMessage):
    """Asked by raft once at start; answered by `StoreOpened`. `mark` is the WAL's: a staged install it
    announces is finished before the store is opened, a stage without a mark is deleted.
    """

    mark: LogMark


class StoreOpened(LocalMessage):
    """The store is open; `applied` is the last entry in it. Apply continues right behind."""

    applied: Index
    revision: Revision


class ApplyEntries(LocalMessage):
    """Apply these committed entries, durable in this node's own WAL, in order. `commit` is raft's commit index."""

    entries: tuple[Entry, ...]
    commit: Index


class ServeReads(LocalMessage):
    """Serve a batch of reads now: everything it must see came before it on this ordered link.

    From raft for linearizable reads, straight from the gateway for serializable ones.
    """

    sequence: int
    payload: bytes


class OfficeChanged(LocalMessage):
    """This node's raft has begun to lead `term`, or (`leads` False) leads no more: the lessor's time begins or ends."""

    term: Term
    leads: bool


class ServeLessorCalls(LocalMessage):
    """Answer a batch of lease calls now. Leadership was confirmed at `confirmed_at`, after the batch had come.

    `asker` and `context` say whose it is; they go back with the answer.
    """

    asker: MemberId
    context: int
    payload: bytes
    confirmed_at: Millis


class LessorCallsServed(LocalMessage):
    """Answers of the lessor to the batch `context` of `asker`, in order; bodies lack their header."""

    asker: MemberId
    context: int
    results: tuple[tuple[int, bytes], ...]


class ProposeUpkeep(LocalMessage):
    """Put `payload` (`protocol.lease`) into the log if this node still leads `term`; answered only by a refusal.

    It is never handed to another member.
    """

    term: Term
    payload: bytes


class UpkeepRefused(LocalMessage):
    """The upkeep of `term` was not put into any log and never will be."""

    term: Term


class EntriesApplied(LocalMessage):
    """Applied up to `applied`; the credit that lets raft hand over more."""

    applied: Index


class FlushStore(LocalMessage):
    """Make what is applied durable, off the request path; answered by `StoreFlushed`."""

    ticket: int


class StoreFlushed(LocalMessage):
    """Everything up to `durable` survives a power cut."""

    ticket: int
    durable: Index


class BuildSnapshot(LocalMessage):
    """Flush, then checkpoint the store into the directory `name` under the node's `snapshots/`."""

    name: str


class SnapshotBuilt(LocalMessage):
    """The checkpoint `name` holds everything up to `index` (0: it failed, the reason is logged)."""

    name: str
    index: Index
    term: Term


class DropSnapshot(LocalMessage):
    """Delete the checkpoint `name`; nobody reads it any more."""

    name: str


class InstallSnapshot(LocalMessage):
    """Swap the store for the staged snapshot `stage`; the WAL mark that allows it is already durable."""

    stage: str
    index: Index
    term: Term


class SnapshotInstalled(LocalMessage):
    """The store now is the snapshot; apply continues behind `index`."""

    index: Index
    revision: Revision


# --- snapshot helpers (short-lived processes) ------------------------------------------------------


class SnapshotStaged(LocalMessage):
    """The receiver has `stage` complete, verified and fsynced on this node's disk."""

    stage: str
    index: Index
    term: Term
    configuration: bytes
    sender: MemberId


class SnapshotSendEnded(LocalMessage):
    """The sender to `to` is done; `delivered` says whether the follower confirmed a complete stage."""

    to: MemberId
    name: str
    delivered: bool


# --- applier -> gateway ----------------------------------------------------------------------------


class CommandsApplied(LocalMessage):
    """Answers to this gateway's own batch `sequence`, one `(code, body)` per command in order.

    `code` is an `ErrorCode`; with OK `body` is the whole protobuf response, header included, else it is
    empty. `applied` and `revision` are the store's after the batch.
    """

    incarnation: Incarnation
    sequence: int
    results: tuple[tuple[int, bytes], ...]
    applied: Index
    revision: Revision


class CommandAnswered(LocalMessage):
    """The late answer to the command at `position` of batch `sequence`, whose code was `PENDING` in
    `CommandsApplied` (a compaction with `physical` set).
    """

    incarnation: Incarnation
    sequence: int
    position: int
    code: int
    body: bytes


class AnswerPiece(LocalMessage):
    """A part of the answer at `position` of batch `sequence`, to a read or a command: too large to travel whole.

    Pieces come in their order and ahead of the message that ends the answer; its body is the last piece.
    """

    incarnation: Incarnation
    sequence: int
    position: int
    piece: bytes


class ReadsServed(LocalMessage):
    """Answers to reads of the batch `sequence`: `(position in the batch, code, body)` each.

    Long reads answer later than short ones, so one batch may be answered in several messages.
    """

    incarnation: Incarnation
    sequence: int
    results: tuple[tuple[int, int, bytes], ...]
    applied: Index
    revision: Revision


class PiecesTaken(LocalMessage):
    """From the gateway to the applier: so many bytes of `AnswerPiece`s were taken; there is room for as many more."""

    size_bytes: int


class StoreProgressed(LocalMessage):
    """Where the store stands; sent when it opened, after an install, and with each idle second of progress.

    `alarms` are `(AlarmType, member)`; when they change it is sent at once.
    """

    applied: Index
    revision: Revision
    compacted: Revision
    logical_bytes: int
    alarms: tuple[tuple[int, MemberId], ...] = ()


# --- events, for watches ---------------------------------------------------------------------------


class FollowEvents(LocalMessage):
    """Gateway to applier: publish events from now on; answered by `EventsFollowed`.

    Repeated with the same session it only changes `previous`: whether events carry the pairs they replaced.
    """

    incarnation: Incarnation
    session: int
    previous: bool


class UnfollowEvents(LocalMessage):
    """Gateway to applier: nobody watches any more; publish nothing."""

    session: int


class EventsFollowed(LocalMessage):
    """Everything after `revision` will be published; from here on with or without the replaced pairs."""

    session: int
    previous: bool
    revision: Revision


class EventsApplied(LocalMessage):
    """The events of all revisions after `after` up to `through`, whole revisions in order.

    `records` are records of the log as `storage.layout` has them. `previous` is empty, or holds for each record the
    framed pair it replaced (b"": none). Where `after` is higher than what the gateway has, events in between were not
    sent, and stand in the log.
    """

    session: int
    after: Revision
    through: Revision
    records: tuple[bytes, ...]
    previous: tuple[bytes, ...]


class EventsTaken(LocalMessage):
    """Gateway to applier: so many bytes of `EventsApplied` were handled; that much more may be sent."""

    session: int
    size: int


class ReadEvents(LocalMessage):
    """Gateway to applier: read the log from revision (main, sub) on, a slice of it, for these keys and ranges.

    `ranges` are (key, range end) pairs as requests have them.
    """

    sequence: int
    main: Revision
    sub: int
    ranges: tuple[tuple[bytes, bytes], ...]
    previous: bool


class EventsRead(LocalMessage):
    """Answers `ReadEvents`: matching records of the log up to, not including, revision (next_main, next_sub).

    It never goes beyond what has been published before it on this link.

    With `next_sub` above 0 the slice ends inside a revision. `compacted` above the revision asked for: it has no
    complete history any more, and nothing was read. `next_main` 0: the store is not open.
    """

    sequence: int
    records: tuple[bytes, ...]
    previous: tuple[bytes, ...]
    next_main: Revision
    next_sub: int
    compacted: Revision


# --- supervisor and shells -------------------------------------------------------------------------


class ActorStarted(LocalMessage):
    """Another actor of this node runs under a new incarnation: what it was told before is gone."""

    actor: str
    incarnation: Incarnation


class ActorStalled(LocalMessage):
    """Another actor of this node has missed its beats (`stalled`) or gives them again; a leader hands over."""

    actor: str
    stalled: bool


class HelperEnded(LocalMessage):
    """A short-lived helper this actor asked for is gone; `failure` is empty when it ended well."""

    helper: str
    failure: str


class MetricsReported(LocalMessage):
    """Counters (absolute since the incarnation began), gauges and histogram bucket counts of one actor, once a second.

    Keys are metric names with their labels in Prometheus text form, e.g. `etcd_server_has_leader`.
    """

    actor: str
    incarnation: Incarnation
    counters: dict[str, float]
    gauges: dict[str, float]
    histograms: dict[str, tuple[float, tuple[int, ...]]]


class Beat(LocalMessage):
    """The actor's loop turns; from an actor to its supervisor, and from the supervisor to the launcher."""


class SpawnRequested(LocalMessage):
    """An actor wants a short-lived helper with these arguments."""

    helper: str
    arguments: dict[str, object]


class ActorHalted(LocalMessage):
    """Why an actor is about to end; `story` is what happened last, newest at the end."""

    actor: str
    reason: str
    failed: bool
    fatal: bool
    story: tuple[str, ...]


class NodeStopped(LocalMessage):
    """A supervisor's last word to its launcher; `failure` is empty when it was asked to stop."""

    node: str
    failure: str


class StopActor(LocalMessage):
    """Finish cleanly: answer what can be answered, flush, sync, close, end."""
