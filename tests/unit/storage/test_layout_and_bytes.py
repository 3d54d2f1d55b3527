"""Keys and records: order is kept, everything that is packed comes back, bytes equal protobuf's."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Corruption
from protocol.types import ClusterId, Index, MemberId, Revision, Term
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import PutRequest, PutResponse, RangeResponse, ResponseHeader
from storage import layout
from storage.wire_bytes import (
    header_bytes,
    inner_header_bytes,
    key_value_frame,
    mod_revision_field,
    plain_put,
    read_varint,
    tombstone_frame,
    value_and_lease_fields,
    varint,
)

user_keys = st.binary(min_size=1, max_size=6) | st.lists(st.sampled_from([0, 1, 255]), min_size=1).map(bytes)
numbers = st.integers(0, 2**63 - 2)


@given(st.lists(user_keys, min_size=2, unique=True))
def test_escaped_keys_sort_like_the_keys(keys: list[bytes]) -> None:
    """Whatever follows the escaped form, and keys come back from it."""
    keys.sort()
    for one, other in pairwise(keys):
        assert layout.escape(one) + b"\xff" * 20 < layout.escape(other)
    assert [layout.unescape(layout.escape(key)) for key in keys] == keys


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300), numbers, numbers, st.integers(1, 2**40), numbers)
def test_a_record_without_its_value_is_the_pair_without_it(
    key: bytes, value: bytes, create: int, mod: int, version: int, lease: int
) -> None:
    """As protobuf would write it; and the numbers of a record are found without reading the value."""
    key_field = b"\x0a" + varint(len(key)) + key
    body = key_value_frame(
        key_field, varint(create), mod_revision_field(varint(mod)), version, value_and_lease_fields(value, lease)
    )
    record = body + layout.pack_trailer(layout.PUT, mod, 0, 0, 0)

    pair = KeyValue(key=key, create_revision=create, mod_revision=mod, version=version, lease=lease)
    if create and mod:
        assert layout.without_value(record) == RangeResponse(kvs=[pair]).SerializeToString()
    assert RangeResponse.FromString(layout.without_value(record)).kvs[0] == pair
    assert layout.create_revision_and_version(record) == (create, version)


@given(user_keys, st.lists(st.tuples(numbers, st.integers(0, 99)), min_size=2, unique=True))
def test_old_versions_of_a_key_sort_newest_first(key: bytes, places: list[tuple[int, int]]) -> None:
    """And the bounds of a revision begin at the newest version no newer than it."""
    places.sort(reverse=True)
    keys = [layout.old_key(key, *place) for place in places]
    assert keys == sorted(keys)
    assert [layout.parse_old_key(each) for each in keys] == places
    for main, _ in places:
        start, end = layout.old_bounds(key, main)
        within = [place for place, each in zip(places, keys, strict=True) if start <= each < end]
        assert within == [place for place in places if place[0] <= main]


@given(user_keys, user_keys, user_keys)
def test_a_range_of_keys_is_the_same_range_of_old_versions(start: bytes, end: bytes, key: bytes) -> None:
    """A key is in the one exactly if its versions are in the other."""
    low, high = layout.old_range_bounds(start, end)
    assert (low <= layout.old_key(key, 5, 0) < high) == (start <= key < end)
    low, high = layout.old_range_bounds(start, None)
    assert (low <= layout.old_key(key, 5, 0) < high) == (start <= key)


@given(numbers, numbers)
def test_log_keys_sort_by_revision(main: int, sub: int) -> None:
    """And name it."""
    assert layout.parse_log_key(layout.log_key(main, sub)) == (main, sub)
    assert layout.log_key(main, sub) < layout.log_key(main + 1, 0)


@given(user_keys, st.binary(max_size=300), numbers, numbers, st.integers(1, 2**40), numbers)
def test_records_hold_protobufs_bytes(
    key: bytes, value: bytes, create: int, mod: int, version: int, lease: int
) -> None:
    """A frame is field 2 of PutResponse and RangeResponse, byte for byte what protobuf writes."""
    pair = KeyValue(
        key=key, value=value, create_revision=create + 1, mod_revision=mod + 1, version=version, lease=lease
    )
    framed = key_value_frame(
        b"\x0a" + varint(len(key)) + key,
        varint(create + 1),
        mod_revision_field(varint(mod + 1)),
        version,
        value_and_lease_fields(value, lease),
    )
    assert framed == PutResponse(prev_kv=pair).SerializeToString()
    assert framed == RangeResponse(kvs=[pair]).SerializeToString()
    record = framed + layout.pack_trailer(layout.PUT, mod + 1, 3, 7, 9)
    assert layout.key_value_bytes(record) == pair.SerializeToString()
    assert layout.record_key(record) == key
    assert layout.frame(record) == framed
    assert layout.trailer(record) == (layout.PUT, mod + 1, 3, 7, 9)
    stone = tombstone_frame(key, varint(mod + 1))
    assert stone == RangeResponse(kvs=[KeyValue(key=key, mod_revision=mod + 1)]).SerializeToString()


@given(st.integers(-(2**63), 2**64 - 1))
def test_varints_are_protobufs(value: int) -> None:
    """Also negative ones, as 64-bit two's complement."""
    data = varint(value)
    assert read_varint(b"x" + data + b"y", 1) == (value % 2**64, len(data) + 1)
    if 0 < value < 2**63:
        assert ResponseHeader(revision=value).SerializeToString() == b"\x18" + data


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), numbers, numbers)
def test_headers_are_protobufs(cluster: int, member: int, revision: int, term: int) -> None:
    """Framed as field 1, zero fields left out."""
    header = ResponseHeader(cluster_id=cluster, member_id=member, revision=revision, raft_term=term)
    expected = PutResponse(header=header).SerializeToString()
    assert header_bytes(ClusterId(cluster), MemberId(member), Revision(revision), Term(term)) == expected
    inner = PutResponse(header=ResponseHeader(revision=revision + 1)).SerializeToString()
    assert inner_header_bytes(revision + 1) == inner


