"""Bugs planted into the production actors, each of which the checkers must notice, and their honest twins."""

from collections.abc import Iterable
from typing import Any, cast

import pytest

from actors.actor import Actor
from actors.applier import ApplierActor
from actors.effects import Effect, Send
from actors.raft import RaftActor
from actors.snapshot_receiver import SnapshotReceiver
from actors.wal import WalActor
from gateway.core import GatewayCore
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.local import LogRecovered, ProposeBatch, SpawnRequested
from protocol.types import NOBODY, Millis
from protocol.wire.rpc_pb2 import PutResponse
from sim.clients import Call
from sim.engine import SimEngine
from sim.network import CALM, NetworkWeather
from sim.node import SimNode
from sim.parts import ProductionParts
from sim.run import Options, Report, run_seed
from sim.weather import Weather, draw_config, plain_config
from storage import dedupe
from storage.disk import Disk, DiskFile

CONFIG = plain_config(3)
BLACKOUTS = Weather(CALM, {"power_cut": 0.5, "cluster_cut": 0.3})
PARTITIONS = Weather(CALM, {"partition": 0.6})
SLOW = NetworkWeather(delay_us_mean=20_000)


def _run(parts: ProductionParts, weather: Weather, seed: int, ticks: int = 80) -> Report:
    return run_seed(seed, Options(config=CONFIG, weather=weather, ticks=ticks), parts=parts)


def _caught(parts: ProductionParts, weather: Weather, seeds: Iterable[int] = range(1, 7)) -> set[str]:
    """Run until a seed fails; return the rule that was broken."""
    for seed in seeds:
        report = _run(parts, weather, seed)
        if report.failure is not None:
            return {report.failure.rule}
    return set()


@pytest.mark.parametrize("weather", [BLACKOUTS, PARTITIONS], ids=["blackouts", "partitions"])
def test_honest_actors_pass_the_weathers_used_here(weather: Weather) -> None:
    """What fails below fails because of the planted bug."""
    assert _caught(ProductionParts(CONFIG), weather, range(1, 2)) == set()


class _LyingFile:
    """An open file whose sync returns at once and does nothing."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def sync(self) -> None:
        """Promise, and not keep it."""


class _LyingDisk:
    """A disk of lying files."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def open(self, path: str, *, create: bool = False) -> _LyingFile:
        """Open a file that lies."""
        return _LyingFile(self._disk.open(path, create=create))


class _SyncsNothing(ProductionParts):
    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return WalActor(cast("Disk", _LyingDisk(node.disk_port)), self._config.storage, identity)


def test_a_sync_that_lies_is_noticed() -> None:
    """What a disk promised and lost at a power cut is missed at recovery, or refused as damage."""
    broken = _caught(_SyncsNothing(CONFIG), BLACKOUTS)
    assert broken <= {"persisted is recovered", "no actor halts"}
    assert broken


class _ForgetfulWal(WalActor):
    """Recovers the entries but not the vote."""

    def _tell_recovered(self) -> list[Effect]:
        effects = super()._tell_recovered()
        forgotten: list[Effect] = []
        for effect in effects:
            assert isinstance(effect, Send)
            assert isinstance(effect.message, LogRecovered)
            state = effect.message.hard_state._replace(voted_for=NOBODY)
            forgotten.append(Send(effect.to, effect.message.model_copy(update={"hard_state": state})))
        return forgotten


class _ForgetsVotes(ProductionParts):
    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _ForgetfulWal(node.disk_port, self._config.storage, identity)


def test_a_forgotten_vote_is_noticed() -> None:
    """A log that comes back without its vote breaks what it had reported persisted."""
    assert _caught(_ForgetsVotes(CONFIG), BLACKOUTS) == {"persisted is recovered"}


class _CommitsAlone(ProductionParts):
    """One member believes that it is the whole cluster."""

    def make_raft(self, node: SimNode, identity: NodeIdentity) -> Actor:
        if node.name == "n2":
            alone = tuple(founder for founder in identity.founders if founder.member == identity.member)
            identity = identity._replace(founders=alone)
        return super().make_raft(node, identity)


def test_a_commit_without_majority_is_noticed() -> None:
    """Whoever commits alone breaks election safety or the majority rule, before any client sees it."""
    broken = _caught(_CommitsAlone(CONFIG), PARTITIONS)
    assert broken <= {"committed is on a majority", "election safety", "state machine safety"}
    assert broken


class _ReadsLocally(ProductionParts):
    """Linearizable reads are served without asking the leader."""

    def submit(self, gateway: GatewayCore, call: Call, now: Millis) -> None:
        body = call.request.body
        if call.request.method == "range" and not call.request.serializable:
            object.__setattr__(call.request, "body", body + b"\x38\x01")
        super().submit(gateway, call, now)


def test_a_stale_read_is_noticed() -> None:
    """A read of a partitioned member shows less than was acknowledged before it began."""
    weather = Weather(SLOW, {"partition": 0.6})
    assert _caught(_ReadsLocally(CONFIG), weather) == {"linearizable reads are fresh"}


