"""A cluster of consensus cores whose membership is changed as clients change it: wishes put to any member.

Owns the wishes and what became of each; the hostile schedule around them is `sim.core_mix`'s. Machines of new members
start late or never, names are told late, wishes come in crowds, and whoever asks may have lost its leader meanwhile.
Invariants, checked at the end: a wish is answered once; what was answered OK is so, and what was refused is not; who
was removed never comes back; every member that was promised its vote and runs has it.
"""

import random
from dataclasses import dataclass
from typing import Final

from protocol.errors import ErrorCode
from protocol.membership import ChangeKind, MemberChange
from protocol.types import MemberId
from raft.configuration import Configuration
from sim.core_cluster import CoreMember
from sim.core_mix import CoreMix

MEMBERS_AT_ONCE_MAX: Final = 7
"""Members of one configuration above which nobody wishes for more."""
PROMISES_KEPT_WITHIN_ROUNDS: Final = 20
"""Rounds of 100 ms after everything has healed."""
UNKNOWN: Final = (ErrorCode.LEADER_CHANGED, ErrorCode.TIMEOUT)
"""Answers that say nothing of what was done."""
SHAPES: Final = ("add", "add", "learner", "remove", "remove", "update", "promote", "promote")


@dataclass
class Wish:
    """What was wished for, and the answer if one has come."""

    change: MemberChange
    code: ErrorCode | None = None


class CoreWishes(CoreMix):
    """Does one random thing after another to a cluster, and wishes for other members now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, changes=True)
        luck = random.Random(f"{seed}/wishes")
        self.cluster.config = self.cluster.config.model_copy(
            update={"strict_reconfig_check": luck.random() < 0.7, "learners_max": luck.choice((1, 3))}
        )
        for member in self.cluster.members.values():
            member.core.config = self.cluster.config
        self.wishes: dict[tuple[MemberId, int, int], Wish] = {}
        self._fresh = len(self.cluster.members)

    def _one(self) -> None:
        super()._one()
        self._hear_answers()
        if self.rng.random() < 0.02:
            self._start_newcomers()

    def _hear_answers(self) -> None:
        for member in self.cluster.members.values():
            if not member.up or not member.core.changes.answers:
                continue
            for answer in member.core.changes.take_answers():
                wish = self.wishes[member.member, member.lives, answer.sequence]
                assert wish.code is None, f"{wish.change} was answered twice: {wish.code}, {answer.code}"
                wish.code = answer.code
                shape = ChangeKind(wish.change.kind).name.lower()
                outcome = shape if answer.code is ErrorCode.OK else answer.code.name.lower()
                self.changed[outcome] = self.changed.get(outcome, 0) + 1

    # --- wishing ---------------------------------------------------------------------------------

    def _change(self) -> None:
        """Have one or several members wish for something."""
        for _ in range(self.rng.choice((1, 1, 1, 3))):
            alive = [member for member in self.cluster.members.values() if member.up]
            if alive:
                self._wish(self.rng.choice(alive))

    def _wish(self, member: CoreMember) -> None:
        change = self._wanted_change(member.core.configuration)
        if self.rng.random() < 0.2:
            change = MemberChange(
                ChangeKind.PUBLISH,
                member.member,
                name=f"n{member.member}",
                client_urls=(f"http://n{member.member}:2379",),
            )
        self.sequence += 1
        self.wishes[member.member, member.lives, self.sequence] = Wish(change)
        member.core.ask_change(self.sequence, change, self.cluster.now)
        member.turn()

    def _wanted_change(self, configuration: Configuration) -> MemberChange:
        rng = self.rng
        members = configuration.everyone()
        shape = rng.choice(SHAPES)
        if len(members) >= MEMBERS_AT_ONCE_MAX:
            shape = "remove"
        if shape in ("add", "learner"):
            self._fresh += 1
            url = f"http://n{self._fresh}:2380"
            return MemberChange(ChangeKind.ADD, MemberId(self._fresh), (url,), is_learner=shape == "learner")
        chosen = rng.choice(members)
        if shape == "remove":
            gone = [*configuration.removed, chosen]
            return MemberChange(ChangeKind.REMOVE, rng.choice(gone) if rng.random() < 0.1 else chosen)
        if shape == "promote":
            return MemberChange(ChangeKind.PROMOTE, rng.choice(configuration.learners or members))
        return MemberChange(ChangeKind.UPDATE, chosen, (f"http://n{chosen}:{rng.randrange(2380, 2390)}",))

    # --- the verdict -----------------------------------------------------------------------------

    def _settled(self, leader: CoreMember) -> bool:
        """As its base, once everybody in the table runs."""
        self._start_newcomers()
        return super()._settled(leader)

    def heal_and_converge(self) -> CoreMember:
        """As its base, until every promise of a vote is kept; then look at what became of the wishes."""
        leader = super().heal_and_converge()
        for _ in range(PROMISES_KEPT_WITHIN_ROUNDS):
            if not any(record.promised for record in leader.core.configuration.members.values()):
                break
            self.cluster.advance(100)
            leader = super().heal_and_converge()
        self._hear_answers()
        self._check_wishes(leader.core.configuration)
        return leader

    def _check_wishes(self, last: Configuration) -> None:
        promised = [member for member, record in last.members.items() if record.promised]
        assert not promised, f"members {promised} run and were never given the vote they were promised"
        ever = {*last.members, *last.removed}
        for (asker, _, sequence), wish in self.wishes.items():
            change, told = wish.change, f"wish {sequence} of {asker}, {wish.change}, was answered {wish.code!r}"
            if wish.code is None or wish.code in UNKNOWN:
                continue
            if change.kind == ChangeKind.ADD:
                assert (change.member in ever) == (wish.code is ErrorCode.OK), told
            if change.kind == ChangeKind.REMOVE and wish.code is ErrorCode.OK:
                assert change.member not in last.members, told
                assert change.member in last.removed, told
