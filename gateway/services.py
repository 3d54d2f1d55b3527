"""Which flow serves which RPC.

Owns the table of services that take several steps, streamed ranges among them. Knows no step.
"""

from typing import Final

from gateway.conversations import Conversations, Service, SteppedCalls
from gateway.election_service import CAMPAIGN, LEADER, OBSERVE, PROCLAIM, RESIGN
from gateway.lock_service import LOCK, UNLOCK
from gateway.methods import OBSERVE as OBSERVE_STREAM
from gateway.methods import RANGE_STREAM, STEPPED
from gateway.range_stream import Ask, RangeStreams
from gateway.streams import StreamTable

_SERVICES: Final[dict[str, Service]] = {
    "Lock": LOCK,
    "Unlock": UNLOCK,
    "Campaign": CAMPAIGN,
    "Proclaim": PROCLAIM,
    "Leader": LEADER,
    "Resign": RESIGN,
}


def serve_services(streams: StreamTable, conversations: Conversations, ask: Ask) -> SteppedCalls:
    """Have `streams` serve every RPC that takes steps; return the door of those that are unary."""
    for method in STEPPED.values():
        streams.serve(method, conversations.opener(_SERVICES[method.name]))
    streams.serve(OBSERVE_STREAM, conversations.opener(OBSERVE))
    streams.serve(RANGE_STREAM, RangeStreams(ask).open)
    return SteppedCalls(streams, STEPPED)
