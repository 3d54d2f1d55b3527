"""The gateway's household: alarms it raises, and the compaction it does by itself, in virtual time."""

from collections import deque

import pytest
from core_parts import ME, OTHER, applied, ask, lead, make_core, only_turn, put, tell
from hypothesis import given
from hypothesis import strategies as st

from gateway.auto_compaction import HOUR_MS, PeriodicCompaction, RevisionCompaction, auto_compaction
from gateway.core import GatewayCore
from protocol import local
from protocol.command import Command, CommandKind, decode_batch
from protocol.config import CompactionConfig
from protocol.errors import ErrorCode
from protocol.types import Index, MemberId, Millis, Revision
from protocol.wire import rpc_pb2 as rpc

MINUTE_MS = 60_000
QUOTA = 4096
RAISE = (
    bytes((CommandKind.ALARM,))
    + rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=ME, alarm=rpc.NOSPACE).SerializeToString()
)


def stands(gateway: GatewayCore, size: int, *alarms: tuple[int, MemberId], revision: int = 1, now: int = 0) -> None:
    """The applier tells of its store."""
    message = local.StoreProgressed(
        applied=Index(1), revision=Revision(revision), compacted=Revision(0), logical_bytes=size, alarms=alarms
    )
    tell(gateway, "applier", message, now)


def proposed(message: object) -> list[Command]:
    """The commands of a batch."""
    assert isinstance(message, local.ProposeBatch)
    return decode_batch(message.payload).commands


# --- space -----------------------------------------------------------------------------------------


@pytest.fixture
def full() -> GatewayCore:
    """A gateway whose store is at its quota."""
    gateway = make_core(quota_bytes=QUOTA)
    lead(gateway, 1)
    stands(gateway, QUOTA)
    return gateway


def test_who_is_over_the_quota_is_refused_once_the_alarm_is_raised(full: GatewayCore) -> None:
    """Rule 52: one alarm for all who wait, answered only when every member will know of it."""
    ask(full, 1, "Put", put())
    ask(full, 2, "Put", put())
    batch = only_turn(full)
    assert proposed(batch) == [(CommandKind.AS_NODE, RAISE)]
    assert full.answers == []
    tell(full, "applier", applied(batch.sequence, 0))
    assert full.answers == [(1, ErrorCode.NO_SPACE, b""), (2, ErrorCode.NO_SPACE, b"")]


def test_while_the_alarm_stands_puts_over_the_quota_cost_no_entry(full: GatewayCore) -> None:
    """They are refused at once; deletions go into the log as ever (rule 53)."""
    stands(full, QUOTA, (rpc.NOSPACE, ME))
    ask(full, 1, "Put", put())
    ask(full, 2, "DeleteRange", rpc.DeleteRangeRequest(key=b"k").SerializeToString())
    assert full.answers == [(1, ErrorCode.NO_SPACE, b"")]
    assert [kind for kind, _ in proposed(only_turn(full))] == [CommandKind.DELETE_RANGE]


def test_the_alarm_of_another_member_is_not_this_ones(full: GatewayCore) -> None:
    """Each member raises its own, as etcd's do."""
    stands(full, QUOTA, (rpc.NOSPACE, OTHER))
    ask(full, 1, "Put", put())
    assert proposed(only_turn(full)) == [(CommandKind.AS_NODE, RAISE)]


def test_an_alarm_that_cannot_be_raised_refuses_all_the_same(full: GatewayCore) -> None:
    """Nobody waits for ever on a member without a leader."""
    ask(full, 1, "Put", put())
    batch = only_turn(full)
    lead(full, 2)
    assert full.answers == [(1, ErrorCode.NO_SPACE, b"")]
    ask(full, 2, "Put", put())
    assert only_turn(full).sequence != batch.sequence


def test_a_client_that_has_gone_is_not_told(full: GatewayCore) -> None:
    """Its call is held without being counted on."""
    ask(full, 1, "Put", put())
    batch = only_turn(full)
    full.cancel(1)
    tell(full, "applier", applied(batch.sequence, 0))
    assert full.answers == []


def test_with_room_puts_travel_and_status_tells_of_no_alarm() -> None:
    """A quota that is not reached costs nobody anything."""
    gateway = make_core(quota_bytes=QUOTA)
    lead(gateway, 1)
    stands(gateway, 100)
    ask(gateway, 1, "Put", put())
    assert [kind for kind, _ in proposed(only_turn(gateway))] == [CommandKind.PUT]


# --- compaction ------------------------------------------------------------------------------------


