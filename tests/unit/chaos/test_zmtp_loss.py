"""Whole messages are lost, and nothing else is."""

import random

import pytest

from chaos.zmtp import GREETING_BYTES, MessageLoss

GREETING = b"\xff" + bytes(GREETING_BYTES - 1)
READY = b"\x04\x05READY"
SMALL = b"\x01\x03abc\x00\x02de"
"""A message of two frames."""
LARGE = b"\x02" + (300).to_bytes(8, "big") + bytes(300)
STREAM = GREETING + READY + SMALL + LARGE + SMALL


@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 1000])
def test_without_loss_everything_passes(size: int) -> None:
    """However the bytes are cut, all come out in order."""
    loss = MessageLoss(random.Random(0))
    out = b"".join(loss.feed(STREAM[at : at + size], 0.0) for at in range(0, len(STREAM), size))
    assert out == STREAM


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_with_total_loss_the_connection_lives(size: int) -> None:
    """Greeting and commands pass; each message goes with all its frames."""
    loss = MessageLoss(random.Random(0))
    out = b"".join(loss.feed(STREAM[at : at + size], 1.0) for at in range(0, len(STREAM), size))
    assert out == GREETING + READY
    assert loss.lost == 3


def test_the_greeting_is_not_held_back() -> None:
    """Each side sends the second half of its greeting only when it has seen the other's first."""
    loss = MessageLoss(random.Random(0))
    assert loss.feed(GREETING[:10], 1.0) == GREETING[:10]


def test_some_loss_keeps_whole_messages() -> None:
    """What comes out is a sequence of some of the messages that went in."""
    loss = MessageLoss(random.Random(3))
    messages = [bytes((0, 2, 65, number)) for number in range(100)]
    out = loss.feed(GREETING + b"".join(messages), 0.5)[GREETING_BYTES:]
    kept = [out[at : at + 4] for at in range(0, len(out), 4)]
    assert 20 < len(kept) < 80
    assert kept == [message for message in messages if message in kept]
