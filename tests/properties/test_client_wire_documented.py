"""docs/protocol.md is enough to write a client: its tables and its bytes are those of the code, and they work."""

import re
from pathlib import Path

import msgpack
import pytest
import zmq
from zmq_node import TIMEOUT_S, SoloNode

from gateway import zmq_door
from protocol import client, codec
from protocol.client import CallBatch, ClientHello, ReplyBatch
from protocol.config import LimitsConfig
from protocol.message import REGISTRY, Message
from protocol.types import ClusterId
from protocol.wire import rpc_pb2 as rpc

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text()
KINDS = [kind for kind, cls in REGISTRY.items() if cls.__module__ == "protocol.client"]

PUT = rpc.PutRequest(key=b"k", value=b"v").SerializeToString()
STORED = rpc.PutResponse(header=rpc.ResponseHeader(cluster_id=1, member_id=2, revision=2, raft_term=3))


def dumps() -> list[bytes]:
    """The hexdumps of the page, in order."""
    found = re.findall(r"(?:^    (?:[0-9a-f]{2} ?)+\n)+", PAGE, re.MULTILINE)
    return [bytes.fromhex(dump) for dump in found]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, ClientHello(protocol_version=1, client="me", cluster=ClusterId(0))),
        (1, CallBatch(calls=((7, 1, 5000, PUT),))),
        (2, ReplyBatch(replies=((7, 0, STORED.SerializeToString()),))),
    ],
)
def test_the_hexdumps_are_what_the_codec_makes(number: int, message: Message) -> None:
    """Byte for byte."""
    assert len(dumps()) == 3
    assert dumps()[number] == codec.encode(message)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_table_with_all_its_fields(kind: str) -> None:
    """And with no other."""
    (row,) = re.findall(rf"^\| (?:client|door) \| `{kind}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(REGISTRY[kind].model_fields)


def test_every_reason_to_refuse_is_explained() -> None:
    """The door refuses for no other, and the table has none that it does not use."""
    source = (ROOT / "gateway" / "zmq_door.py").read_text()
    used = set(re.findall(r"_refuse\(\s*(?:\w+\.)?route, \"(\w+)\"", source))
    assert used == set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE))


def test_the_limits_are_those_of_the_code() -> None:
    """Numbers in prose go stale first."""
    mib = 1 << 20
    for words, actual in (
        ("at most 8 MiB", client.CLIENT_MESSAGE_BYTES_MAX / mib == 8),
        ("more than 1,000 items", client.CALLS_PER_BATCH_MAX == 1000),
        ("no more than 8,000 in all", client.CALLS_PER_BATCH_MAX * codec.ITEMS_PER_ARRAY_MAX == 8000),
        ("at most 6 MiB.", zmq_door.REPLY_FRAME_BYTES_MAX / mib == 4 and mib * 2 > zmq_door.PIECE_BYTES_MAX),
        ("response over 4 MiB", zmq_door.REPLY_FRAME_BYTES_MAX / mib == 4),
        ("at most 64 MiB in all", LimitsConfig().response_bytes_max / mib == 64),
        ("no pieces for a minute", zmq_door.STALLED_CLIENT_S == 60),
        ("at most 64 MiB together", zmq_door.CALL_BYTES_OPEN_MAX / mib == 64),
        ("10,000 are there already", zmq_door.CLIENTS_MAX == 10_000),
        ("1 MiB more", mib == client.TAKEN_STEP_BYTES),
        ("silent for ten minutes", zmq_door.SILENT_CLIENT_S == 600),
        ("heartbeats every 10 s", zmq_door.HEARTBEAT_MS == 10_000),
    ):
        assert actual, words
        assert words in " ".join(PAGE.split()), words


def test_a_client_made_of_the_page_alone_works() -> None:
    """A socket, msgpack and the bytes of the page: a put is stored and its answer read."""
    node = SoloNode().start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.RCVTIMEO, int(TIMEOUT_S * 1000))
        socket.connect(node.endpoint)
        hello, put, _ = dumps()
        socket.send(hello)
        kind, fields = msgpack.unpackb(socket.recv())
        assert (kind, fields["protocol_version"], fields["doors"]) == ("ClientHelloReply", 1, [node.endpoint])
        socket.send(put)
        kind, fields = msgpack.unpackb(socket.recv())
        ((call_id, code, body),) = fields["replies"]
        assert (kind, call_id, code) == ("ReplyBatch", 7, 0)
        assert rpc.PutResponse.FromString(body).header.revision == 2
    finally:
        context.destroy(linger=0)
        node.close()