@given(st.binary(max_size=140), st.binary(max_size=300) | st.integers(16_000, 17_000).map(bytes), st.booleans())
def test_plain_puts_are_cut_exactly(key: bytes, value: bytes, prev_kv: bool) -> None:
    """A put that is taken apart gives what parsing gives; everything that is not plain is left to the parser."""
    request = PutRequest(key=key, value=value, prev_kv=prev_kv)
    plain = plain_put(request.SerializeToString())
    if prev_kv or not key or not value or len(key) > 127 or len(value) >= 16384:
        assert plain is None
    else:
        assert plain is not None
        assert plain[0] == key
        assert plain[1] == KeyValue(key=key).SerializeToString()
        assert b"\x2a" + plain[2] == KeyValue(value=value).SerializeToString()


@given(st.binary(max_size=40))
def test_random_bytes_are_never_cut_wrongly(data: bytes) -> None:
    """If bytes are taken for a plain put, parsing them gives the same put."""
    plain = plain_put(b"\x0a" + data)
    if plain is not None:
        parsed = PutRequest.FromString(b"\x0a" + data)
        assert parsed.key == plain[0]
        assert PutRequest(key=parsed.key, value=parsed.value) == parsed
        assert KeyValue(value=parsed.value).SerializeToString() == b"\x2a" + plain[2]


def test_state_comes_back_and_other_formats_are_refused() -> None:
    """A store of another version is never guessed at."""
    state = layout.StoreState(Index(5), Term(2), Revision(9), Revision(4), Revision(-1), Revision(3), 100, 50)
    data = layout.pack_state(state)
    assert layout.unpack_state(data) == state
    assert layout.unpack_state(None) == layout.StoreState()
    with pytest.raises(Corruption, match="format 255"):
        layout.unpack_state(b"\x00\xff" + data[2:])
    with pytest.raises(Corruption, match="bytes"):
        layout.unpack_state(data[:-1])
