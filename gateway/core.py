"""The gateway without its doors: requests in, batches out, answers back, and nobody left waiting for ever.

Owns every open call: its batch, its deadline, and what becomes of it when leader, raft or applier change. Knows no
socket, stream or framing; the doors call `submit` and drain `answers`.

Invariants: a call is answered exactly once, or cancelled; a batch is proposed once, and when its fate is unknown
its calls are told so; what was certainly not proposed is held and tried again; a read never shows a state older
than one this gateway has published.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from actors.actor import Source
from actors.effects import Effect, Halt, Send
from actors.metrics import ActorMetrics
from gateway.access import Access
from gateway.attendance import Attendance
from gateway.auth_desk import Asking, AuthDesk, Doorman
from gateway.calls import Batch, Body, Lane, OpenCalls, check_placed, whole
from gateway.conversations import Conversations
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.guarded_streams import for_root
from gateway.housekeeping import LONG_TIMEOUTS_MS, PUT_OVERHEAD_BYTES, Housekeeper, complete_status
from gateway.leases import Grants, KeepAlives, answer_lessor_calls
from gateway.member_desk import MemberDesk, learner_refusal, list_members
from gateway.members import MemberCall
from gateway.methods import KEEP_ALIVE, KEEP_ALIVE_STREAM, PUT, SNAPSHOT, WATCH, Method, Route
from gateway.own_calls import OnAnswer, OwnCalls
from gateway.services import serve_services
from gateway.snapshots import SnapshotService
from gateway.streams import StreamTable
from gateway.watch_hub import WatchHub
from gateway.watch_stream import FRAGMENT_OVERHEAD_BYTES, WatchService
from protocol import local
from protocol.auth import NOBODY_KNOWN, encode_as
from protocol.command import BATCH_BYTES_MAX, COMMANDS_PER_BATCH_MAX, CommandKind, Origin, ReadKind, encode_batch
from protocol.config import ClusterConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import NOBODY, Index, MemberId, Millis, Revision, Term
from storage.wire_bytes import header_bytes, plain_put

REQUEST_TIMEOUT_BASE_MS: Final = 5000
"""etcd's own: a request is given up after this and two election timeouts (feature map, rule 13)."""
RETRY_MS: Final = 20
"""Pause before what was refused or came too early is tried again."""
TAKEN_REPORT_BYTES: Final = 4 * 1024 * 1024
"""The applier is told of so many bytes at once; it lets several times as many be on their way."""
SLOW_READ_MS: Final = 500
"""A read that waits longer for its index is counted as slow; etcd counts from where it asks again."""
_PENDING: Final = (int(ErrorCode.PENDING), b"")


