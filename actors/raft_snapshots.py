"""The raft actor's desk for cutting the log and for snapshots, one transfer each way at a time.

Owns which step a cut, a sending and an installation are at. Knows no chunk: helpers carry those.
Invariants: the WAL mark is durable before the store is swapped; nothing is handed to the applier from the restart of
the log until the swap is done; at most one helper of each kind runs.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from actors.effects import Send, SendPeer, SpawnHelper
from protocol import codec, local, peer
from protocol.errors import Corruption, PeerFault
from protocol.message import Message
from protocol.types import LogMark, LogPosition, MemberId, Millis
from raft import snapshots
from raft.configuration import Configuration
from raft.core import Raft

if TYPE_CHECKING:
    from actors.raft import RaftActor

RETRY_TIMEOUTS: Final = 2
"""Election timeouts until a follower is sent another snapshot after one that did not arrive."""
INSTALL_TIMEOUTS: Final = 10
"""The same after one that did: the follower needs time to install it."""


class Sending(NamedTuple):
    """A snapshot being built for or sent to `to`."""

    to: MemberId
    name: str
    spawned: bool


class SnapshotDesk:
    """Where cuts and snapshots stand."""

    def __init__(self, actor: "RaftActor") -> None:
        self._actor = actor
        self.installing = False
        self._staged: local.SnapshotStaged | None = None
        self._sending: Sending | None = None
        self._sender_runs = False
        self._receiving: tuple[MemberId, int] | None = None
        """The transfer (sender, number) whose receiver runs."""
        self._retry_at: dict[MemberId, Millis] = {}
        self._delivered: dict[MemberId, None] = {}
        """Followers whose last snapshot arrived, and is being installed or was."""
        self._flushing = False
        self._flush_ticket = 0
        self._cut_ticket = 0
        self._install_ticket = 0
        self._names = 0

    @property
    def waiting(self) -> bool:
        """Whether a follower is to be offered a snapshot again later: then there is a `deadline`."""
        return bool(self._retry_at)

    @property
    def deadline(self) -> Millis:
        """When a follower may be offered a snapshot again."""
        return min(self._retry_at.values())

    def wake(self, now: Millis) -> None:
        """Forget waits that are over."""
        if self._retry_at:
            self._retry_at = {member: at for member, at in self._retry_at.items() if at > now}

    def end_turn(self, core: Raft, now: Millis) -> None:
        """Begin what is wanted: a snapshot for a follower, or a cut."""
        if self.installing:
            return
        if self._delivered:
            self._forget_installed(core)
        if self._sending is None and not self._sender_runs and core.leading is not None:
            for member in snapshots.followers_in_need(core):
                if member not in self._retry_at:
                    self._begin_sending(core, member)
                    break
        if not self._flushing and snapshots.cut_wanted(core, hold=self._log_held(core)):
            self._flushing = True
            self._flush_ticket += 1
            self._actor.emit(Send("applier", local.FlushStore(ticket=self._flush_ticket)))

    def _forget_installed(self, core: Raft) -> None:
        """Who has installed its snapshot is not waited for: if it falls behind again, it gets another at once."""
        for member in list(self._delivered):
            if not snapshots.awaits_snapshot(core, member):
                del self._delivered[member]
                self._retry_at.pop(member, None)

    def _log_held(self, core: Raft) -> bool:
        """Whether a follower on its way through a snapshot will need what follows it."""
        if self._sending is not None:
            return True
        if not self._delivered:
            return False
        return any(snapshots.awaits_snapshot(core, member) for member in self._delivered if member in self._retry_at)

    def check(self) -> None:
        """Assert the invariants."""
        assert self.installing == (self._staged is not None), "what is installed was staged"
        assert self._sending is None or not self._sending.spawned or self._sender_runs, "a sender without a helper"

    def on_local(self, core: Raft, message: Message, now: Millis) -> None:
        """Go one step further."""
        if isinstance(message, local.StoreFlushed):
            self._on_flushed(core, message)
        elif isinstance(message, local.LogCut):
            self._on_log_cut(core, message)
        elif isinstance(message, local.SnapshotBuilt):
            self._on_built(core, message, now)
        elif isinstance(message, local.SnapshotSendEnded):
            self._end_sending(core, now, delivered=message.delivered)
        elif isinstance(message, local.HelperEnded):
            self._on_helper_ended(core, message, now)
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
            self._actor.log("log_cut", {"index": mark.index, "durable": message.durable})

    def _emit_cut(self, mark: LogMark) -> None:
        self._cut_ticket += 1
        self._actor.emit(Send("wal", local.CutLog(ticket=self._cut_ticket, mark=mark, keep_after=mark.index)))

    def _on_log_cut(self, core: Raft, message: local.LogCut) -> None:
        staged = self._staged
        if staged is not None and message.ticket == self._install_ticket:
            snapshots.mark_durable(core)
            install = local.InstallSnapshot(stage=staged.stage, index=staged.index, term=staged.term)
            self._actor.emit(Send("applier", install))

    # --- sending -----------------------------------------------------------------------------------

    def _begin_sending(self, core: Raft, to: MemberId) -> None:
        self._names += 1
        name = f"{core.term}-{core.applied}-{self._actor.identity.incarnation}-{self._names}"
        self._sending = Sending(to, name, spawned=False)
        self._actor.log("snapshot_wanted", {"peer": f"{to:x}", "name": name})
        self._actor.emit(Send("applier", local.BuildSnapshot(name=name)))

    def _on_built(self, core: Raft, message: local.SnapshotBuilt, now: Millis) -> None:
        sending = self._sending
        if sending is None or sending.name != message.name:
            self._actor.emit(Send("applier", local.DropSnapshot(name=message.name)))
            return
        configuration = snapshots.configuration_for(core, message.index, message.term) if message.index else None
        if configuration is None or core.leading is None:
            self._end_sending(core, now, delivered=False)
            return
        self._sending = sending._replace(spawned=True)
        self._sender_runs = True
        arguments: dict[str, object] = {
            "to": sending.to,
            "name": sending.name,
            "index": message.index,
            "term": message.term,
            "configuration": configuration,
        }
        self._actor.emit(SpawnHelper("snapshot_sender", arguments | self._actor.members.address_of(core, sending.to)))

    def _end_sending(self, core: Raft, now: Millis, *, delivered: bool) -> None:
        sending, self._sending = self._sending, None
        if sending is None:
            return
        if delivered:
            self._delivered[sending.to] = None
        else:
            self._delivered.pop(sending.to, None)
        timeouts = INSTALL_TIMEOUTS if delivered else RETRY_TIMEOUTS
        self._retry_at[sending.to] = Millis(now + timeouts * core.config.election_timeout_ms)
        self._actor.log("snapshot_sent", {"peer": f"{sending.to:x}", "delivered": delivered})
        self._actor.emit(Send("applier", local.DropSnapshot(name=sending.name)))

    def _on_helper_ended(self, core: Raft, message: local.HelperEnded, now: Millis) -> None:
        if message.helper == "snapshot_sender":
            self._sender_runs = False
            if self._sending is not None and self._sending.spawned:
                self._end_sending(core, now, delivered=False)
        elif message.helper == "snapshot_receiver":
            self._receiving = None

    # --- receiving ---------------------------------------------------------------------------------

    def on_offer(self, core: Raft, sender: MemberId, offer: peer.OfferSnapshot) -> None:
        """Take an offered snapshot if it is ahead of us and none is being received.

        Raises:
            PeerFault: it names no configuration that could be followed.
        """
        try:
            Configuration.decode(offer.configuration)
        except Corruption as error:
            raise PeerFault(f"snapshot {offer.name}: {error}") from error
        if offer.index <= core.commit or core.log.holds(LogPosition(offer.term, offer.index)):
            # We need no snapshot: say where we stand, and let the sender go.
            snapshots.tell_position(core)
            refusal = peer.SnapshotProgress(transfer=offer.transfer, next_sequence=0, state="refused")
            self._actor.emit(SendPeer(sender, codec.encode(refusal), actor="snapshot_sender"))
            return
        if self.installing:
            return
        if self._receiving == (sender, offer.transfer):
            # Its answer was lost: let the receiver say again how far it is.
            self._actor.emit(Send("snapshot_receiver", offer))
        elif self._receiving is not None:
            if sender == core.leader:
                # An old transfer does not keep the leader's waiting; the offer comes again.
                self._actor.emit(Send("snapshot_receiver", local.StopActor()))
        else:
            self._receiving = (sender, offer.transfer)
            self._actor.log("snapshot_offered", {"peer": f"{sender:x}", "index": offer.index, "name": offer.name})
            arguments = {**offer.__dict__, "sender": sender} | self._actor.members.address_of(core, sender)
            self._actor.emit(SpawnHelper("snapshot_receiver", arguments))

    def _on_staged(self, core: Raft, message: local.SnapshotStaged) -> None:
        if self.installing:
            return
        position = LogPosition(message.term, message.index)
        mark = snapshots.install(core, message.stage, position, message.configuration)
        if mark is None:
            snapshots.tell_position(core)
            return
        self.installing = True
        self._staged = message
        self._actor.health.restarted()
        self._emit_cut(mark)
        self._install_ticket = self._cut_ticket
        self._actor.log("snapshot_install_started", {"index": message.index, "term": message.term})

    def _on_installed(self, core: Raft, message: local.SnapshotInstalled) -> None:
        if self._staged is None or message.index != self._staged.index:
            return
        self.installing = False
        self._staged = None
        self._actor.log("snapshot_installed", {"index": message.index})
        snapshots.tell_position(core)