class _EagerGateway(GatewayCore):
    """Acknowledges puts before they are proposed."""

    def submit(self, call_id: int, method: object, body: bytes, now: Millis, deadline: Millis | None) -> None:
        super().submit(call_id, method, body, now, deadline)  # type: ignore[arg-type]
        if getattr(method, "name", "") == "Put" and self._calls.close(call_id):
            response = PutResponse()
            response.header.cluster_id = response.header.member_id = 1
            response.header.revision = self.revision + 1
            self.answers.append((call_id, int(ErrorCode.OK), response.SerializeToString()))


class _AnswersEarly(ProductionParts):
    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _EagerGateway(identity, self._config)


def test_an_early_acknowledgement_is_noticed() -> None:
    """A write that was acknowledged and then lost, or answered wrongly, does not pass."""
    broken = _caught(_AnswersEarly(CONFIG), BLACKOUTS)
    assert broken <= {"acknowledged is kept", "answers are the model's", "revisions never go back"}
    assert broken


class _RottenEngine(SimEngine):
    """Never deletes a live pair."""

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        listed = list(changes)
        super().write([change for change in listed if change[1] is not None or not change[0].startswith(b"k")])


class _LosesDeletes(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        if node.name != "n3":
            return super().make_applier(node, identity)
        disk = node.disk_port
        return ApplierActor(identity, disk, lambda path: _RottenEngine(disk, path), self._config)


def test_a_store_that_differs_is_noticed() -> None:
    """A member whose store lost a delete answers unlike the model, reaches another revision, or dumps otherwise."""
    broken = _caught(_LosesDeletes(CONFIG), Weather(CALM, {}))
    assert broken <= {"equal stores", "same entries, same state", "answers are the model's", "no actor raises"}
    assert broken


class _StutteringGateway(GatewayCore):
    """Proposes every batch twice."""

    def end_turn(self, now: Millis) -> list[Effect]:
        effects = super().end_turn(now)
        return [*effects, *(e for e in effects if isinstance(e, Send) and isinstance(e.message, ProposeBatch))]


class _ProposesTwice(ProductionParts):
    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _StutteringGateway(identity, self._config)


def test_a_batch_proposed_twice_takes_effect_once() -> None:
    """Apply recognises the repeat, and the model agrees."""
    report = _run(_ProposesTwice(CONFIG), PARTITIONS, seed=1)
    assert report.failure is None, str(report.failure)
    assert report.counts["batches_repeated"] > 20


def test_apply_without_dedupe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same repeats, with the windows switched off, change the store beside the model."""
    monkeypatch.setattr(dedupe.Window, "admit", lambda _self, _incarnation, _sequence: True)
    broken = _caught(_ProposesTwice(CONFIG), PARTITIONS)
    assert broken <= {
        "stores are the model's",
        "answers are the model's",
        "real-time order",
        "reads show what is committed",
    }
    assert broken


class _SilentGateway(GatewayCore):
    """Lets calls expire without telling anybody."""

    def wake(self, now: Millis) -> list[Effect]:
        self._calls.expire(now)
        return []


class _LeavesCallsOpen(ProductionParts):
    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _SilentGateway(identity, self._config)


def test_a_call_left_in_silence_is_noticed() -> None:
    """Who never answers is found out, not waited for."""
    assert _caught(_LeavesCallsOpen(CONFIG), PARTITIONS) == {"every call is answered"}


IMPOSTORS = Options(nodes=3, ticks=80, faults=frozenset({"impostor", "partition", "leader_cut"}))
IMPOSTOR_SEEDS = range(20, 40)
"""Seeds in which somebody would have to believe the empty directory for harm to come of it: one in twenty."""


def test_a_wiped_directory_that_is_believed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that votes and acknowledges from an empty directory loses what its own one had promised."""
    honest = run_seed(23, IMPOSTORS)
    assert honest.failure is None, str(honest.failure)
    monkeypatch.setattr(RaftActor, "_store_trusted", lambda *_arguments: True)
    failures = (run_seed(seed, IMPOSTORS).failure for seed in (23, *IMPOSTOR_SEEDS))
    broken = next((failure.rule for failure in failures if failure is not None), None)
    assert broken in {"committed is on a majority", "state machine safety", "election safety", "leader completeness"}


class _AnyChecksum:
    """Equal to whatever was computed."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class _BelievesChunks(ProductionParts):
    """Snapshots are staged whatever arrived."""

    def make_helper(self, node: SimNode, identity: NodeIdentity, request: SpawnRequested) -> Actor:
        helper = super().make_helper(node, identity, request)
        if isinstance(helper, SnapshotReceiver):
            helper._files = [(name, size, cast("int", _AnyChecksum())) for name, size, _ in helper._files]
        return helper


def test_a_damaged_chunk_that_is_believed_is_noticed() -> None:
    """A store made of what arrived damaged cannot be opened: the node halts without a reason that it was given."""
    kinds = frozenset({"chunk_rot", "partition", "power_cut", "pause_node", "bulk_cut"})
    knobs = frozenset({"raft.snapshot_count", "raft.catchup_entries"})
    options = Options(nodes=3, ticks=80, knobs=knobs, faults=kinds)
    runs = (run_seed(seed, options, parts=_BelievesChunks(draw_config(seed, 3, knobs))) for seed in range(1, 25))
    broken = next((report.failure.rule for report in runs if report.failure is not None), None)
    assert broken in {"no actor halts", "no actor raises"}
