"""How transcripts write messages: short, in columns, without numbers that mean nothing."""

from actors.effects import Effect, Halt, Log, Send, SendPeer, SpawnHelper
from protocol import codec, local, peer
from protocol.errors import ErrorCode
from protocol.message import Message
from protocol.types import NOBODY, Entry, EntryKind, LogPosition, MemberId
from raft.configuration import Configuration

SILENT = {"RecoverLog", "OpenStore", "DropSnapshot", "FlushStore"}
"""Messages that say nothing about consensus."""


def member_word(member: MemberId) -> str:
    """A member as transcripts call it."""
    return f"n{member}" if member != NOBODY else "nobody"


def position_word(position: LogPosition) -> str:
    """A place in the log: term/index."""
    return f"{position.term}/{position.index}"


def entry_word(entry: Entry) -> str:
    """An entry with what is in it."""
    if entry.kind == EntryKind.NOOP:
        return f"{position_word(entry.position)} no-op"
    if entry.kind == EntryKind.CONFIGURATION:
        return f"{position_word(entry.position)} {configuration_word(Configuration.decode(entry.data))}"
    return f"{position_word(entry.position)} {entry.data.decode()}"


def configuration_word(configuration: Configuration) -> str:
    """A membership: voters, in a joint one with the outgoing half, and learners."""
    words = ["voters", *(str(member) for member in configuration.voters)]
    if configuration.joint:
        words += ["leaving", *(str(member) for member in configuration.outgoing)]
    if configuration.learners or configuration.learners_next:
        words += ["learners", *(str(member) for member in (*configuration.learners, *configuration.learners_next))]
    return "(" + " ".join(words) + ")"


def message_word(message: Message) -> str:
    """A message, shortly."""
    kind = message.kind
    if isinstance(message, peer.RequestVote):
        flavour = "RequestPreVote" if message.pre_vote else "RequestVote"
        return f"{flavour} t{message.term} last {position_word(message.last)}" + (" transfer" * message.transfer)
    if isinstance(message, peer.RequestVoteReply):
        flavour = "PreVote" if message.pre_vote else "Vote"
        return f"{flavour} {'granted' if message.granted else 'refused'} for t{message.asked}, own t{message.term}"
    if isinstance(message, peer.AppendEntries):
        entries = ", ".join(entry_word(entry) for entry in message.entries) or "nothing"
        commit = f"commit {message.commit}" + (" quiet" * message.quiet)
        return f"{kind} t{message.term} behind {position_word(message.previous)}: {entries}; {commit}"
    if isinstance(message, peer.AppendEntriesReply):
        if message.rejected:
            conflict = position_word(message.conflict)
            return f"{kind} t{message.term} rejected at {message.matched}, could meet at {conflict}"
        return f"{kind} t{message.term} holds up to {message.matched}"
    if isinstance(message, peer.Heartbeat):
        return f"{kind} t{message.term} commit {message.commit} round {message.round}"
    if isinstance(message, peer.HeartbeatReply):
        return f"{kind} t{message.term} round {message.round}"
    return _other_word(message)


def _other_word(message: Message) -> str:
    kind = message.kind
    if isinstance(message, peer.ForwardProposal):
        return f"{kind} t{message.term} {message.payload.decode()}"
    if isinstance(message, peer.ReadIndexReply | peer.ForwardProposalReply):
        index = f" index {message.index}" if isinstance(message, peer.ReadIndexReply) and not message.code else ""
        return f"{kind} t{message.term}{index}{code_word(message.code)}"
    if isinstance(message, peer.OfferSnapshot):
        return f"{kind} at {message.term}/{message.index}"
    if isinstance(
        message, local.ProposalRefused | local.ReadsRefused | local.LessorRefused | local.LeadershipTransferEnded
    ):
        return f"{kind} #{message.sequence}{code_word(message.code)}"
    if isinstance(message, local.LeadershipChanged):
        return f"{kind} t{message.term} leader {member_word(message.leader)}"
    if isinstance(message, local.PersistEntries):
        return _persist_word(message)
    if isinstance(message, local.CutLog):
        stage = " for a staged snapshot" if message.mark.stage else ""
        return f"{kind} at {message.mark.term}/{message.mark.index}{stage}"
    if isinstance(message, local.ApplyEntries):
        return f"{kind} " + ", ".join(entry_word(entry) for entry in message.entries)
    if isinstance(message, local.OfficeChanged):
        return f"{kind} t{message.term} {'leads' if message.leads else 'leads no more'}"
    if isinstance(message, local.ServeLessorCalls):
        asker = "own gateway" if message.asker == NOBODY else member_word(message.asker)
        return f"{kind} {message.payload.decode()} of {asker}"
    if isinstance(message, local.LessorAnswered):
        return f"{kind} #{message.sequence}"
    if isinstance(message, peer.ForwardLessorCalls):
        return f"{kind} t{message.term} {message.payload.decode()}"
    if isinstance(message, peer.ForwardLessorCallsReply):
        return f"{kind} t{message.term}{code_word(message.code)}"
    if isinstance(message, local.ServeReads):
        return f"{kind} {message.payload.decode()}"
    if isinstance(message, local.InstallSnapshot):
        return f"{kind} at {message.term}/{message.index}"
    if isinstance(message, peer.PeerMessage):
        return f"{kind} t{message.term}"
    return kind


def code_word(code: int) -> str:
    """A code that is not OK, by name."""
    return f" {ErrorCode(code).name}" if code else " OK"


def _persist_word(message: local.PersistEntries) -> str:
    words = [f"PersistEntries #{message.ticket}"]
    if message.hard_state is not None:
        term, vote, commit = message.hard_state
        words.append(f"(t{term} vote {member_word(vote)} commit {commit})")
    if message.entries:
        words.append(", ".join(entry_word(entry) for entry in message.entries))
    words += [
        f"+ after sync to {member_word(held.to)}: {message_word(codec.decode(held.body))}" for held in message.outbound
    ]
    return " ".join(words)


def effect_line(effect: Effect) -> str:
    """One line for an effect; empty for what says nothing about consensus."""
    if isinstance(effect, Send):
        return "" if effect.message.kind in SILENT else f"-> {effect.to}: {message_word(effect.message)}"
    if isinstance(effect, SendPeer):
        return f"-> {member_word(effect.to)}: {message_word(codec.decode(effect.body))}"
    if isinstance(effect, SpawnHelper):
        return f"-> supervisor: start {effect.helper}"
    if isinstance(effect, Log):
        fields = " ".join(f"{key}={value}" for key, value in effect.fields.items() if key != "name")
        return f"** {effect.event} {fields}".rstrip()
    if isinstance(effect, Halt):
        return f"** halt: {effect.reason}"
    return ""
