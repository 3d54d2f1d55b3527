"""Planted bugs of the gateway: what clients are told, and when."""

import pytest
from plants import BLACKOUTS, PARTITIONS, Nodes, planted

from actors.actor import Actor
from actors.effects import Effect
from gateway.core import GatewayCore
from gateway.credentials import NO_CREDENTIALS, Credentials
from protocol import local
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.types import Millis
from protocol.wire.rpc_pb2 import PutResponse
from sim.network import NetworkWeather
from sim.node import SimNode
from sim.parts import ProductionParts


def _gateway_parts(gateway: type[GatewayCore]) -> type[ProductionParts]:
    class Parts(ProductionParts):
        def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
            return gateway(identity, self._config)

    return Parts


class _EagerGateway(GatewayCore):
    """Acknowledges puts before they are proposed."""

    def submit(
        self,
        call_id: int,
        method: object,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        super().submit(call_id, method, body, now, deadline, credentials)  # type: ignore[arg-type]
        if getattr(method, "name", "") == "Put" and self._calls.close(call_id):
            response = PutResponse()
            response.header.cluster_id = response.header.member_id = 1
            response.header.revision = self.revision + 1
            self.answers.append((call_id, int(ErrorCode.OK), response.SerializeToString()))


@planted(
    "a put acknowledged before it is proposed",
    BLACKOUTS,
    {"acknowledged is kept", "answers are the model's", "revisions never go back"},
    4,
)
def answers_early(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The answer is made up."""
    return _gateway_parts(_EagerGateway)


class _SilentGateway(GatewayCore):
    """Lets calls expire without telling anybody."""

    def wake(self, now: Millis) -> list[Effect]:
        self._calls.expire(now)
        return []


@planted("calls left in silence", PARTITIONS, "every call is answered", 14)
def leaves_calls_open(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """Nobody hears that time has run out."""
    return _gateway_parts(_SilentGateway)


class _ForgetfulGateway(GatewayCore):
    """Shows what a restarted applier has, however old."""

    def _on_reads_served(self, message: local.ReadsServed, now: Millis) -> None:
        if message.applied < self.applied:
            message = message.model_copy(update={"applied": self.applied})
        super()._on_reads_served(message, now)


@planted(
    "a replaying store shown to clients who have seen more",
    Nodes(rates={"kill_group": 1.5}),
    {"revisions never go back", "linearizable reads are fresh", "reads show what is committed", "linearizable"},
    60,
    first=3,
)
def shows_old_states(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """Nothing looks at how far the applier is."""
    return _gateway_parts(_ForgetfulGateway)


class _RashGateway(GatewayCore):
    """Proposes again, under a new number, what may be in the log already."""

    def _give_up_proposals(self, code: ErrorCode) -> None:
        for sequence in [sequence for sequence in self._commands.inflight if sequence not in self._refused]:
            self._commands.requeue(sequence, None, self._calls.is_open)


@planted(
    "a write of unknown fate proposed again under a new number",
    Nodes(rates={"leader_cut": 1.0, "kill_raft": 1.0}, network=NetworkWeather(delay_us_mean=20_000)),
    {"a write happens at most once", "answers are the model's", "real-time order"},
    24,
    first=4,
)
def proposes_again(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The leader changes, and everything under way is sent once more."""
    return _gateway_parts(_RashGateway)
