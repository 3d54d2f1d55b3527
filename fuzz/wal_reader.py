"""The log reader: files of a log that were changed in any way, and frames with right CRCs that hold anything.

Promises: opening gives `Corruption` or `StartRefused` that names a file, or a log without a gap that opens as the same
log again; a frame gives `Corruption` or a frame. `tools.inspect` reads the same way and never raises.
"""

from functools import cache
from random import Random
from typing import Final

from fuzz.target import Material, Target, expect
from protocol.errors import Corruption, StartRefused
from protocol.types import Entry, HardState, Index, MemberId, Term
from sim.disk import SimDisk
from storage.wal import Wal, WalOwner
from storage.wal_format import Frame as WalFrame
from storage.wal_format import pack_frame, pack_head, unpack_frame, unpack_head
from storage.wal_recovery import WAL_DIR, LogReader

OWNER: Final = WalOwner(1, 2, 3)
SEGMENT_BYTES: Final = 2048
ENTRIES: Final = 40


@cache
def _log() -> tuple[tuple[str, bytes], ...]:
    """The files of a proper log of several segments."""
    disk = SimDisk(Random(1))
    wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    for index in range(1, ENTRIES + 1):
        entry = Entry(Term(1), Index(index), 1, Random(index).randbytes(20 + index))
        wal.append(HardState(Term(1), MemberId(2), Index(index - 1)), (entry,))
    wal.close()
    names = sorted(disk.list(WAL_DIR))
    return tuple((name, disk.open(f"{WAL_DIR}/{name}").read_at(0, 1 << 20)) for name in names)


def _disk(files: dict[str, bytes]) -> SimDisk:
    disk = SimDisk(Random(0))
    disk.make_dir(WAL_DIR)
    for name, data in files.items():
        file = disk.open(f"{WAL_DIR}/{name}", create=True)
        file.write_at(0, data)
        file.sync()
    disk.sync_dir(WAL_DIR)
    disk.sync_dir("")
    return disk


def _judge(files: dict[str, bytes]) -> None:
    """Open the files as a log, twice; and look at them as the inspector does."""
    reader = LogReader()
    names = sorted(files)
    for name in names:
        reader.take(name, files[name], last=name == names[-1])
    reader.finish()
    disk = _disk(files)
    try:
        wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    except (Corruption, StartRefused) as refused:
        expect(WAL_DIR in str(refused), f"which file? {refused}")
        return
    expect(not reader.problems, f"opened, though the inspector complains: {reader.problems[:1]}")
    indexes = [entry.index for entry in wal.recovered]
    expect(indexes == list(range(indexes[0], indexes[0] + len(indexes)) if indexes else ()), "a gap in the log")
    expect(not indexes or indexes[0] == wal.mark.index + 1, "the log does not begin behind its mark")
    first = (wal.hard_state, wal.mark, wal.recovered)
    wal.append(None, (Entry(Term(9), Index(wal.last_index + 1), 1, b"next"),))
    disk.crash()
    again = Wal.open(disk, OWNER, SEGMENT_BYTES)
    expect((again.hard_state, again.mark) == first[:2], "another state after the next write")
    expect(again.recovered[:-1] == first[2], "another log after the next write")


def _damage(material: Material) -> None:
    """Change a proper log: bytes, lengths, names, files that are gone or doubled."""
    files = dict(_log())
    while material and files:
        action = material.number(8)
        names = sorted(files)
        name = names[material.number(256) % len(names)]
        data = files[name]
        at = material.number(1 << 16) % (len(data) + 1)
        if action < 4:
            noise = material.take(1 + material.number(32))
            files[name] = data[:at] + noise + data[at + len(noise) :]
        elif action == 4:
            files[name] = data[:at]
        elif action == 5:
            del files[name]
        elif action == 6:
            other = names[material.number(256) % len(names)]
            files[name], files[other] = files[other], data
        else:
            files[name] = data[:at] + bytes(len(data) - at)
    _judge(files)


def _frames(material: Material) -> None:
    """Proper payloads in an improper order, and improper ones with right CRCs."""
    name, data = _log()[0]
    found = unpack_head(data)
    assert found is not None, "the log is a proper one"
    head, _ = found
    file, head_crc = pack_head(head)
    chain = head.chain
    parts = [file]
    size = len(file)
    while material:
        index = 1 + material.number(8)
        entries = tuple(Entry(Term(1), Index(index + each), 1, b"x") for each in range(material.number(4)))
        state = HardState(Term(1), MemberId(2), Index(0))
        packed, chain = pack_frame(WalFrame(bool(material.number(2)), state, None, entries), chain, head_crc, size)
        parts.append(packed)
        size += len(packed)
    _judge({name: b"".join(parts)})


def _payload(material: Material) -> None:
    try:
        unpack_frame(material.rest())
    except Corruption:
        return


def _file(material: Material) -> None:
    """Any bytes as the only file."""
    name, _ = _log()[0]
    _judge({name: material.rest()})


KINDS: Final = (_damage, _damage, _payload, _file, _frames)


def run(data: bytes) -> None:
    """Byte 0 chooses what is changed."""
    material = Material(data)
    KINDS[material.number(256) % len(KINDS)](material)


def seeds() -> list[bytes]:
    """One damage of each kind, proper payloads, a proper file."""
    name, data = _log()[0]
    found = unpack_head(data)
    assert found is not None, "the log is a proper one"
    payload = b"\x95\xc2\x93\x01\x02\x00\xc0\x91\x94\x01\x01\x01\xc4\x01x\xc2"
    damages = [
        bytes((0, action, file, 1, at, 3)) + b"\xff\0\xff\xff"
        for action in range(8)
        for file in range(3)
        for at in (9, 200)
    ]
    payloads = [b"\2" + payload, b"\2" + b"\x91" * 600, b"\2\x95\xc2\xc0\xc0\x90\xc3", b"\2\x95" + b"\x93\1\2" * 9]
    return [
        *damages,
        *payloads,
        b"\3" + data.rstrip(b"\0"),
        b"\3",
        b"\4" + bytes((1, 1, 1)) * 5,
        b"\4\0\1\0\7\3\1",
        name.encode(),
    ]


WAL: Final = Target(
    "wal",
    "files of a damaged log, and frames that hold anything",
    run,
    seeds,
    (
        b"\x95",
        b"\xc0",
        b"\xc2",
        b"\xc3",
        b"\x90",
        b"\x91",
        b"\x94\1\1\1",
        b"\xc4\1x",
        b"\x93\1\2\0",
        b"\xff" * 4,
        b"actdwal\1",
    ),
)
