"""Whether this node is fit to lead: the liveness of a leader is the liveness of its whole node.

Owns which sibling actors are stalled and whether the applier makes progress. Decides when the office is handed over;
how is the core's business. Invariant: a node that is not fit stands for election only if nobody else does.
"""

from typing import TYPE_CHECKING

from protocol.local import ActorStalled
from protocol.types import NOBODY, Millis
from raft import transfer
from raft.core import Raft

if TYPE_CHECKING:
    from actors.raft import RaftActor

RETRY_TIMEOUTS = 5
"""Election timeouts between attempts to hand over: where every node is slow, office should not go in circles."""
HEARD_ACTORS = ("gateway", "applier", "wal")


class NodeHealth:
    """What is wrong with the other actors of this node."""

    def __init__(self, actor: "RaftActor") -> None:
        self._actor = actor
        self._stalled: dict[str, bool] = {}
        self._handed_at: Millis | None = None
        """When the applier last made progress while it had work, or got work; None: it has none."""
        self._retry_at: Millis | None = None

    @property
    def reluctant(self) -> bool:
        """Whether another node had better lead."""
        return any(self._stalled.values())

    def on_stalled(self, core: Raft | None, message: ActorStalled, now: Millis) -> None:
        """A sibling has missed its beats, or gives them again."""
        if message.actor not in HEARD_ACTORS:
            return
        self._stalled[message.actor] = message.stalled
        if core is None:
            return
        core.reluctant = self.reluctant
        if message.stalled:
            self._hand_over(core, now, message.actor)

    def on_handed(self, core: Raft) -> None:
        """The applier got work."""
        if self._handed_at is None:
            self._handed_at = core.now

    def on_applied(self, core: Raft, now: Millis) -> None:
        """The applier made progress."""
        self._handed_at = now if core.applied < core.handed else None

    def restarted(self) -> None:
        """A snapshot takes the place of what the applier had to do."""
        self._handed_at = None

    def wake(self, core: Raft, now: Millis) -> None:
        """Hand over while something is wrong."""
        if core.leading is None:
            return
        stuck = self._handed_at is not None and now - self._handed_at >= core.config.election_timeout_ms
        if stuck:
            self._hand_over(core, now, "applier")
        elif self.reluctant:
            self._hand_over(core, now, next(name for name in HEARD_ACTORS if self._stalled.get(name)))

    def _hand_over(self, core: Raft, now: Millis, because: str) -> None:
        if core.leading is None or core.transfer.target != NOBODY:
            return
        if self._retry_at is not None and now < self._retry_at:
            return
        self._retry_at = Millis(now + RETRY_TIMEOUTS * core.config.election_timeout_ms)
        if transfer.start(core, NOBODY):
            self._actor.log("leader_hands_over", {"stalled": because})
