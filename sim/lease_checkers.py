"""What leases promise, held against the log and the times at which it was written and known.

Owns the rules of time; what is in the log and what it answers is `sim.replay`'s. A promise binds from the instant the
client asked, so nothing a slow network does can break it. Clocks that jump are no part of these runs; those that drift
are allowed for. How much longer a lease may live than was promised is `tests/lease_model.py`'s.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from protocol.local import ApplyEntries, PersistEntries
from protocol.message import Message
from protocol.types import EntryKind
from sim.clients import Call, History
from sim.lease_clients import GUARDED
from sim.replay import Replay
from sim.trouble import SimulationFailed
from sim.workload import RESPONSES

if TYPE_CHECKING:
    from sim.process import Process
    from sim.world import World

TICK_US: Final = 2_000
"""Clocks of machines count milliseconds."""


class LogTimes:
    """When each upkeep was first written, and when each entry was first known to be committed, by anybody."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.written_us: dict[tuple[int, int], int] = {}
        self.committed_us: dict[int, int] = {}
        world.listeners.append(self.on_message)

    def on_message(self, process: "Process", message: Message) -> None:
        """A local message leaves."""
        if isinstance(message, PersistEntries):
            for entry in message.entries:
                if entry.kind == EntryKind.LEASE_UPKEEP:
                    self.written_us.setdefault((entry.index, entry.term), self._world.now_us)
        elif isinstance(message, ApplyEntries):
            for entry in message.entries:
                self.committed_us.setdefault(entry.index, self._world.now_us)


@dataclass(frozen=True)
class Promise:
    """A lease is there until then, as a client was told that asked and was answered at these instants."""

    call: Call
    until_us: int


class LeaseChecker:
    """Holds the calls of a run against its log."""

    def __init__(self, world: "World", times: LogTimes, replay: Replay) -> None:
        self._world = world
        self._times = times
        self._replay = replay
        self._drift = 2 * world.clock_drift
        self._promises: dict[int, list[Promise]] = defaultdict(list)
        self._revokes: dict[int, int] = {}
        """Lease to the instant at which somebody first asked to end it."""
        self.counts = {"lease_promises": 0, "lease_ran_out": 0, "lease_told_over": 0, "lease_fenced": 0}

    def check(self) -> dict[str, int]:
        """Return what was met.

        Raises:
            SimulationFailed: a promise is broken.
        """
        history = self._world.history
        for call in history.calls:
            if call.request.method == "revoke":
                self._revokes.setdefault(_lease_of(call), call.begin_us)
        for call in history.calls:
            if call.request.method in ("grant", "keep_alive") and call.code == 0:
                self._hear(call, RESPONSES[call.request.method].FromString(call.body))
        self._check_ends()
        for call in history.calls:
            if call.request.method in ("keep_alive", "time_to_live") and call.code == 0:
                self._check_told(call, RESPONSES[call.request.method].FromString(call.body))
        self._check_fences()
        return self.counts

    def _hear(self, call: Call, response: Any) -> None:
        """A grant or a keep-alive was answered; who is told of a time is promised it from when it asked."""
        if not response.TTL:
            return
        lease, length_us = _lease_of(call), response.TTL * 1_000_000
        length_us -= length_us * self._drift // 1000 + TICK_US
        self._promises[lease].append(Promise(call, call.begin_us + length_us))
        self.counts["lease_promises"] += 1
        ended = self._replay.ends.get(lease)
        if call.request.method == "keep_alive" and ended is not None:
            known_us = self._times.committed_us.get(ended, call.end_us)
            if known_us < call.begin_us:
                raise SimulationFailed(
                    "an end is an end", f"call {call.id} was promised lease {lease:x}, which had ended"
                )

    def _check_ends(self) -> None:
        """No leader said that a lease was over while somebody was promised that it is not."""
        entries = self._world.logs.committed.entries
        for lease in self._replay.run_out:
            self.counts["lease_ran_out"] += 1
            entry = entries[self._replay.ends[lease]]
            written_us = self._times.written_us[entry.index, entry.term]
            for promise in self._promises[lease]:
                if promise.until_us > written_us:
                    raise SimulationFailed("no lease is cut short", self._told(lease, promise, written_us))

    def _check_told(self, call: Call, response: Any) -> None:
        """Nobody is told of less than what somebody had been promised before it asked."""
        lease = _lease_of(call)
        over = response.TTL <= 0 if call.request.method == "keep_alive" else response.TTL < 0
        self.counts["lease_told_over"] += over
        if over and self._revokes.get(lease, call.end_us) < call.end_us:
            return
        told_until_us = call.end_us if over else call.end_us + (response.TTL + 1) * 1_000_000
        if call.request.method == "time_to_live" and response.grantedTTL < response.TTL:
            raise SimulationFailed("remaining is of what was granted", f"call {call.id} was told {response}")
        for promise in self._promises[lease]:
            if promise.call.end is not None and promise.call.end < call.begin and promise.until_us > told_until_us:
                raise SimulationFailed("remaining is never short", self._told(lease, promise, told_until_us))

    def _check_fences(self) -> None:
        """What is written under the lock is written by one owner after another: tokens never go back."""
        past, token = self._replay.model.past, 0
        for revision in sorted(past):
            pair = past[revision].get(GUARDED)
            if pair is None or pair.mod_revision != revision:
                continue
            mine = int(pair.value.split()[0])
            if mine < token:
                raise SimulationFailed("the fence holds", f"revision {revision} is written under {mine} after {token}")
            token = mine

    def _told(self, lease: int, promise: Promise, at_us: int) -> str:
        call, until_us = promise.call, promise.until_us
        return (
            f"lease {lease:x} was over at {at_us}, call {call.id} at {call.begin_us} was promised it until {until_us}"
        )


def _lease_of(call: Call) -> int:
    return int(call.request.message.ID)  # type: ignore[attr-defined]


def fenced(history: History) -> int:
    """Return how many writes under the lock were refused, because their owner had slept for too long."""
    count = 0
    for call in history.calls:
        if call.request.method == "txn" and call.code == 0:
            request: Any = call.request.message
            answered: Any = RESPONSES["txn"].FromString(call.body)
            put = request.success[0].request_put
            count += put.key == GUARDED and not answered.succeeded
    return count