class Clock:
    """Runs a rule of compaction in virtual time; `revision(now)` says what is current when."""

    def __init__(self, rule: PeriodicCompaction | RevisionCompaction) -> None:
        self.rule = rule
        self.leads = True
        self.fails = 0
        self.done: list[tuple[int, int]] = []
        rule.start(Millis(0))
        self.now = 0

    def run(self, minutes: int) -> list[tuple[int, int]]:
        """Let time pass; the revision is the minute, plus one. Return `(minute, revision compacted to)`."""
        until = self.now + minutes * MINUTE_MS
        while self.rule.deadline is not None and self.rule.deadline <= until:
            self.now = self.rule.deadline
            target = self.rule.wake(Millis(self.now), self.now // MINUTE_MS + 1, leads=self.leads)
            if target:
                self.fails -= 1
                if self.fails < 0:
                    self.done.append((self.now // MINUTE_MS, target))
                self.rule.ended(Millis(self.now), done=self.fails < 0)
        self.now = until
        return self.done


def test_rule_26_a_long_period_is_compacted_every_hour_after_the_first() -> None:
    """Five hours of history: nothing for five hours, then hourly what was current five hours before."""
    clock = Clock(PeriodicCompaction(5 * HOUR_MS))
    assert clock.run(299) == []
    assert clock.run(7 * 60 - 299) == [(300, 1), (360, 55), (420, 115)]


def test_rule_26_a_short_period_is_compacted_once_a_period() -> None:
    """Ten minutes of history, looked at every minute."""
    assert Clock(PeriodicCompaction(10 * MINUTE_MS)).run(35) == [(10, 1), (20, 10), (30, 20)]


def test_rule_26_what_failed_is_tried_again_at_the_next_look() -> None:
    """A tenth of the interval later, not a whole one."""
    clock = Clock(PeriodicCompaction(10 * MINUTE_MS))
    clock.fails = 1
    assert clock.run(12) == [(11, 1)]


def test_rule_26_a_follower_compacts_nothing_and_knows_the_past_when_it_leads() -> None:
    """It has looked at the revisions all the while."""
    clock = Clock(PeriodicCompaction(10 * MINUTE_MS))
    clock.leads = False
    assert clock.run(34) == []
    clock.leads = True
    assert clock.run(2) == [(35, 25)]


def test_rule_26_nothing_is_compacted_twice_where_nothing_is_written() -> None:
    """An idle store is left alone."""
    rule = PeriodicCompaction(10 * MINUTE_MS)
    rule.start(Millis(0))
    targets = []
    for minute in range(100):
        target = rule.wake(Millis(minute * MINUTE_MS), 5, leads=True)
        if target:
            targets.append(target)
            rule.ended(Millis(minute * MINUTE_MS), done=True)
    assert targets == [5]


def test_rule_26_by_revision_it_looks_every_five_minutes() -> None:
    """It keeps so many revisions, and does nothing where there are no more."""
    assert Clock(RevisionCompaction(12)).run(26) == [(15, 4), (20, 9), (25, 14)]


def test_only_what_is_configured_runs() -> None:
    """Mode and retention belong together; by default all history is kept."""
    assert auto_compaction(CompactionConfig()).deadline is None
    assert isinstance(
        auto_compaction(CompactionConfig(auto_mode="revision", auto_retention_revisions=5)), RevisionCompaction
    )
    for bad in ({"auto_mode": "periodic"}, {"auto_retention_ms": 5}, {"auto_mode": "revision", "auto_retention_ms": 5}):
        with pytest.raises(ValueError, match="no other"):
            CompactionConfig.model_validate(bad)


@given(period_ms=st.integers(1, 100 * HOUR_MS), steps=st.lists(st.integers(1, HOUR_MS), max_size=60))
def test_history_of_a_period_is_never_compacted(period_ms: int, steps: list[int]) -> None:
    """Whatever the period and however late the wakes: what was current less than a period ago stays."""
    rule = PeriodicCompaction(period_ms)
    rule.start(Millis(0))
    now = 0
    past: deque[tuple[int, int]] = deque()
    for revision, step in enumerate(steps, start=1):
        now += step
        past.append((now, revision))
        target = rule.wake(Millis(now), revision, leads=True)
        if target:
            rule.ended(Millis(now), done=True)
            noted_at = next(at for at, known in past if known == target)
            assert now - noted_at >= period_ms


def test_the_leader_puts_the_compaction_into_the_log() -> None:
    """By the way every command takes, in its own name; what a client is told does not change."""
    gateway = make_core(compaction=CompactionConfig(auto_mode="revision", auto_retention_revisions=10))
    gateway.start(Millis(0))
    lead(gateway, 1)
    stands(gateway, 0, revision=100)
    due = 5 * MINUTE_MS
    gateway.wake(Millis(due))
    ask(gateway, 1, "Put", put(), now=due)
    batch = only_turn(gateway, due)
    body = bytes((CommandKind.COMPACT,)) + rpc.CompactionRequest(revision=90).SerializeToString()
    assert [command for command in proposed(batch) if command.body[0] != CommandKind.HASH_CHECK] == [
        (CommandKind.AS_NODE, body),
        (CommandKind.PUT, put()),
    ]
    tell(gateway, "applier", applied(batch.sequence, *[0] * len(proposed(batch))), due)
    assert [(call_id, code) for call_id, code, _ in gateway.answers] == [(1, 0)]
    assert CommandKind.COMPACT not in [command.body[0] for command in proposed(only_turn(gateway, 2 * due))]
