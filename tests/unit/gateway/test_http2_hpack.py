"""Header blocks: when a cached block may be used, what makes a request malformed, and blocks that touch no table."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http2_frames import ConnectionFault, H2Error
from gateway.http2_hpack import CACHED_BLOCKS_MAX, HeaderDecoder, encode_fields, request_head

GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/health"))
NAMES = st.sampled_from([b"a", b"grpc-timeout", b"x-long-name", b"te", b"user-agent"])
VALUES = st.sampled_from([b"", b"trailers", b"1", b"22S", b"v" * 60, b"w" * 900])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@st.composite
def sent_blocks(draw: st.DrawFn) -> list[bytes]:
    """Blocks as a client sends them: few different ones, repeated, with its table shrinking and growing."""
    encoder = Encoder()
    blocks: list[bytes] = []
    lists = draw(st.lists(FIELDS, min_size=1, max_size=4))
    for _ in range(draw(st.integers(1, 30))):
        if draw(st.integers(0, 9)) == 0:
            encoder.header_table_size = draw(st.sampled_from([0, 60, 200, 4096]))
        blocks.append(encoder.encode(draw(st.sampled_from(lists)), huffman=draw(st.booleans())))
    return blocks


@settings(deadline=None)
@given(sent_blocks())
def test_cached_decoding_equals_plain_decoding(blocks: list[bytes]) -> None:
    """Whatever a client does to its table, a block means to us what it means to a decoder without a cache."""
    plain = Decoder()
    decoder = HeaderDecoder(1 << 20)

    for block in blocks:
        expected = [(bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)]
        assert list(decoder.request(block).fields) == expected


def test_table_size_update_behind_a_field_is_refused() -> None:
    """A size update stands only at the beginning of a block (RFC 7541, section 4.2), whoever decodes what is before."""
    for before in (b"\x82", b"\x44\x01/", b"\x00\x01a\x01b"):
        with pytest.raises(ConnectionFault):
            HeaderDecoder(1 << 16).request(before + b"\x20")


def test_short_forms_expand_within_the_limit() -> None:
    """One byte may stand for a long field: what expands without end is stopped on the short way too."""
    encoder, decoder = Encoder(), HeaderDecoder(4096)
    decoder.request(encoder.encode([*GET, (b"x", b"v" * 120)], huffman=False))

    with pytest.raises(ConnectionFault):
        decoder.request(b"\xbe" * 500)


def test_block_that_uses_only_known_entries_is_cached() -> None:
    """The second block of a client that indexes its fields no longer changes the table; the third is not decoded."""
    encoder, decoder = Encoder(), HeaderDecoder(1 << 16)
    fields = [*GET, (b"x", b"1")]
    decoder.request(encoder.encode(fields))
    second = encoder.encode(fields)

    head = decoder.request(second)

    assert decoder.request(second) is head
    assert decoder.cache == {second: head}


def test_any_change_of_the_table_empties_the_cache() -> None:
    """A new entry moves every index, so nothing that was decoded before can be believed."""
    encoder, decoder = Encoder(), HeaderDecoder(1 << 16)
    first = [*GET, (b"x", b"1")]
    for _ in range(2):
        decoder.request(encoder.encode(first))
    assert decoder.cache

    decoder.request(encoder.encode([*GET, (b"y", b"2")]))

    assert not decoder.cache


def test_trailers_that_change_the_table_empty_the_cache_too() -> None:
    """Trailers share the table with requests."""
    encoder, decoder = Encoder(), HeaderDecoder(1 << 16)
    for _ in range(2):
        decoder.request(encoder.encode([*GET, (b"x", b"1")]))

    decoder.trailers(encoder.encode([(b"checksum", b"7")]))

    assert not decoder.cache


def test_cache_is_bounded() -> None:
    """A client that never repeats itself does not make us remember."""
    decoder = HeaderDecoder(1 << 16)

    for number in range(3 * CACHED_BLOCKS_MAX):
        decoder.request(encode_fields([*GET, (b"x", b"%d" % number)]))

    assert 0 < len(decoder.cache) <= CACHED_BLOCKS_MAX


def test_header_bomb_ends_the_connection() -> None:
    """A small block that expands without end is stopped while it expands."""
    encoder, decoder = Encoder(), HeaderDecoder(4096)
    decoder.request(encoder.encode([*GET, (b"x", b"v" * 3000)]))
    reference = encoder.encode([(b"x", b"v" * 3000)])
    assert len(reference) == 1

    with pytest.raises(ConnectionFault) as caught:
        decoder.request(reference * 1000)

    assert caught.value.code is H2Error.COMPRESSION_ERROR


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_decoded_or_refused(block: bytes) -> None:
    """No bytes raise anything but the fault that ends the connection."""
    decoder = HeaderDecoder(4096)
    code = None
    try:
        head = decoder.request(block)
    except ConnectionFault as fault:
        code = fault.code

    assert code is H2Error.COMPRESSION_ERROR or head.fault or head.method


MALFORMED = {
    "no :method": GET[1:],
    "no :scheme": (GET[0], GET[2]),
    "no :path": GET[:2],
    "empty :path": (*GET[:2], (b":path", b"")),
    "relative :path": (*GET[:2], (b":path", b"health")),
    "repeated :path": (*GET, GET[2]),
    "unknown pseudo-header": (*GET, (b":protocol", b"websocket")),
    "pseudo-header of responses": (*GET, (b":status", b"200")),
    "pseudo-header after a field": (GET[0], GET[1], (b"a", b"b"), GET[2]),
    "upper case": (*GET, (b"X-Upper", b"1")),
    "empty name": (*GET, (b"", b"1")),
    "space in a name": (*GET, (b"a b", b"1")),
    "line break in a value": (*GET, (b"a", b"1\r\nb: 2")),
    "NUL in a value": (*GET, (b"a", b"\0")),
    "space around a value": (*GET, (b"a", b" 1")),
    "connection": (*GET, (b"connection", b"close")),
    "transfer-encoding": (*GET, (b"transfer-encoding", b"chunked")),
    "upgrade": (*GET, (b"upgrade", b"h2c")),
    "te other than trailers": (*GET, (b"te", b"gzip")),
    "content-length that is no number": (*GET, (b"content-length", b"-1")),
    "two content-lengths": (*GET, (b"content-length", b"1"), (b"content-length", b"2")),
    "CONNECT with :path": ((b":method", b"CONNECT"), (b":authority", b"a"), (b":path", b"/")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_recognised(name: str) -> None:
    """Each rule of RFC 9113 sections 8.2 and 8.3 on requests."""
    assert request_head(MALFORMED[name], 1 << 16, set()).fault


@pytest.mark.parametrize(
    "fields",
    [
        (*GET, (b"te", b"trailers"), (b"cookie", b"a=b; c=d"), (b"a", b"")),
        (*GET, (b"content-length", b"0"), (b"content-length", b"0")),
        ((b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*")),
        ((b":method", b"CONNECT"), (b":authority", b"a:80")),
    ],
)
def test_proper_request_passes(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """What the rules allow is not refused."""
    head = request_head(fields, 1 << 16, set())

    assert head.fault == ""
    assert not head.oversized


def test_oversized_list_is_marked() -> None:
    """A list over the limit is not malformed: it gets an answer of its own."""
    head = request_head((*GET, (b"a", b"v" * 1000)), 1000, set())

    assert head.fault == ""
    assert head.oversized


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b":status", b"content-type", b"grpc-status", b"allow", b"x"]), st.binary(max_size=300)
        ),
        max_size=8,
    )
)
def test_encoded_fields_decode_in_any_state(fields: list[tuple[bytes, bytes]]) -> None:
    """Our blocks read the same whatever the decoder has seen, and leave its table alone."""
    decoder = Decoder()
    decoder.decode(Encoder().encode([(b"seen", b"before"), (b"x", b"y")]))
    entries = list(decoder.header_table.dynamic_entries)

    decoded = decoder.decode(encode_fields(fields), raw=True)

    assert [(bytes(name), bytes(value)) for name, value in decoded] == fields
    assert list(decoder.header_table.dynamic_entries) == entries
