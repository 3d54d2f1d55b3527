"""The socket between a supervisor and an actor: whole messages, last words, and a certain end."""

from collections.abc import Iterator

import pytest

from actors.lifeline import PACKET_BYTES_MAX, Lifeline, LifelineCut
from protocol import local
from protocol.types import Incarnation

Pair = tuple[Lifeline, Lifeline]
STARTED = local.ActorStarted(actor="raft", incarnation=Incarnation(7))
HALTED = local.ActorHalted(actor="wal", reason="disk full", failed=True, fatal=True, story=("a", "b"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends, closed when the test is over."""
    ends = Lifeline.pair()
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    """What one end sends, the other receives, both ways, at once if it likes."""
    ours, theirs = pair
    assert ours.send(STARTED)
    assert ours.send(local.StopActor())
    assert theirs.send(local.Beat())
    assert theirs.receive() == [STARTED, local.StopActor()]
    assert ours.receive() == [local.Beat()]
    assert ours.receive() == []


def test_the_end_is_told_after_the_last_words(pair: Pair) -> None:
    """What was said before the other side went is read first; then its end is certain."""
    ours, theirs = pair
    theirs.send(HALTED)
    theirs.close()
    assert ours.receive() == [HALTED]
    with pytest.raises(LifelineCut):
        ours.receive()
    assert not ours.send(local.StopActor())


def test_last_words_arrive_from_one_who_did_not_listen(pair: Pair) -> None:
    """An actor that halts with orders unread has still said why."""
    ours, theirs = pair
    ours.send(STARTED)
    theirs.send(HALTED)
    theirs.close()
    assert ours.receive() == [HALTED]
    with pytest.raises(LifelineCut):
        ours.receive()


@pytest.mark.parametrize("size", [PACKET_BYTES_MAX, 10 * PACKET_BYTES_MAX])
def test_what_is_too_large_is_refused_and_harms_nothing(pair: Pair, size: int) -> None:
    """A message over the packet size does not leave, and the sender is told."""
    ours, theirs = pair
    assert not ours.send(local.SpawnRequested(helper="snapshot_receiver", arguments={"files": b"x" * size}))
    assert ours.send(STARTED)
    assert theirs.receive() == [STARTED]


def test_the_largest_packet_passes(pair: Pair) -> None:
    """The limit is one that the socket really takes."""
    ours, theirs = pair
    request = local.SpawnRequested(helper="snapshot_receiver", arguments={"files": b"x" * (PACKET_BYTES_MAX - 100)})
    assert ours.send(request)
    assert theirs.receive() == [request]


def test_one_who_does_not_read_blocks_nobody(pair: Pair) -> None:
    """A full socket is told, and is not waited for; what was taken is still delivered."""
    ours, theirs = pair
    sent = 0
    while ours.send(STARTED):
        sent += 1
        assert sent < 100_000, "the socket never fills"
    assert len(theirs.receive()) == sent
    assert ours.send(STARTED)
