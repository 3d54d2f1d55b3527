"""The applier's part in leases: it tells its lessor what the log says, and raft what the lessor wants in the log.

Owns the way between store, lessor and messages. Knows no rule of time; those are the lessor's.
Invariant: the lessor hears of every change of a lease in the order of the log, from the first entry of its office on.
"""

from google.protobuf.message import DecodeError

from actors.effects import Effect, Log, Send
from actors.lessor import Lessor
from protocol.auth import NOBODY_KNOWN, decode_as
from protocol.command import ReadKind, decode_batch
from protocol.config import ClusterConfig
from protocol.errors import ClientError, ErrorCode
from protocol.lease import encode_upkeep
from protocol.local import LessorCallsServed, OfficeChanged, ProposeUpkeep, ServeLessorCalls, UpkeepRefused
from protocol.types import Entry, EntryKind, Millis
from protocol.wire.rpc_pb2 import (
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from storage.lease import attached_keys
from storage.mvcc import MvccStore, Result

_ASK_AGAIN: Result = (int(ErrorCode.NOT_LEADER), b"")


class LeaseDesk:
    """What an applier does for leases besides applying."""

    def __init__(self, config: ClusterConfig) -> None:
        self.lessor = Lessor(config.leases, config.raft.election_timeout_ms)

    @property
    def deadline(self) -> Millis | None:
        """When `advance` has something to do."""
        return self.lessor.deadline

    def on_office_changed(self, message: OfficeChanged, store: MvccStore) -> None:
        """An office begins or ends."""
        if message.leads:
            self.lessor.appointed(message.term)
        else:
            self.lessor.dismissed()
        book = store.leases
        book.followed = False
        book.order = int
        book.take_changes()

    def on_applied(self, store: MvccStore, entry: Entry, now: Millis) -> Effect | None:
        """An entry was applied while an office lasts; return what is to be told of it."""
        lessor, book = self.lessor, store.leases
        if lessor.begun_at is None:
            if entry.term != lessor.office:
                return None
            lessor.begin(now)
            book.followed = True
            book.order = lessor.expires_at
            return Log("info", "lessor_begins", {"term": entry.term, "index": entry.index})
        for lease, record in book.take_changes():
            lessor.changed(lease, record, now)
        if entry.kind == EntryKind.LEASE_UPKEEP and entry.term == lessor.office:
            lessor.settled()
        return None

    def on_serve_calls(self, message: ServeLessorCalls, store: MvccStore, now: Millis) -> Effect:
        """Answer a batch of calls."""
        _, commands = decode_batch(message.payload)
        confirmed_at = message.confirmed_at
        results: list[Result] = []
        for asked_kind, asked_body in commands:
            kind, body = asked_kind, asked_body
            try:
                identity = NOBODY_KNOWN
                if kind == ReadKind.AS_USER:
                    identity, kind, body = decode_as(body)
                if store.auth.enabled:
                    store.guard.check_read(identity, kind, body, store.engine)
                if kind == ReadKind.LEASE_KEEP_ALIVE:
                    results.append(self._keep_alive(body, store, confirmed_at, now))
                elif kind == ReadKind.LEASE_TIME_TO_LIVE:
                    results.append(self._time_to_live(body, store, confirmed_at, now))
                else:
                    results.append((int(ErrorCode.UNIMPLEMENTED), b""))
            except ClientError as error:
                results.append((int(error.code), b""))
            except DecodeError:
                results.append((int(ErrorCode.MALFORMED), b""))
        served = LessorCallsServed(asker=message.asker, context=message.context, results=tuple(results))
        return Send("raft", served)

    def on_upkeep_refused(self, message: UpkeepRefused, now: Millis) -> None:
        """Raft did not append what the lessor wanted."""
        self.lessor.refused(message.term, now)

    def advance(self, store: MvccStore, now: Millis) -> list[Effect]:
        """Let the lessor's time pass."""
        upkeep = self.lessor.advance(store.engine, now)
        if upkeep is None:
            return []
        return [Send("raft", ProposeUpkeep(term=upkeep.term, payload=encode_upkeep(upkeep)))]

    def _keep_alive(self, body: bytes, store: MvccStore, confirmed_at: Millis, now: Millis) -> Result:
        lease = LeaseKeepAliveRequest.FromString(body).ID
        ttl_s = self.lessor.keep_alive(lease, store.engine, confirmed_at, now)
        if ttl_s is None:
            return _ASK_AGAIN
        return int(ErrorCode.OK), LeaseKeepAliveResponse(ID=lease, TTL=ttl_s).SerializeToString()

    def _time_to_live(self, body: bytes, store: MvccStore, confirmed_at: Millis, now: Millis) -> Result:
        request = LeaseTimeToLiveRequest.FromString(body)
        left = self.lessor.remaining(request.ID, store.engine, confirmed_at, now)
        if left is None:
            return _ASK_AGAIN
        response = LeaseTimeToLiveResponse(ID=request.ID, TTL=left[0], grantedTTL=left[1])
        if request.keys and left[1]:
            response.keys.extend(attached_keys(store.engine, request.ID))
        answer = response.SerializeToString()
        if len(answer) > store.response_bytes_max:
            return int(ErrorCode.RESPONSE_TOO_LARGE), b""
        return int(ErrorCode.OK), answer
