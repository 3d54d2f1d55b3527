"""Planted bugs of membership: who counts, who gets a vote, what is answered when, and who is out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from plants import planted

from gateway.member_desk import MemberDesk
from gateway.methods import Route
from protocol.types import Index, MemberId
from raft import member_changes, member_rules, membership, quorum, replication
from raft.core import Raft
from sim.member_run import run_member_seed
from sim.parts import ProductionParts
from sim.run import Options, Report


@dataclass(frozen=True)
class Members:
    """Whole nodes whose members an administrator changes."""

    name: str = "nodes whose members change"
    options: Options | None = None

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run the simulator."""
        assert parts is None, "an administrator brings what it needs"
        return run_member_seed(seed, self.options)


MEMBERS = Members()
ROUGH = Members("nodes whose members change, where links break often", Options(faults=frozenset({"partition", "loss"})))
SHORT_OF_QUORUM = {"committed is on a majority", "state machine safety", "leader completeness", "election safety"}


@planted("a change of members answered before it is committed", MEMBERS, "member lists are fresh", 10)
def answers_changes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader says so as soon as the change is in its own log."""

    def go_on(raft: Raft) -> None:
        desk = raft.changes
        while desk.waiting and member_changes._at_rest(raft):
            wish = desk.waiting.popleft()
            code = member_rules.refusal(raft, wish.change) or member_changes._make(raft, wish.change)
            member_changes._decide(raft, wish, code)

    monkeypatch.setattr(member_changes, "go_on", go_on)


@planted("a linearizable member list answered from what the member knows", ROUGH, "member lists are fresh", 8)
def lists_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking anybody whether it is still so."""
    honest = MemberDesk.route

    def route(desk: MemberDesk, route: Route, kind: int, reads: Any) -> Any:
        return honest(desk, route, 0 if route is Route.MEMBERS else kind, reads)

    monkeypatch.setattr(MemberDesk, "route", route)


@planted("a learner counted in the majority", ROUGH, SHORT_OF_QUORUM, 20)
def counts_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in for a voter that has less."""

    def committed(
        voters: Collection[MemberId], outgoing: Collection[MemberId], durable: Mapping[MemberId, Index]
    ) -> Index:
        learners = set(durable) - {*voters, *outgoing}
        halves = [half for half in (voters, outgoing) if half]
        ranked = [sorted((durable.get(member, 0) for member in {*half, *learners}), reverse=True) for half in halves]
        return Index(min(each[quorum.majority(len(half)) - 1] for each, half in zip(ranked, halves, strict=True)))

    monkeypatch.setattr(replication, "committed_index", committed)


@planted("a joint configuration left by the old majority alone", ROUGH, SHORT_OF_QUORUM, 20)
def leaves_joint_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new members need not hold what is committed."""

    def committed(
        voters: Collection[MemberId], outgoing: Collection[MemberId], durable: Mapping[MemberId, Index]
    ) -> Index:
        return quorum.committed_index(outgoing or voters, (), durable)

    monkeypatch.setattr(replication, "committed_index", committed)


@planted("a member promoted that has not caught up", MEMBERS, "who gets a vote has caught up", 16)
def promotes_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is in the table."""

    def caught_up(raft: Raft, learner: MemberId) -> bool:
        return raft.leading is not None and learner in raft.leading.progress

    monkeypatch.setattr(membership, "caught_up", caught_up)