class GatewayCore:
    """Batches, routes, answers."""

    name = "gateway"

    def __init__(self, identity: NodeIdentity, config: ClusterConfig, doorman: Doorman | None = None) -> None:
        """Without a `doorman` tokens are simple ones and passwords are hashed as the configuration says."""
        self.identity = identity
        self.config = config
        self.metrics = ActorMetrics()
        self.answers: list[tuple[int, int, Body]] = []
        self.now = Millis(0)
        self.term = Term(0)
        self.leader: MemberId = NOBODY
        self.applied = Index(0)
        self.revision = Revision(0)
        self._timeout_ms = REQUEST_TIMEOUT_BASE_MS + 2 * config.raft.election_timeout_ms
        self._calls = OpenCalls(config.limits.pending_requests_max, config.limits.pending_bytes_max)
        self._commands = Lane("commands", unserved_max=8, inflight_max=8, gathers=True, as_user=CommandKind.AS_USER)
        self._reads = Lane("reads", unserved_max=2, inflight_max=64)
        self._local_reads = Lane("local_reads", unserved_max=64, inflight_max=64)
        self._lessor_calls = Lane("lessor_calls", unserved_max=4, inflight_max=64)
        self.members = MemberDesk(self, self._calls.is_open)
        self._lanes = (self._commands, self._reads, self._local_reads, self._lessor_calls, self.members.lane)
        self._attendance = Attendance(config.raft.election_timeout_ms)
        self._refused: dict[int, None] = {}
        """Batches to be proposed again under their own sequence: should the first copy be alive after all, apply
        recognises the second as a repeat."""
        self._finishers: dict[int, Callable[[bytes], bytes]] = {}
        self._sequence = 0
        self._quota = config.storage.quota_bytes
        self._logical_bytes = 0
        self._proposed_bytes = 0
        """What was proposed since the store last told its size."""
        self._taken_bytes = 0
        """Of pieces that were taken since the applier was last told."""
        self._store_open = True
        self._stopped = False
        self._restricted = False
        """Whether this node stops or is a learner, so that a request needs a second look."""
        self._own = OwnCalls(self.submit)
        doorman = doorman or Doorman.of(config.auth)
        self.access = Access(doorman.tokens)
        self._desk = AuthDesk(self, doorman, self._own, self._commands, self._reads, self._local_reads)
        self.streams = StreamTable(config.limits.open_streams_max, config.raft.election_timeout_ms)
        """Open streaming calls; the services behind them register there."""
        self.watches = WatchHub(identity.incarnation, lambda: self.revision, config.watch.watchers_max)
        self._watch_service = WatchService(
            self.watches,
            self._header,
            config.watch.progress_notify_interval_ms,
            config.limits.request_bytes_max + FRAGMENT_OVERHEAD_BYTES,
            self._desk.permit_watch,
        )
        self.streams.serve(WATCH, self._watch_service.open)
        self._grants = Grants(identity, config.raft)
        self._housekeeper = Housekeeper(identity.member, config, self._propose, self.answer)
        self.streams.serve(KEEP_ALIVE_STREAM, KeepAlives(partial(self._own.submit, KEEP_ALIVE)).open)
        self.conversations = Conversations(self._own.submit, self.watches, lambda: self.now)
        self._stepped = serve_services(self.streams, self.conversations, self._own.submit)
        self._snapshots = SnapshotService(identity.incarnation)
        self.streams.serve(SNAPSHOT, for_root(self._snapshots.open, self._desk.permit_root))
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[str, Callable[[Any, Millis], None]]:
        return {
            "CommandsApplied": self._on_commands_applied,
            "ReadsServed": self._on_reads_served,
            "LeadershipChanged": self._on_leadership_changed,
            "ProposalRefused": partial(self._on_refused, self._commands),
            "ReadsRefused": partial(self._on_refused, self._reads),
            "LessorRefused": partial(self._on_refused, self._lessor_calls),
            "LessorAnswered": partial(answer_lessor_calls, self._lessor_calls, self.answer, self._calls.is_open),
            "MembersAnswered": self.members.on_answered,
            "LeadershipTransferEnded": self.members.on_answered,
            "StoreProgressed": self._on_store_progressed,
            "CommandAnswered": self._on_command_answered,
            "AnswerPiece": self._on_answer_piece,
            "ActorStarted": self._on_actor_started,
            "AuthChanged": self.access.on_changed,
            "PasswordHandled": lambda message, _now: self._desk.on_handled(message),
            "SnapshotExported": lambda message, _now: self._snapshots.on_local(message),
            "ExportPiece": lambda message, _now: self._snapshots.on_local(message),
            "HashTaken": lambda message, now: self._housekeeper.on_local(message, now, self.members.views),
            "HashFound": lambda message, now: self._housekeeper.on_local(message, now, self.members.views),
            "EventsApplied": lambda message, _now: self.watches.on_applied(message),
            "EventsRead": lambda message, _now: self.watches.on_read(message),
            "EventsFollowed": lambda message, _now: self.watches.on_followed(message),
        }

    # --- the doors' side ---------------------------------------------------------------------------

    def submit(
        self,
        call_id: int,
        method: Method,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Take a request; its answer appears in `answers`, now or later. `credentials` matter while rights do."""
        identity = NOBODY_KNOWN
        if self.access.guarded:
            refusal, identity = self.access.admit(method.need, credentials, self.applied, now)
            if refusal:
                self._desk.refused(refusal, call_id, method, body, now, deadline, credentials)
                return
        limits = self.config.limits
        size = len(body)
        over_quota, timeout_ms = False, self._timeout_ms
        if method is PUT and plain_put(body) is not None:
            lane, kind, quota = self._commands, 1, True
        else:
            code, route, kind, quota = method.rule(body, limits.txn_operations_max)
            if code:
                self._refuse(call_id, code)
                return
            if route is Route.COMMAND:
                lane = self._commands
            elif route is Route.LINEARIZABLE:
                lane = self._reads
            elif route is Route.LOCAL:
                lane, timeout_ms = self._local_reads, LONG_TIMEOUTS_MS.get(kind, timeout_ms)
                if kind == ReadKind.STATUS:
                    self._finishers[call_id] = self._finish_status
            elif route is Route.GRANT:
                lane, body = self._commands, self._grants.complete(body)
            elif route is Route.DESK and not self._restricted:
                self._desk.begin(call_id, kind, body, now, deadline, identity)
                return
            elif route is Route.STEPS:
                self._stepped.open(call_id, method, body, now, deadline, credentials)
                return
            else:
                wanted = self._other_lane(call_id, route, kind)
                if wanted is None:
                    return
                lane, kind = wanted
        if size > limits.request_bytes_max and lane is self._commands:
            self._refuse(call_id, ErrorCode.REQUEST_TOO_LARGE)
            return
        if self._restricted:
            code = learner_refusal(method, kind, own_state=lane is self._local_reads)
            if self._stopped or code:
                self._refuse(call_id, ErrorCode.STOPPED if self._stopped else code)
                return
        if quota and self._quota:
            over_quota = self._logical_bytes + self._proposed_bytes + size + PUT_OVERHEAD_BYTES >= self._quota
            if over_quota and self._housekeeper.out_of_space:
                self._refuse(call_id, ErrorCode.NO_SPACE)
                return
        if not self._calls.open(call_id, size, now, deadline, timeout_ms):
            self._refuse(call_id, ErrorCode.TOO_MANY_REQUESTS)
        elif over_quota:
            self._housekeeper.hold(call_id, now)
        else:
            if identity.revision and lane.as_user:
                kind, body = lane.as_user, encode_as(identity, kind, body)
            lane.queue.append((call_id, kind, body))

    def _other_lane(self, call_id: int, route: Route, kind: int) -> tuple[Lane, int] | None:
        """Return where a call waits that is neither command nor read; None if it is answered at once."""
        if route is Route.LESSOR:
            self._finishers[call_id] = lambda answer: self._header(self.revision) + answer
            return self._lessor_calls, kind
        answer, lane = self.members.route(route, kind, self._reads)
        if answer is not None:
            self.finish(call_id, *answer)
            return None
        if lane is self._reads:
            kind, self._finishers[call_id] = int(ReadKind.BARRIER), list_members
        return lane, kind

    def ask(self, lane: Lane | None, call: Asking, kind: int, body: bytes) -> bool:
        """Open a call of several steps for its next step, in a lane or in none; False if it was refused."""
        now, size = self.now, len(body)
        refusal = ErrorCode.STOPPED if self._stopped else ErrorCode.OK
        if size > self.config.limits.request_bytes_max:
            refusal = ErrorCode.REQUEST_TOO_LARGE
        elif not refusal and not self._calls.open(call.call_id, size, now, call.deadline, self._timeout_ms):
            refusal = ErrorCode.TOO_MANY_REQUESTS
        if refusal:
            self._refuse(call.call_id, refusal)
        elif lane is not None:
            if call.identity.revision:
                kind, body = lane.as_user, encode_as(call.identity, kind, body)
            lane.queue.append((call.call_id, kind, body))
        return not refusal

    def cancel(self, call_id: int) -> None:
        """Forget a call whose client is gone; what it asked may still happen."""
        if not self._calls.close(call_id):
            self.streams.cancel(call_id)
        self._finishers.pop(call_id, None)
        self._desk.steps.pop(call_id, None)

    def _refuse(self, call_id: int, code: ErrorCode) -> None:
        self._desk.steps.pop(call_id, None)
        self.finish(call_id, code, b"")

    def finish(self, call_id: int, code: int, body: Body) -> None:
        """Answer a call that is not open any more."""
        self._finishers.pop(call_id, None)
        if call_id < 0:
            self._own.tell(call_id, code, whole(body))
        else:
            self.answers.append((call_id, code, body))

    def _propose(self, kind: CommandKind, body: bytes, now: Millis, on_answer: OnAnswer) -> None:
        """Put a command of this node's own into the log."""
        self.now = now
        call = Asking(self._own.begin(on_answer, command=True), None)
        self.ask(self._commands, call, int(CommandKind.AS_NODE), bytes((kind,)) + body)

    # --- the actor's side --------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When a call runs out, or something is to be tried again."""
        due = self._calls.deadline
        for service in (self.streams, self._watch_service, self._housekeeper, self._attendance):
            if service.deadline is not None and (due is None or service.deadline < due):
                due = service.deadline
        for lane in self._lanes:
            for at in (lane.paused_until, lane.due):
                if at is not None and (due is None or at < due):
                    due = at
        return due

    def start(self, now: Millis) -> list[Effect]:
        """Nothing to ask for: raft and applier say where they stand."""
        self._housekeeper.start(now)
        return []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """React to one message of this node's actors."""
        self.now = now
        if isinstance(message, local.StopActor):
            return self._stop()
        handler = self._handlers.get(message.kind)
        if handler is not None:
            handler(message, now)
        return []

    def wake(self, now: Millis) -> list[Effect]:
        """Answer the calls that have run out of time."""
        self.now = now
        expired = self._calls.expire(now)
        for call_id, code in expired:
            self._refuse(call_id, code)
        if expired:
            self._commands.drop_dead(self._calls.is_open)
        self.streams.wake(now)
        self._watch_service.wake(now)
        for lane in self._lanes:
            lane.wake(now)
        return self._housekeeper.wake(now, leads=self.leader == self.identity.member)

    def end_turn(self, now: Millis) -> list[Effect]:
        """Send what the turn has gathered, one batch or a few per lane."""
        effects: list[Effect] = []
        if self.leader != NOBODY:
            commands = self._commands
            if (commands.queue or self._refused) and commands.resume(now):
                if self._refused:
                    self._send_again(effects)
                self._send(commands, "raft", local.ProposeBatch, now, effects)
            for lane, question in ((self._reads, local.RequestReads), (self._lessor_calls, local.AskLessor)):
                if lane.queue and lane.resume(now):
                    self._send(lane, "raft", question, now, effects)
            self.members.send(now, effects)
        local_reads = self._local_reads
        effects += self._attendance.end_turn(now, watched=self.watches.watchers > 0, read=bool(local_reads.queue))
        if local_reads.queue and self._store_open and local_reads.resume(now):
            self._send(local_reads, "applier", local.ServeReads, now, effects)
        effects += [Send("applier", request) for request in self.watches.take()]
        if self._snapshots.effects:
            effects += self._snapshots.take()
        if self._desk.waiting:
            effects += self._desk.take_work()
        if self._taken_bytes >= TAKEN_REPORT_BYTES:
            effects.append(Send("applier", local.PiecesTaken(size_bytes=self._taken_bytes)))
            self._taken_bytes = 0
        if self.streams.stepped:
            self.answers += self._stepped.collect()
        return effects

    def check_invariants(self) -> None:
        """Every open call is somewhere, and everything is counted right."""
        self._calls.check()
        self.streams.check()
        self.watches.check()
        check_placed(self._calls.all(), self._lanes, (*self._housekeeper.held, *self._desk.at_work()))
        self._own.check(self._calls.all())

    def _send(
        self,
        lane: Lane,
        to: str,
        form: type[local.ProposeBatch | local.RequestReads | local.AskLessor | local.ServeReads],
        now: Millis,
        effects: list[Effect],
    ) -> None:
        lane.due = None
        if lane is self._commands and (lane.full or lane.gathering):
            self._commands.drop_dead(self._calls.is_open)
        if lane.gathering and not lane.out_of_patience(now):
            lane.due = lane.patience_ends(now)
            return
        while lane.queue and lane.may_send(now):
            ids: list[int] = []
            flat: list[int | bytes] = []
            size = 0
            queue = lane.queue
            still_open = self._calls.is_open
            while queue and len(ids) < COMMANDS_PER_BATCH_MAX:
                call_id, kind, body = queue[0]
                if ids and size + len(body) > BATCH_BYTES_MAX:
                    break
                queue.popleft()
                if still_open(call_id):
                    ids.append(call_id)
                    flat.append(kind)
                    flat.append(body)
                    size += len(body)
            if not ids:
                return
            self._sequence = sequence = self._sequence + 1
            origin = Origin(self.identity.member, self.identity.incarnation, sequence)
            lane.sent(sequence, Batch(ids, flat, self.term, self.leader, now))
            if lane is self._commands:
                self._proposed_bytes += size + len(ids) * PUT_OVERHEAD_BYTES
            effects.append(Send(to, form.make(sequence=sequence, payload=encode_batch(origin, flat))))
        if lane.queue:
            lane.due = lane.patience_ends(now)

    def _send_again(self, effects: list[Effect]) -> None:
        """Propose the refused batches once more."""
        refused, self._refused = self._refused, {}
        for sequence in refused:
            batch = self._commands.inflight.get(sequence)
            if batch is None:
                continue
            if not any(self._calls.is_open(call_id) for call_id in batch.ids):
                self._commands.done(sequence)
                continue
            origin = Origin(self.identity.member, self.identity.incarnation, sequence)
            payload = encode_batch(origin, batch.flat)
            effects.append(Send("raft", local.ProposeBatch.make(sequence=sequence, payload=payload)))

    # --- answers -----------------------------------------------------------------------------------

    def answer(self, call_id: int, code: int, body: Body) -> None:
        """Answer a call if somebody still waits, or take its next step."""
        if self._finishers and not code and self._finishers.get(call_id) is list_members:
            del self._finishers[call_id]
            self.members.lane.queue.append((call_id, int(MemberCall.LIST), b""))
            return
        if self._calls.close(call_id) and not (self._desk.steps and self._desk.goes_on(call_id, code, body)):
            if self._finishers and not code and (finisher := self._finishers.pop(call_id, None)) is not None:
                body = finisher(whole(body))
            self.finish(call_id, code, body)

    def _on_commands_applied(self, message: local.CommandsApplied, now: Millis) -> None:
        self._publish(message.applied, message.revision)
        if message.incarnation != self.identity.incarnation:
            return  # a restarted applier replays what an earlier gateway proposed under the same sequence
        batch = self._commands.inflight.get(message.sequence)
        if batch is None:
            return
        self._commands.progressed(batch, now)
        self._commands.done(message.sequence)
        self._refused.pop(message.sequence, None)
        close = self._calls.close
        append = self.answers.append
        if batch.pieces or self._own.commands or self._desk.steps or _PENDING in message.results:
            self._answer_one_by_one(batch, message)
            return
        for call_id, (code, body) in zip(batch.ids, message.results, strict=True):
            if close(call_id):
                append((call_id, code, body))

    def _answer_one_by_one(self, batch: Batch, message: local.CommandsApplied) -> None:
        """Answer a batch with commands of this node's own, or of which large answers came ahead in pieces."""
        later: dict[int, int] = {}
        for position, (call_id, (code, body)) in enumerate(zip(batch.ids, message.results, strict=True)):
            if code == ErrorCode.PENDING:
                later[position] = call_id
            else:
                self.answer(call_id, code, batch.complete(position, body))
        if later:
            self._commands.answered_later[message.sequence] = later

    def _on_answer_piece(self, message: local.AnswerPiece, now: Millis) -> None:
        self._taken_bytes += len(message.piece)
        if message.incarnation != self.identity.incarnation:
            return
        for lane in self._lanes:
            batch = lane.inflight.get(message.sequence)
            if batch is not None:
                lane.progressed(batch, now)
                if self._calls.is_open(batch.ids[message.position]):
                    batch.pieces.setdefault(message.position, []).append(message.piece)

    def _on_command_answered(self, message: local.CommandAnswered, _now: Millis) -> None:
        waiting = self._commands.answered_later.get(message.sequence)
        if waiting is None or message.incarnation != self.identity.incarnation:
            return
        call_id = waiting.pop(message.position, None)
        if not waiting:
            del self._commands.answered_later[message.sequence]
        if call_id is not None:
            self.answer(call_id, message.code, message.body)

    def _on_reads_served(self, message: local.ReadsServed, now: Millis) -> None:
        lane = self._reads if message.sequence in self._reads.inflight else self._local_reads
        batch = lane.inflight.get(message.sequence)
        if batch is None or message.incarnation != self.identity.incarnation:
            return
        if message.applied < self.applied:
            # A restarted applier still replays: what it shows is older than what clients have seen.
            self.requeue(lane, message.sequence, [position for position, _, _ in message.results])
            lane.pause(Millis(now + RETRY_MS))
            return
        self._publish(message.applied, message.revision)
        pieces = batch.pieces
        for position, code, body in message.results:
            self.answer(batch.ids[position], code, batch.complete(position, body) if pieces else body)
        batch.left -= len(message.results)
        if not batch.served and lane is self._reads and now - batch.sent_at > SLOW_READ_MS:
            self.metrics.count("etcd_server_slow_read_indexes_total", len(batch.ids))
        lane.progressed(batch, now)
        if batch.left <= 0:
            lane.done(message.sequence)

    def _publish(self, applied: Index, revision: Revision) -> None:
        if applied > self.applied:
            self.applied = applied
        if revision > self.revision:
            self.revision = revision

    def _header(self, revision: int) -> bytes:
        """Return a response header for a revision, framed."""
        return header_bytes(self.identity.cluster, self.identity.member, Revision(revision), self.term)

    def _finish_status(self, body: bytes) -> bytes:
        return complete_status(body, self.identity.member, self.leader, self.term, self.members.views)

    # --- when something changes --------------------------------------------------------------------

    def _on_leadership_changed(self, message: local.LeadershipChanged, now: Millis) -> None:
        self.streams.barred = self.members.learn(message.members)
        self._restricted = self._stopped or self.members.is_learner
        self.streams.lead(message.leader, now)
        if (message.term, message.leader) == (self.term, self.leader):
            return
        self.term = message.term
        self.leader = message.leader
        self._commands.paused_until = self._reads.paused_until = self._lessor_calls.paused_until = None
        self._give_up_proposals(ErrorCode.LEADER_CHANGED)

    def _give_up_proposals(self, code: ErrorCode) -> None:
        """Tell everybody whose batch was on its way that its fate is unknown."""
        for sequence in [sequence for sequence in self._commands.inflight if sequence not in self._refused]:
            batch = self._commands.done(sequence)
            assert batch is not None, "it was just listed"
            self.metrics.count("etcd_server_proposals_failed_total", len(batch.ids))
            for call_id in batch.ids:
                self.answer(call_id, code, b"")

    def _on_refused(
        self, lane: Lane, message: local.ProposalRefused | local.ReadsRefused | local.LessorRefused, now: Millis
    ) -> None:
        """What was certainly not done is tried again, unless the node is simply too busy."""
        sequence, code = message.sequence, message.code
        if code == ErrorCode.TOO_MANY_REQUESTS:
            batch = lane.done(sequence)
            if batch is not None:
                if lane is self._commands:
                    self.metrics.count("etcd_server_proposals_failed_total", len(batch.ids))
                for call_id in batch.ids:
                    self.answer(call_id, code, b"")
            return
        if sequence not in lane.inflight:
            return
        if lane is self._commands:
            self._refused[sequence] = None
        else:
            self.requeue(lane, sequence, None)
        lane.pause(Millis(now + RETRY_MS))

    def requeue(self, lane: Lane, sequence: int, positions: list[int] | None) -> None:
        """Put calls of a batch, or all of them, back at the head of their lane."""
        lane.requeue(sequence, positions, self._calls.is_open)

    def _on_store_progressed(self, message: local.StoreProgressed, _now: Millis) -> None:
        self._store_open = True
        self._logical_bytes = message.logical_bytes
        self._housekeeper.progressed(message)
        self._proposed_bytes = 0

    def _on_actor_started(self, message: local.ActorStarted, now: Millis) -> None:
        if message.actor == "raft":
            self.leader = NOBODY
            self.streams.lead(NOBODY, now)
            self._give_up_proposals(ErrorCode.TIMEOUT_CONNECTION_LOST)
            for lane in (self._reads, self._lessor_calls):
                for sequence in list(lane.inflight):
                    self.requeue(lane, sequence, None)
            self.members.raft_lost(now)
        elif message.actor == "applier":
            self._store_open = False
            self.watches.applier_started()
            self._snapshots.applier_started()
            for waiting in self._commands.answered_later.values():
                for call_id in waiting.values():
                    self.answer(call_id, ErrorCode.TIMEOUT_CONNECTION_LOST, b"")
            self._commands.answered_later.clear()
            for sequence in list(self._local_reads.inflight):
                self.requeue(self._local_reads, sequence, None)

    def _stop(self) -> list[Effect]:
        self._stopped = self._restricted = True
        for call_id in self._calls.all():
            self.answer(call_id, ErrorCode.STOPPED, b"")
        self.streams.end_all(ErrorCode.STOPPED)
        self.answers += self._stepped.collect()
        return [Halt("stopped")]

    def measure(self) -> None:
        """Refresh the gauges; called by the loop before a page or a report."""
        pending = sum(len(batch.ids) for batch in self._commands.inflight.values())
        self.metrics.gauge("etcd_server_proposals_pending", pending + len(self._commands.queue))
        self.metrics.gauge("etcd_debugging_mvcc_watch_stream_total", self._watch_service.streams)
        self.metrics.gauge("etcd_debugging_mvcc_watcher_total", self.watches.watchers)
        self.metrics.gauge("etcd_debugging_mvcc_slow_watcher_total", self.watches.slow)
