"""A store that rots in silence: the members notice, blame the right one, and put it into quarantine."""

import pytest

from actors.actor import Source
from actors.applier import ApplierActor
from actors.effects import Send
from protocol.command import Origin, ReadKind, encode_batch
from protocol.errors import ErrorCode
from protocol.local import ReadsServed, ServeReads
from protocol.types import EntryKind, Incarnation
from protocol.wire.rpc_pb2 import CORRUPT, RangeRequest
from sim.network import CALM
from sim.parts import ProductionParts
from sim.weather import Weather, plain_config
from sim.world import World
from storage.layout import KV, KV_END, LOG, LOG_END

CONFIG = plain_config(3)
CONFIG = CONFIG.model_copy(update={"storage": CONFIG.storage.model_copy(update={"integrity_check_interval_ms": 1000})})
SECOND_US = 1_000_000


def world_of(seed: int) -> World:
    """Three members with a few hundred revisions, and nobody who writes any more."""
    world = World(seed, CONFIG, Weather(CALM, {}), ProductionParts(CONFIG), clients_max=3)
    for node in world.nodes:
        node.boot()
    for client in world.clients:
        client.begin()
    world.run_until(20 * SECOND_US)
    for client in world.clients:
        client.stopped = True
    world.run_until(25 * SECOND_US)
    return world


def applier(world: World, number: int) -> ApplierActor:
    """One member's applier."""
    actor = world.nodes[number].processes["applier"].actor
    assert isinstance(actor, ApplierActor)
    return actor


def alarms(world: World) -> list[dict[tuple[int, int], None]]:
    """What each member knows."""
    stores = [applier(world, number).store for number in range(3)]
    return [dict(store.alarms.raised) for store in stores if store is not None]  # type: ignore[arg-type]


def read_code(world: World, number: int) -> int:
    """What a member's applier answers to a read of a pair."""
    actor = applier(world, number)
    body = RangeRequest(key=b"k/1", serializable=True).SerializeToString()
    payload = encode_batch(Origin(world.nodes[number].member, Incarnation(1), 1), [ReadKind.RANGE, body])
    now = world.nodes[number].now_ms()
    effects = actor.handle(ServeReads(sequence=1, payload=payload), Source("gateway"), now)
    (served,) = [each.message for each in effects if isinstance(each, Send) and isinstance(each.message, ReadsServed)]
    ((_, code, _),) = served.results
    return code


def rot(world: World, number: int, table: bytes, end: bytes) -> None:
    """Change a byte of a row of one member's store behind its back."""
    store = applier(world, number).store
    assert store is not None
    key, record = list(store.engine.scan(table, end))[-1]
    store.engine.write([(key, record[:-30] + bytes((record[-30] ^ 1,)) + record[-29:])])


def test_sound_stores_are_compared_and_nobody_is_blamed() -> None:
    """Over and over, whatever was compacted when."""
    world = world_of(1)
    checks = [
        entry
        for entry in world.logs.committed.entries.values()
        if entry.kind == EntryKind.COMMANDS and b"\x92\x01\xcd\xc3\x50" in entry.data
    ]
    assert len(checks) >= 15
    assert alarms(world) == [{}, {}, {}]


@pytest.mark.parametrize(("table", "end"), [(LOG, LOG_END), (KV, KV_END)], ids=["history", "pairs"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_member_whose_store_rots_is_found_and_quarantined(number: int, table: bytes, end: bytes) -> None:
    """Leader or not: CORRUPT is raised for it alone, it shows no pairs any more, and nobody takes writes."""
    world = world_of(2)
    rot(world, number, table, end)
    world.run_until(world.now_us + 10 * SECOND_US)
    guilty = world.nodes[number].member
    assert alarms(world) == [{(CORRUPT, guilty): None}] * 3
    for at, node in enumerate(world.nodes):
        expected = ErrorCode.CORRUPT if at == number else ErrorCode.OK
        assert read_code(world, at) == expected, node.name
