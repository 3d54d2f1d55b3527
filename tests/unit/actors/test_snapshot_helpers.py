"""The helpers that carry a snapshot: what is staged is what was offered, checked and durable, or nothing is."""

import random
from collections.abc import Iterable
from typing import Any

import pytest

from actors.actor import Source
from actors.effects import Effect, Halt, Send, SendPeer
from actors.snapshot_receiver import SILENCE_MS, SnapshotReceiver
from actors.snapshot_sender import CHUNK_BYTES, PATIENCE_MS, WINDOW_CHUNKS, SnapshotSender
from protocol import codec, local, peer
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import ClusterId, Incarnation, Index, MemberId, Millis, StoreId, Term
from sim.disk import SimDisk
from storage.staging import partial_path, snapshot_path, stage_path

LEADER, FOLLOWER = MemberId(1), MemberId(2)
CONTENT = {
    "000007.sst": random.Random(7).randbytes(CHUNK_BYTES * WINDOW_CHUNKS + 5),
    "CURRENT": b"MANIFEST-1\n",
    "empty": b"",
    "exact": random.Random(8).randbytes(2 * CHUNK_BYTES),
}
CHUNKS = WINDOW_CHUNKS + 1 + 1 + 1 + 2


def identity(member: MemberId) -> NodeIdentity:
    """A member."""
    return NodeIdentity(ClusterId(9), member, f"n{member}", StoreId(member), Incarnation(3), ())


class Transfer:
    """A sender and a receiver on disks of their own; time is the test's."""

    def __init__(self, seed: int = 1) -> None:
        self.now = Millis(1000)
        self.from_disk, self.to_disk = SimDisk(random.Random(seed)), SimDisk(random.Random(seed + 1))
        self.from_disk.make_dir(snapshot_path("s"))
        for name, data in CONTENT.items():
            file = self.from_disk.open(f"{snapshot_path('s')}/{name}", create=True)
            file.write_at(0, data)
            file.sync()
        arguments = {"to": FOLLOWER, "name": "s", "index": Index(70), "term": Term(4), "configuration": b"who"}
        self.sender = SnapshotSender(identity(LEADER), self.from_disk, dict(arguments))
        self.sender.start(self.now)
        self.receiver: SnapshotReceiver | None = None
        self.staged: list[local.SnapshotStaged] = []
        self.halts: list[Halt] = []

    def offered(self) -> peer.OfferSnapshot:
        """Let the sender hash its files, and return its offer."""
        for _ in range(100):
            for message in said(self.sender.wake(self.now)):
                if isinstance(message, peer.OfferSnapshot):
                    return message
        raise AssertionError("it never offers")

    def accept(self, offer: peer.OfferSnapshot, **changes: Any) -> list[Message]:
        """Start a receiver for the offer, as raft would; return what it says."""
        arguments = {**{key: getattr(offer, key) for key in type(offer).model_fields}, "sender": LEADER, **changes}
        self.receiver = SnapshotReceiver(identity(FOLLOWER), self.to_disk, arguments)
        return self._note(self.receiver.start(self.now))

    def hand(self, messages: Iterable[Message]) -> list[Message]:
        """Hand messages to the receiver until it halts; return what it says."""
        assert self.receiver is not None, "an offer was accepted"
        answers: list[Message] = []
        for message in messages:
            if self.halts:
                break
            answers += self._note(self.receiver.handle(message, Source("raft", LEADER), self.now))
            self.receiver.check_invariants()
        return answers

    def answer(self, messages: Iterable[Message]) -> list[Message]:
        """Hand messages to the sender; return what it says."""
        answers: list[Message] = []
        for message in messages:
            answers += said(self.sender.handle(message, Source("snapshot_receiver", FOLLOWER), self.now))
            self.sender.check_invariants()
        return answers

    def _note(self, effects: list[Effect]) -> list[Message]:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, local.SnapshotStaged):
                self.staged.append(effect.message)
            elif isinstance(effect, Halt):
                self.halts.append(effect)
        return said(effects)

    def stage(self) -> dict[str, bytes]:
        """What is in the complete stage."""
        path = stage_path("s")
        return {name: self.to_disk.open(f"{path}/{name}").read_at(0, 1 << 30) for name in self.to_disk.list(path)}


def said(effects: list[Effect]) -> list[Message]:
    """What goes to the other side, as it arrives there."""
    return [codec.decode(bytes(effect.body)) for effect in effects if isinstance(effect, SendPeer)]


def chunks_of(transfer: Transfer) -> list[Message]:
    """Offer and accept, and return all chunks in order, received or not."""
    progress = transfer.accept(transfer.offered())
    chunks = transfer.answer(progress)
    while len(chunks) < CHUNKS:
        told = peer.SnapshotProgress(transfer=chunks[0].transfer, next_sequence=len(chunks), state="receiving")  # type: ignore[attr-defined]
        chunks += transfer.answer([told])
    return chunks


