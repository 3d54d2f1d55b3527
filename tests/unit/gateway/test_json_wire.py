"""Messages as JSON: protobuf's own library is the oracle where it is as strict as etcd's gateway."""

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from gateway.grpc_methods import all_methods
from gateway.json_paths import PATHS, json_routes
from gateway.json_wire import JsonFault, JsonValues, form_of, parts_of, read_message
from gateway.methods import METHODS, STREAM_METHODS
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

NUMBERS = st.integers(-(2**63), 2**63 - 1)
SMALL_BYTES = st.binary(max_size=12)
TEXT = st.text('aé"\\/{}[]\n\u2028😀', max_size=6)


@st.composite
def key_values(draw: st.DrawFn) -> mvcc.KeyValue:
    """Any pair."""
    return mvcc.KeyValue(
        key=draw(SMALL_BYTES), value=draw(SMALL_BYTES), lease=draw(NUMBERS), mod_revision=draw(NUMBERS)
    )


@st.composite
def responses(draw: st.DrawFn) -> Any:
    """A few types that have every kind of field."""
    pairs = draw(st.lists(key_values(), max_size=5))
    header = rpc.ResponseHeader(member_id=draw(st.integers(0, 2**64 - 1)), revision=draw(NUMBERS))
    ranged = rpc.RangeResponse(header=header, kvs=pairs, more=draw(st.booleans()), count=draw(NUMBERS))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return ranged
    if kind == 1:
        events = [mvcc.Event(type=draw(st.sampled_from([0, 1])), kv=pair) for pair in pairs]
        return rpc.WatchResponse(header=header, events=events, cancel_reason=draw(TEXT))
    if kind == 2:
        operation = rpc.ResponseOp(response_txn=rpc.TxnResponse(responses=[rpc.ResponseOp(response_range=ranged)]))
        return rpc.TxnResponse(header=header, succeeded=True, responses=[operation, rpc.ResponseOp()])
    members = [rpc.Member(ID=draw(st.integers(0, 2**64 - 1)), peerURLs=draw(st.lists(TEXT, max_size=3)))]
    return rpc.MemberListResponse(members=members)


@given(responses(), st.integers(1, 60))
def test_written_is_read_back_and_is_what_protobuf_writes(message: Any, part_bytes: int) -> None:
    """Whole or in parts, the text says the message, and nothing that protobuf's library would not say."""
    form = form_of(message.DESCRIPTOR)
    text = form.render(message)

    assert read_message(type(message), text.encode()) == message
    oracle = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert json.loads(text) == oracle
    parts = parts_of(type(message), message.SerializeToString(deterministic=True), part_bytes)
    assert "".join(form.render_parts(parts)) == text


@given(responses())
def test_what_protobuf_writes_in_its_own_style_is_understood(message: Any) -> None:
    """Names in camel case and enums as numbers are the same message."""
    text = json_format.MessageToJson(message, preserving_proto_field_name=False, use_integers_for_enums=True)

    assert read_message(type(message), text.encode()) == message


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_fault(body: bytes) -> None:
    """Nothing else comes of what strangers send."""
    for form in (rpc.TxnRequest, rpc.RangeRequest):
        try:
            read_message(form, body)
        except JsonFault:
            continue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"key":"Zm9v","prevKv":true,"lease":"5"}', rpc.PutRequest(key=b"foo", prev_kv=True, lease=5)),
        ('{"key":"Zm9v","prev_kv":true,"lease":5.0}', rpc.PutRequest(key=b"foo", prev_kv=True, lease=5)),
        ('{"key":"-_-_","value":"+/+/"}', rpc.PutRequest(key=b"\xfb\xff\xbf", value=b"\xfb\xff\xbf")),
        ('{"key":"YQ","value":"YQ=="}', rpc.PutRequest(key=b"a", value=b"a")),
        ('{"key":"Zm9v","value":null,"unknown":[{"deep":1}]} and more', rpc.PutRequest(key=b"foo")),
        ("", rpc.PutRequest()),
        (" {} ", rpc.PutRequest()),
        ('{"sort_order":"DESCEND","sortTarget":2}', rpc.RangeRequest(sort_order=2, sort_target=2)),
        ('{"sort_order":"NO SUCH NAME","limit":1e3}', rpc.RangeRequest(limit=1000)),
        ('{"compare":[{"version":0}]}', rpc.TxnRequest(compare=[rpc.Compare(version=0)])),
        ('{"ID":"18446744073709551615"}', rpc.MemberRemoveRequest(ID=2**64 - 1)),
    ],
)
def test_spellings_that_are_understood(text: str, expected: Any) -> None:
    """Both names of a field, numbers in any form, both alphabets of base64; what is not known is passed over."""
    assert read_message(type(expected), text.encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"key":',
        "[]",
        '"text"',
        '{"key":5}',
        '{"key":"foo bar"}',
        '{"key":"Zm9v-+"}',
        '{"key":"Z"}',
        '{"key":"Zm9v="}',
        '{"key":"\\ud800"}',
        '{"lease":5.5}',
        '{"lease":true}',
        '{"lease":" 5"}',
        '{"lease":"1_000"}',
        '{"lease":"9223372036854775808"}',
        '{"lease":1e400}',
        '{"lease":NaN}',
        '{"prev_kv":"true"}',
        '{"prev_kv":true,"prevKv":true}',
        '{"key":"Zm9v","key":"Zm9v"}',
        '{"a":' * 100_000,
    ],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    """A mistake is told, never guessed around: what was put would not be what was meant."""
    with pytest.raises(JsonFault):
        read_message(rpc.PutRequest, text.encode())


def test_only_one_of_a_choice_may_be_given() -> None:
    """Two of a oneof contradict each other."""
    with pytest.raises(JsonFault):
        read_message(rpc.RequestOp, b'{"request_range":{},"request_put":{}}')


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=3), max_size=5), st.data())
def test_values_of_a_stream_arrive_however_they_are_cut(values: list[dict[str, str]], data: st.DataObject) -> None:
    """Objects come out as they were put in; between them may be white space."""
    text = data.draw(st.sampled_from(["", "\n", " \r\n\t"])).join(json.dumps({"a": value}) for value in values).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    reader = JsonValues(10_000)
    found = [
        value
        for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        for value in reader.feed(text[begin:end])
    ]
    reader.finish()

    assert [json.loads(value)["a"] for value in found] == values
    assert not reader.held_bytes


def test_stream_that_is_no_stream_of_objects_is_refused() -> None:
    """Anything between objects, an end in the middle, and an object that never ends."""
    with pytest.raises(JsonFault):
        JsonValues(100).feed(b"{} 5")
    reader = JsonValues(100)
    assert reader.feed(b'{"a":') == []
    with pytest.raises(JsonFault, match="unexpected EOF"):
        reader.finish()
    with pytest.raises(JsonFault, match="more than 100 bytes"):
        JsonValues(100).feed(b'{"a":"' + bytes(200))


def test_every_method_of_the_api_has_a_path() -> None:
    """A method that is added to the API is added to the gateway, and types are those of its description."""
    table = all_methods(METHODS, STREAM_METHODS)
    reachable = {f"/{service}/{name}".encode() for service, name in PATHS.values()}

    assert reachable == {path for path in table if not path.startswith(b"/grpc.health")}
    assert json_routes(table)["/kv/put"].request is rpc.PutRequest
    value = base64.b64encode(b"v").decode()
    assert json_routes(table)["/kv/range"].form.render(rpc.RangeResponse(kvs=[mvcc.KeyValue(value=b"v")])) == (
        f'{{"kvs":[{{"value":"{value}"}}]}}'
    )
