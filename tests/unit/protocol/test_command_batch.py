"""The bytes of a COMMANDS entry: they are on disk, so they stay what they are and damage is never taken for data."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.command import (
    COMMAND_FORMAT_VERSION,
    Command,
    CommandKind,
    Origin,
    ReadKind,
    decode_batch,
    decode_flat_batch,
    encode_batch,
)
from protocol.errors import Corruption
from protocol.types import Incarnation, MemberId

NUMBERS = st.integers(0, 2**64 - 1)
ORIGINS = st.builds(Origin, NUMBERS.map(MemberId), NUMBERS.map(Incarnation), NUMBERS)
COMMANDS = st.lists(st.tuples(st.integers(1, 200), st.binary(max_size=40)), max_size=20)


@given(ORIGINS, COMMANDS)
def test_a_batch_comes_back_as_it_was(origin: Origin, commands: list[tuple[int, bytes]]) -> None:
    """Origin, order, kinds and bodies survive, in the flat form and in the named one."""
    flat = [part for command in commands for part in command]
    data = encode_batch(origin, flat)
    assert decode_flat_batch(data) == (origin, flat)
    batch = decode_batch(data)
    assert batch.origin == origin
    assert batch.commands == [Command(kind, body) for kind, body in commands]


def test_the_format_is_what_logs_already_hold() -> None:
    """The documented example, byte for byte: a log written yesterday is read today."""
    data = encode_batch(Origin(MemberId(3), Incarnation(4), 5), [CommandKind.PUT, b"k", CommandKind.TXN, b""])
    assert data == bytes.fromhex("95 01 03 04 05 94 01 c4 01 6b 03 c4 00")
    numbers = {"PUT": 1, "DELETE_RANGE": 2, "TXN": 3, "COMPACT": 4, "LEASE_GRANT": 5, "LEASE_REVOKE": 6}
    numbers |= {"AS_USER": 20, "AUTH_ENABLE": 21, "AUTH_DISABLE": 22, "ASSIGN_TOKEN": 23, "USER_ADD": 24}
    numbers |= {"USER_DELETE": 25, "USER_CHANGE_PASSWORD": 26, "USER_GRANT_ROLE": 27, "USER_REVOKE_ROLE": 28}
    numbers |= {"ROLE_ADD": 29, "ROLE_DELETE": 30, "ROLE_GRANT_PERMISSION": 31, "ROLE_REVOKE_PERMISSION": 32}
    numbers |= {"ALARM": 40, "AS_NODE": 41, "HASH_CHECK": 42, "HASH_FOUND": 43, "DOWNGRADE": 44}
    assert {kind.name: int(kind) for kind in CommandKind} == numbers


def test_reads_are_no_commands() -> None:
    """No number means a write in a log and a read on a link."""
    assert not {int(kind) for kind in CommandKind} & {int(kind) for kind in ReadKind}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(7),
        msgpack.packb((COMMAND_FORMAT_VERSION, 1, 2, 3)),
        msgpack.packb((COMMAND_FORMAT_VERSION + 1, 1, 2, 3, [])),
        msgpack.packb((COMMAND_FORMAT_VERSION, 1, 2, 3, [1, b"k", 2])),
    ],
    ids=["empty", "no msgpack", "no batch", "a part is missing", "another version", "a kind without a body"],
)
def test_what_is_no_batch_halts_the_node(data: bytes) -> None:
    """Skipping an entry would make members differ, so damage is raised as such."""
    with pytest.raises(Corruption, match="command batch"):
        decode_batch(data)


def test_no_beginning_of_a_batch_passes_for_one() -> None:
    """A batch that was cut short is damage at every length."""
    data = encode_batch(Origin(MemberId(1), Incarnation(2), 3), [CommandKind.PUT, b"key and value"])
    for end in range(len(data)):
        with pytest.raises(Corruption):
            decode_flat_batch(data[:end])
