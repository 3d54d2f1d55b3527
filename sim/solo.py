"""What the other actors of a node answer its gateway when the node is alone: one store, no log, no consensus.

For gateways that run without a cluster behind them, in tests and under hostile bytes. Owns no state: the store is the
caller's, and so is the order of calls.
"""

from actors.actor import Source
from gateway.core import GatewayCore
from protocol import local
from protocol.command import decode_batch
from protocol.identity import NodeIdentity
from protocol.rights import AuthChanged
from protocol.types import Entry, EntryKind, Index, Millis, Revision, Term
from sim.store_driver import finish_read
from storage.mvcc import MvccStore
from storage.reads import ReadJob, StatusFields, begin_read

COMPACTION_STEP_ROWS = 100


def lead(core: GatewayCore, identity: NodeIdentity) -> local.MemberView:
    """Tell a gateway that its node leads itself and that rights do not matter; return who it is."""
    view = local.MemberView(member=identity.member, name=identity.name, peer_urls=(), client_urls=(), is_learner=False)
    led = local.LeadershipChanged(term=Term(1), leader=identity.member, members=(view,))
    core.handle(led, Source("raft"), Millis(0))
    rights = AuthChanged(applied=Index(0), enabled=False, revision=1, roots=(), token_news=())
    core.handle(rights, Source("applier"), Millis(0))
    return view


def commands_applied(store: MvccStore, message: local.ProposeBatch) -> local.CommandsApplied:
    """Apply a batch at once, as the next entry; return what the applier says of it."""
    applied = store.apply(Entry(Term(1), Index(store.applied + 1), EntryKind.COMMANDS, message.payload))
    assert applied is not None, "an entry of commands has an answer"
    answer = local.CommandsApplied(
        incarnation=applied.origin.incarnation,
        sequence=applied.origin.sequence,
        results=tuple(applied.results),
        applied=store.applied,
        revision=Revision(store.revision),
    )
    while store.compacting:
        store.compact_step(COMPACTION_STEP_ROWS)
    return answer


def reads_served(store: MvccStore, message: local.RequestReads | local.ServeReads) -> local.ReadsServed:
    """Return what the applier says of a batch of reads."""
    origin, commands = decode_batch(message.payload)
    results = []
    for position, (kind, body) in enumerate(commands):
        result = begin_read(store, kind, body, store.header(store.revision), StatusFields(store.applied, 0))
        results.append((position, *(finish_read(result) if isinstance(result, ReadJob) else result)))
    return local.ReadsServed(
        incarnation=origin.incarnation,
        sequence=message.sequence,
        results=tuple(results),
        applied=store.applied,
        revision=Revision(store.revision),
    )
