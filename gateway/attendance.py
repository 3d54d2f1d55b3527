"""Whether clients of this node would notice if it learnt late what the cluster has decided.

Owns when raft is told so: a leader may let a follower without clients hear late of what the quorum does without it.
Writes and linearizable reads pass through raft, which knows of them by itself; watchers and serializable reads do not.
Invariant: while watchers are open raft is told anew before what it was told runs out.
"""

from actors.effects import Effect, Send
from protocol.local import ClientsAttended
from protocol.types import Millis


class Attendance:
    """Tells raft that clients are served here; it forgets that after an election timeout."""

    def __init__(self, election_timeout_ms: int) -> None:
        self.deadline: Millis | None = None
        """When watchers make raft be told again."""
        self._interval_ms = election_timeout_ms // 2
        self._told_at: Millis | None = None

    def end_turn(self, now: Millis, *, watched: bool, read: bool) -> list[Effect]:
        """Return what raft is to be told: `watched` while there are watchers, `read` if this turn has local reads."""
        told = self._told_at
        if not (watched or read):
            self.deadline = None
            return []
        if told is not None and now - told < self._interval_ms:
            self.deadline = Millis(told + self._interval_ms) if watched else None
            return []
        self._told_at = now
        self.deadline = Millis(now + self._interval_ms) if watched else None
        return [Send("raft", ClientsAttended())]
