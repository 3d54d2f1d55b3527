"""The raft actor's desk for cutting the log and for snapshots, one transfer each way at a time.

Owns which step a cut, a sending and an installation are at. Knows no chunk: helpers carry those.
Invariants: the WAL mark is durable before the store is swapped; nothing is handed to the applier meanwhile.
"""

from typing import TYPE_CHECKING, NamedTuple

from actors.effects import Log, Send, SendPeer, SpawnHelper
from protocol import codec, local, peer
from protocol.message import Message
from protocol.types import NOBODY, Index, LogMark, MemberId, Millis
from raft import membership, snapshots
from raft.core import Raft

if TYPE_CHECKING:
    from actors.raft import RaftActor


class Sending(NamedTuple):
    """A snapshot being built for or sent to `to`."""

    to: MemberId
    name: str
    spawned: bool


class SnapshotDesk:
    """Where cuts and snapshots stand."""

    def __init__(self, actor: "RaftActor") -> None:
        self.actor = actor
        self.installing = False
        self._sending: Sending | None = None
        self._retry_at: dict[MemberId, Millis] = {}
        self._receiving: str | None = None
        self._staged: local.SnapshotStaged | None = None
        self._flush_ticket = 0
        self._flushing = False
        self._cut_ticket = 0
        self._install_ticket = 0
        self._names = 0

    @property
    def deadline(self) -> Millis | None:
        """When a follower may be offered a snapshot again."""
        return min(self._retry_at.values(), default=None)

    def wake(self, now: Millis) -> None:
        """Forget waits that are over."""
        self._retry_at = {member: at for member, at in self._retry_at.items() if at > now}

    def end_turn(self, core: Raft, now: Millis) -> None:
        """Begin what is wanted: a snapshot for a follower, or a cut."""
        if self._sending is None:
            for member in snapshots.followers_in_need(core):
                if member not in self._retry_at:
                    self._begin_sending(core, member)
                    break
        sending_holds = self._sending is not None and core.log.bytes_held <= core.config.log_bytes_max
        if not self._flushing and not self.installing and not sending_holds and snapshots.cut_wanted(core):
            self._flushing = True
            self._flush_ticket += 1
            self.actor.emit(Send("applier", local.FlushStore(ticket=self._flush_ticket)))

    def on_local(self, core: Raft, message: Message, now: Millis) -> None:
        """Go one step further."""
        if isinstance(message, local.StoreFlushed):
            self._on_flushed(core, message)
        elif isinstance(message, local.LogCut):
            self._on_log_cut(message)
        elif isinstance(message, local.SnapshotBuilt):
            self._on_built(core, message, now)
        elif isinstance(message, local.SnapshotSendEnded):
            self._end_sending(now, delivered=message.delivered)
        elif isinstance(message, local.HelperEnded):
            self._on_helper_ended(message, now)
        elif isinstance(message, local.SnapshotStaged):
            self._on_staged(core, message)
        elif isinstance(message, local.SnapshotInstalled):
            self._on_installed(core, message)

    # --- cutting -----------------------------------------------------------------------------------

    def _on_flushed(self, core: Raft, message: local.StoreFlushed) -> None:
        self._flushing = False
        if self.installing:
            return
        mark = snapshots.cut(core, message.durable)
        if mark is not None:
            self._emit_cut(mark)
            self.actor.emit(Log("info", "log_cut", {"index": mark.index, "durable": message.durable}))

    def _emit_cut(self, mark: LogMark) -> None:
        self._cut_ticket += 1
        self.actor.emit(Send("wal", local.CutLog(ticket=self._cut_ticket, mark=mark, keep_after=mark.index)))

    def _on_log_cut(self, message: local.LogCut) -> None:
        staged = self._staged
        if staged is not None and message.ticket == self._install_ticket:
            install = local.InstallSnapshot(stage=staged.stage, index=staged.index, term=staged.term)
            self.actor.emit(Send("applier", install))

    # --- sending -----------------------------------------------------------------------------------

    def _begin_sending(self, core: Raft, to: MemberId) -> None:
        self._names += 1
        name = f"{core.term}-{core.applied}-{self.actor.identity.incarnation}-{self._names}"
        self._sending = Sending(to, name, spawned=False)
        self.actor.emit(Log("info", "snapshot_wanted", {"peer": f"{to:x}", "name": name}))
        self.actor.emit(Send("applier", local.BuildSnapshot(name=name)))

    def _on_built(self, core: Raft, message: local.SnapshotBuilt, now: Millis) -> None:
        sending = self._sending
        if sending is None or sending.name != message.name:
            self.actor.emit(Send("applier", local.DropSnapshot(name=message.name)))
            return
        if message.index == 0 or core.leading is None or message.index < core.log.mark.index:
            self._end_sending(now, delivered=False)
            return
        self._sending = sending._replace(spawned=True)
        arguments: dict[str, object] = {
            "to": sending.to,
            "name": sending.name,
            "index": message.index,
            "term": message.term,
            "configuration": membership.configuration_at(core, message.index).encode(),
        }
        self.actor.emit(SpawnHelper("snapshot_sender", arguments))

    def _end_sending(self, now: Millis, *, delivered: bool) -> None:
        sending, self._sending = self._sending, None
        if sending is None:
            return
        # Delivered or not, give the follower time to install it and say so before another is made.
        self._retry_at[sending.to] = Millis(now + 2 * self.actor.config.election_timeout_ms)
        self.actor.emit(Log("info", "snapshot_sent", {"peer": f"{sending.to:x}", "delivered": delivered}))
        self.actor.emit(Send("applier", local.DropSnapshot(name=sending.name)))

    def _on_helper_ended(self, message: local.HelperEnded, now: Millis) -> None:
        if message.helper == "snapshot_sender" and self._sending is not None and self._sending.spawned:
            self._end_sending(now, delivered=False)
        elif message.helper == "snapshot_receiver":
            self._receiving = None

    # --- receiving ---------------------------------------------------------------------------------

    def on_offer(self, core: Raft, sender: MemberId, offer: peer.OfferSnapshot) -> None:
        """Take an offered snapshot if it is ahead of us and none is being received."""
        if offer.index <= core.commit:
            if sender == core.leader:
                lags = peer.FollowerLags(term=core.term, matched=core.commit)
                self.actor.emit(SendPeer(sender, codec.encode(lags)))
            refusal = peer.SnapshotProgress(transfer=offer.transfer, next_sequence=0, state="refused")
            self.actor.emit(SendPeer(sender, codec.encode(refusal), False, "snapshot_sender"))
            return
        if self._receiving is not None or self.installing:
            return
        self._receiving = offer.name
        arguments: dict[str, object] = {**offer.__dict__, "sender": sender}
        self.actor.emit(SpawnHelper("snapshot_receiver", arguments))

    def _on_staged(self, core: Raft, message: local.SnapshotStaged) -> None:
        self._receiving = None
        if self.installing:
            return
        mark = snapshots.install(core, message.stage, message.index, message.term, message.configuration)
        if mark is None:
            return
        self.installing = True
        self._staged = message
        self.actor.forget_unapplied()
        self._emit_cut(mark)
        self._install_ticket = self._cut_ticket
        self.actor.emit(Log("info", "snapshot_install_started", {"index": message.index, "term": message.term}))

    def _on_installed(self, core: Raft, message: local.SnapshotInstalled) -> None:
        staged = self._staged
        assert staged is not None, "what was installed had been staged"
        self.installing = False
        self._staged = None
        self.actor.emit(Log("info", "snapshot_installed", {"index": message.index}))
        if core.leader not in (NOBODY, core.member):
            lags = peer.FollowerLags(term=core.term, matched=Index(message.index))
            self.actor.emit(SendPeer(core.leader, codec.encode(lags)))