@pytest.mark.parametrize("seed", range(8))
def test_what_is_staged_is_what_was_offered_whatever_the_network_does(seed: int) -> None:
    """Chunks and answers are lost, doubled and reordered; the stage is whole, durable, and announced once."""
    rng = random.Random(seed)
    transfer = Transfer(seed)

    def weather(messages: list[Message]) -> list[Message]:
        arrived = [message for message in messages for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        rng.shuffle(arrived)
        return arrived

    to_receiver: list[Message] = [transfer.offered()]
    for _ in range(400):
        answers: list[Message] = []
        if transfer.receiver is None and to_receiver:
            answers = transfer.accept(to_receiver[0])  # type: ignore[arg-type]
        elif transfer.receiver is not None:
            answers = transfer.hand(weather(to_receiver))
        to_receiver = transfer.answer(weather(answers))
        if transfer.staged:
            break
        transfer.now = Millis(transfer.now + 600)
        to_receiver += said(transfer.sender.wake(transfer.now))
    assert transfer.staged == [
        local.SnapshotStaged(stage="s", index=Index(70), term=Term(4), configuration=b"who", sender=LEADER)
    ]
    transfer.to_disk.crash()
    assert transfer.stage() == CONTENT
    assert not transfer.to_disk.exists(partial_path("s"))


def test_the_window_holds_the_sender_back() -> None:
    """No more than a window of chunks is on its way before the receiver has said what it has."""
    transfer = Transfer()
    progress = transfer.accept(transfer.offered())
    assert len(transfer.answer(progress)) == WINDOW_CHUNKS
    assert transfer.answer(progress) == []
    told = peer.SnapshotProgress(transfer=progress[0].transfer, next_sequence=2, state="receiving")  # type: ignore[attr-defined]
    assert [chunk.sequence for chunk in transfer.answer([told])] == [WINDOW_CHUNKS, WINDOW_CHUNKS + 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        {"data": b"MANIFEST-2\n"},
        {"data": b"MANIFEST-1\n and more"},
        {"data": b""},
        {"offset": 1},
        {"file": 2},
    ],
)
def test_a_damaged_transfer_stages_nothing(change: dict[str, Any]) -> None:
    """A chunk that does not fit, or a file whose checksum is not the offered one, ends the transfer."""
    transfer = Transfer()
    chunks = chunks_of(transfer)
    position = WINDOW_CHUNKS + 1
    chunks[position] = chunks[position].model_copy(update=change)
    answers = transfer.hand(chunks[: position + 1])
    assert answers[-1].state == "refused"  # type: ignore[attr-defined]
    assert transfer.halts
    assert transfer.staged == []
    assert transfer.stage() == {}


@pytest.mark.parametrize("name", ["", "..", "../store", "a/b", "/etc/passwd", ".hidden", "x.partial", "a\0b", "ä"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """Neither a file nor a snapshot of such a name is ever made."""
    transfer = Transfer()
    offer = transfer.offered()
    answers = transfer.accept(offer, files=((name, 3, 0),))
    assert [answer.state for answer in answers] == ["refused"]  # type: ignore[attr-defined]
    assert transfer.to_disk.list("") == []
    answers = transfer.accept(offer, name=name)
    assert [answer.state for answer in answers] == ["refused"]  # type: ignore[attr-defined]
    assert transfer.to_disk.list("") == []


def test_a_full_disk_refuses_and_names_the_file() -> None:
    """The receiver ends with the path, the sender with the refusal; raft may try again later."""
    transfer = Transfer()
    chunks = chunks_of(transfer)
    transfer.to_disk.capacity_bytes = 3 * CHUNK_BYTES
    answers = transfer.hand(chunks)
    assert answers[-1].state == "refused"  # type: ignore[attr-defined]
    assert transfer.halts[0].reason.startswith("write stage/s.partial/000007.sst: No space left")
    ended = transfer.sender.handle(answers[-1], Source("snapshot_receiver", FOLLOWER), transfer.now)
    assert Send("raft", local.SnapshotSendEnded(to=FOLLOWER, name="s", delivered=False)) in ended


def test_neither_waits_for_ever() -> None:
    """A silent sender and a silent receiver are given up after their times."""
    transfer = Transfer()
    transfer.accept(transfer.offered())
    receiver = transfer.receiver
    assert receiver is not None
    assert receiver.wake(Millis(transfer.now + SILENCE_MS - 1)) == []
    assert Halt("the sender is silent") in receiver.wake(Millis(transfer.now + SILENCE_MS))
    ended = transfer.sender.wake(Millis(transfer.now + PATIENCE_MS))
    assert Send("raft", local.SnapshotSendEnded(to=FOLLOWER, name="s", delivered=False)) in ended


def test_a_snapshot_that_is_dropped_meanwhile_ends_the_transfer() -> None:
    """Raft gives a transfer up by dropping the snapshot: the sender ends, it does not fail."""
    transfer = Transfer()
    progress = transfer.accept(transfer.offered())
    transfer.from_disk.remove_tree(snapshot_path("s"))
    effects = transfer.sender.handle(progress[0], Source("snapshot_receiver", FOLLOWER), transfer.now)
    assert Halt("done") in effects
