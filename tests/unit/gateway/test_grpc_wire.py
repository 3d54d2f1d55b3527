"""gRPC as bytes: timeouts, texts, messages in pieces, compression."""

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.grpc_wire import GrpcFault, MessageReader, frame_message, parse_timeout, percent_encode
from protocol.errors import GrpcCode

LIMIT = 1000


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (b"1H", 3_600_000),
        (b"2M", 120_000),
        (b"5S", 5_000),
        (b"10m", 10),
        (b"10000u", 10),
        (b"10001u", 11),
        (b"1n", 1),
        (b"0n", 0),
        (b"99999999H", 359_999_996_400_000),
    ],
)
def test_timeout_is_never_shorter_than_asked(value: bytes, milliseconds: int) -> None:
    """Every unit is understood; a fraction of a millisecond counts as a whole one."""
    assert parse_timeout(value) == milliseconds


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"5s", b"-5S", b"+5S", b"5.5S", b"123456789S", b"5 S", b"\xb2S"])
def test_malformed_timeout_is_refused(value: bytes) -> None:
    """What is not one to eight digits and a unit is an error of the client."""
    with pytest.raises(GrpcFault) as caught:
        parse_timeout(value)

    assert caught.value.code is GrpcCode.INTERNAL


def test_texts_are_percent_encoded_as_utf8() -> None:
    """Printable ASCII stays; percent, controls and everything else become %XX."""
    assert percent_encode("etcdserver: key is not provided") == b"etcdserver: key is not provided"
    assert percent_encode("100% é\n") == b"100%25 %C3%A9%0A"


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=20))
def test_message_in_any_pieces_is_the_same_message(message: bytes, sizes: list[int]) -> None:
    """A message is whole exactly when its last byte is there."""
    reader = MessageReader(b"", LIMIT)
    framed = frame_message(message)
    got = None
    position = 0
    for size in [*sizes, len(framed)]:
        if position >= len(framed):
            break
        got = reader.feed(framed[position : position + size])
        position += size
        assert (got is not None) == (position >= len(framed))

    assert got == message
    assert reader.held_bytes == 0


def test_message_over_the_limit_is_refused_by_its_prefix() -> None:
    """Five bytes are enough to refuse: nothing is gathered first. The text is grpc-go's."""
    reader = MessageReader(b"", LIMIT)

    with pytest.raises(GrpcFault, match=r"grpc: received message larger than max \(4294967295 vs\. 1000\)") as caught:
        reader.feed(b"\0\xff\xff\xff\xff")

    assert caught.value.code is GrpcCode.RESOURCE_EXHAUSTED


def compressed(data: bytes) -> bytes:
    """Return a message as a client that compresses sends it."""
    return b"\x01" + len(data).to_bytes(4, "big") + data


def test_gzip_is_understood() -> None:
    """A client may compress with gzip; the answer is not compressed."""
    assert MessageReader(b"gzip", LIMIT).feed(compressed(gzip.compress(b"hello", mtime=0))) == b"hello"


@pytest.mark.parametrize(
    ("encoding", "framed", "code"),
    [
        (b"", compressed(gzip.compress(b"x", mtime=0)), GrpcCode.INTERNAL),
        (b"identity", compressed(gzip.compress(b"x", mtime=0)), GrpcCode.INTERNAL),
        (b"gzip", compressed(b"not gzip at all"), GrpcCode.INTERNAL),
        (b"gzip", compressed(gzip.compress(b"x" * 500, mtime=0)[:-9]), GrpcCode.INTERNAL),
        (b"gzip", compressed(zlib.compress(b"x")), GrpcCode.INTERNAL),
        (b"gzip", compressed(gzip.compress(bytes(LIMIT + 1), mtime=0)), GrpcCode.RESOURCE_EXHAUSTED),
        (b"gzip", compressed(gzip.compress(bytes(1 << 26), mtime=0)[:LIMIT]), GrpcCode.RESOURCE_EXHAUSTED),
        (b"", b"\x02\0\0\0\x01x", GrpcCode.INTERNAL),
    ],
)
def test_what_cannot_be_opened_is_refused(encoding: bytes, framed: bytes, code: GrpcCode) -> None:
    """Compression that was not announced, is broken, or expands over the limit never reaches the core."""
    with pytest.raises(GrpcFault) as caught:
        MessageReader(encoding, LIMIT).feed(framed)

    assert caught.value.code is code
