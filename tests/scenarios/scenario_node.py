"""One node of a transcript: the real raft actor, a disk that syncs when told, an applier that applies when told.

Owns what the other actors of a node would do for raft, as simply as possible, and the lines that show it.
"""

import random
from collections import deque
from typing import TYPE_CHECKING

from scenario_words import effect_line, position_word

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send, SendPeer, SpawnHelper
from actors.raft import RaftActor
from protocol import codec, local, peer
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import (
    NO_STORE,
    NOBODY,
    ClusterId,
    Entry,
    HardState,
    Incarnation,
    Index,
    LogMark,
    MemberId,
    Revision,
    Term,
)
from raft.core import Raft

if TYPE_CHECKING:
    from scenario_world import World


class Node:
    """A member with everything around its raft actor."""

    def __init__(self, world: "World", member: MemberId) -> None:
        self.world = world
        self.member = member
        self.lives = 0
        self.up = False
        self.hard_state = HardState(Term(0), NOBODY, Index(0))
        self.entries: list[Entry] = []
        self.mark = LogMark(Index(0), Term(0), b"", "")
        self.applied: list[Entry] = []
        self.applied_index = Index(0)
        self.writes: deque[local.PersistEntries | local.CutLog] = deque()
        self.jobs: deque[Message] = deque()
        self.actor: RaftActor = None  # type: ignore[assignment]  # set by `start`

    @property
    def name(self) -> str:
        """How transcripts call it."""
        return f"n{self.member}"

    @property
    def core(self) -> Raft:
        """The core of a running actor."""
        assert self.actor.core is not None, f"{self.name} has not opened its store"
        return self.actor.core

    def start(self) -> None:
        """Begin a life: read the log, open the store, run."""
        self.lives += 1
        self.up = True
        identity = NodeIdentity(
            ClusterId(1), self.member, self.name, NO_STORE, Incarnation(self.lives), self.world.founders
        )
        rng = random.Random(f"{self.member}/{self.lives}")
        self.actor = RaftActor(identity, self.world.config, rng)
        self._take(self.actor.start(self.world.now))
        recovered = local.LogRecovered(
            mark=self.mark, hard_state=self.hard_state, entries=tuple(self.entries), final=True
        )
        self.hand(recovered, "wal")
        self.hand(local.StoreOpened(applied=self.applied_index, revision=Revision(1)), "applier")

    def crash(self) -> None:
        """Lose everything but what was synced and applied."""
        self.up = False
        self.writes.clear()
        self.jobs.clear()

    # --- turns -----------------------------------------------------------------------------------

    def hand(self, message: Message, actor: str, sender: MemberId = NOBODY) -> None:
        """Give the actor one message and end its turn."""
        decoded = codec.decode(codec.encode(message))
        self._take(self.actor.handle(decoded, Source(actor, sender), self.world.now))
        self._end_turn()

    def wake(self) -> bool:
        """Let the actor's deadline pass; False if it has not."""
        deadline = self.actor.deadline
        if deadline is None or deadline > self.world.now:
            return False
        self._take(self.actor.wake(self.world.now))
        self._end_turn()
        return True

    def _end_turn(self) -> None:
        self._take(self.actor.end_turn(self.world.now))
        self.actor.check_invariants()

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            line = effect_line(effect)
            if line:
                self.world.say(f"{self.name} {line}")
            if isinstance(effect, SendPeer):
                self.world.put(self.member, effect.to, codec.decode(effect.body), effect.actor)
            elif isinstance(effect, SpawnHelper):
                self._spawn(effect)
            elif isinstance(effect, Halt):
                self.up = False
            elif isinstance(effect, Send) and not isinstance(effect, Log):
                self._local(effect.to, effect.message)

    def _local(self, to: str, message: Message) -> None:
        if isinstance(message, local.PersistEntries | local.CutLog):
            self.writes.append(message)
        elif to == "applier" and not isinstance(message, local.OpenStore | local.DropSnapshot):
            self.jobs.append(message)

    # --- disk ------------------------------------------------------------------------------------

    def sync(self) -> bool:
        """Finish the oldest write, let its messages go, and say so; False if there is none."""
        if not self.writes:
            return False
        message = self.writes.popleft()
        if isinstance(message, local.CutLog):
            self.mark = message.mark
            kept = [] if message.mark.stage else [entry for entry in self.entries if entry.index > message.mark.index]
            self.entries = kept
            self.hand(local.LogCut(ticket=message.ticket, mark_index=message.mark.index), "wal")
            return True
        if message.hard_state is not None:
            self.hard_state = message.hard_state
        if message.entries:
            first = message.entries[0].index
            self.entries = [entry for entry in self.entries if entry.index < first] + list(message.entries)
        self.world.say(f"{self.name} wal: synced #{message.ticket}, log ends at {position_word(message.last)}")
        for held in message.outbound:
            self.world.put(self.member, held.to, codec.decode(held.body), "raft")
        self.hand(local.EntriesPersisted(ticket=message.ticket, last=message.last), "wal")
        return True

    # --- applier and helpers -----------------------------------------------------------------------

    def work(self) -> bool:
        """Do the oldest job of the applier; False if there is none."""
        if not self.jobs:
            return False
        job = self.jobs.popleft()
        if isinstance(job, local.ApplyEntries):
            self.applied.extend(job.entries)
            self.applied_index = job.entries[-1].index
            self.hand(local.EntriesApplied(applied=self.applied_index), "applier")
        elif isinstance(job, local.ServeReads):
            text = job.payload.decode()
            self.world.say(f"{self.name} applier: read {text} served at index {self.applied_index}")
        elif isinstance(job, local.ServeLessorCalls):
            text = job.payload.decode()
            self.world.say(f"{self.name} lessor: {text} answered at index {self.applied_index}")
            served = local.LessorCallsServed(asker=job.asker, context=job.context, results=((0, job.payload),))
            self.hand(served, "applier")
        elif isinstance(job, local.FlushStore):
            self.hand(local.StoreFlushed(ticket=job.ticket, durable=self.applied_index), "applier")
        elif isinstance(job, local.BuildSnapshot):
            self.hand(
                local.SnapshotBuilt(name=job.name, index=self.applied_index, term=self._applied_term()), "applier"
            )
        elif isinstance(job, local.InstallSnapshot):
            self._install(job)
        return True

    def _applied_term(self) -> Term:
        term = self.core.log.term_at(self.applied_index)
        return Term(0) if term is None else term

    def _install(self, job: local.InstallSnapshot) -> None:
        donor = self.world.stages[job.stage]
        self.applied = list(donor)
        self.applied_index = job.index
        self.world.say(f"{self.name} applier: store is now the snapshot at {job.index}")
        self.hand(local.SnapshotInstalled(index=job.index, revision=Revision(1)), "applier")

    def _spawn(self, effect: SpawnHelper) -> None:
        arguments = effect.arguments
        if effect.helper == "snapshot_sender":
            name = str(arguments["name"])
            self.world.stages[name] = list(self.applied)
            offer = peer.OfferSnapshot(
                transfer=self.lives, name=name, index=arguments["index"], term=arguments["term"],
                configuration=arguments["configuration"], files=(),
            )  # fmt: skip
            self.world.put(self.member, MemberId(int(str(arguments["to"]))), offer, "raft")
            return
        sender = self.world.nodes[MemberId(int(str(arguments["sender"])))]
        staged = local.SnapshotStaged(
            stage=str(arguments["name"]), index=arguments["index"], term=arguments["term"],
            configuration=arguments["configuration"], sender=sender.member,
        )  # fmt: skip
        self.world.later.append((self, staged))
        self.world.later.append((self, local.HelperEnded(helper="snapshot_receiver", failure="")))
        ended = local.SnapshotSendEnded(to=self.member, name=str(arguments["name"]), delivered=True)
        self.world.later.append((sender, ended))
        self.world.later.append((sender, local.HelperEnded(helper="snapshot_sender", failure="")))
