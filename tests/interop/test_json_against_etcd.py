"""The JSON gateway of real etcd and of actd: the same requests, the same answers, line by line.

Compared is Debian's etcd 3.4, whose gateway is of an older make: what is known to have changed since is put aside by
name in `as_of_37`, and nothing else is.
"""

import http.client
import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from websocket_client import WebSocket

from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
Answer = tuple[int, list[Any]]


def b(text: str) -> str:
    """Text as the gateway takes it."""
    return b64encode(text.encode()).decode()


A, B, Z = b("a"), b("b"), b("z")
SCRIPT: list[tuple[str, Any]] = [
    ("/v3/kv/put", {"key": A, "value": b("1")}),
    ("/v3/kv/put", {"key": A, "value": b("2"), "prev_kv": True}),
    ("/v3/kv/put", {"key": B, "value": "+/+/", "prevKv": True, "unknown": {"x": [1]}}),
    ("/v3/kv/put", {"key": A, "ignore_value": True}),
    ("/v3/kv/put", {"key": A, "value": b("3"), "ignore_value": True}),
    ("/v3/kv/put", {"key": b("none"), "ignore_lease": True}),
    ("/v3/kv/put", {"key": A, "lease": "77"}),
    ("/v3/kv/put", {"key": ""}),
    ("/v3/kv/put", {}),
    ("/v3/kv/put", ""),
    ("/v3/kv/put", '{"key":"YQ=="} and more'),
    ("/v3/kv/put", '{"key":'),
    ("/v3/kv/put", "[]"),
    ("/v3/kv/put", {"key": "foo bar"}),
    ("/v3/kv/put", {"key": 5}),
    ("/v3/kv/put", {"key": A, "lease": 5.5}),
    ("/v3/kv/put", {"key": A, "lease": "five"}),
    ("/v3/kv/put", {"key": A, "lease": "99999999999999999999"}),
    ("/v3/kv/range", {"key": A}),
    ("/v3/kv/range", {"key": A, "range_end": Z, "sort_order": "DESCEND", "sort_target": "MOD"}),
    ("/v3/kv/range", {"key": A, "rangeEnd": Z, "sortOrder": 1, "sortTarget": 3, "limit": "1"}),
    ("/v3/kv/range", {"key": A, "range_end": Z, "limit": 1, "keys_only": True}),
    ("/v3/kv/range", {"key": A, "range_end": Z, "count_only": True}),
    ("/v3/kv/range", {"key": A, "revision": "2", "serializable": True}),
    ("/v3/kv/range", {"key": A, "revision": 1000}),
    ("/v3/kv/range", {"key": b("none")}),
    ("/v3beta/kv/range", {"key": A}),
    ("/v3alpha/kv/range", {"key": A}),
    ("/v3/kv/nothing", {}),
    ("/v3/", {}),
    (
        "/v3/kv/txn",
        {
            "compare": [{"target": "VALUE", "key": A, "result": "EQUAL", "value": ""}, {"key": A, "version": "0"}],
            "success": [{"request_put": {"key": A, "value": b("yes")}}],
            "failure": [
                {"requestRange": {"key": A, "range_end": Z}},
                {"request_delete_range": {"key": B, "prev_kv": True}},
                {"request_txn": {"success": [{"request_put": {"key": B, "value": b("inner")}}]}},
                {"request_range": {"key": A, "range_end": Z, "count_only": True}},
            ],
        },
    ),
    ("/v3/kv/txn", {"compare": [{"target": "LEASE", "key": A, "lease": "0"}], "success": [{"request_put": {}}]}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": A}}, {"request_put": {"key": A}}]}),
    ("/v3/kv/txn", {}),
    ("/v3/kv/deleterange", {"key": A, "range_end": Z, "prev_kv": True}),
    ("/v3/kv/deleterange", {"key": A}),
    ("/v3/watch", {"create_request": {"key": A, "start_revision": 1000}}),
    ("/v3/lease/grant", {"TTL": 100, "ID": "7"}),
    ("/v3/lease/grant", {"TTL": 100, "ID": 7}),
    ("/v3/kv/put", {"key": A, "lease": 7}),
    ("/v3/lease/timetolive", {"ID": 7, "keys": True}),
    ("/v3/kv/lease/timetolive", {"ID": "8"}),
    ("/v3/lease/keepalive", '{"ID":7}{"ID":"8"}'),
    ("/v3/lease/keepalive", ""),
    ("/v3/kv/lease/revoke", {"ID": 7}),
    ("/v3/lease/revoke", {"ID": 7}),
    ("/v3/kv/compaction", {"revision": "3", "physical": True}),
    ("/v3/kv/compaction", {"revision": "3"}),
    ("/v3/kv/compaction", {"revision": "3000"}),
    ("/v3/kv/range", {"key": A, "revision": 2}),
]
WATCHES: list[tuple[str, int]] = [
    (json.dumps({"create_request": {"key": A, "range_end": Z, "start_revision": "3", "prev_kv": True}}), 2),
    (json.dumps({"createRequest": {"key": A, "startRevision": 3, "filters": ["NOPUT"], "watchId": "5"}}), 2),
    ('{"create_request":{"key":"YQ=="}} {"progress_request":{}}\n', 2),
    ('{"create_request":{"key":"YQ==","start_revision":1}}', 2),
    ('{"create_request":{"key":"YQ=="}}{"cancel_request":{"watch_id":0}}', 2),
]
"""What is said on a watch, and how many lines come of it at once."""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A fresh etcd and a fresh node of ours that have heard the script; where they answer."""
    need_etcd()
    directory = tmp_path_factory.mktemp("json")
    with running_etcd(directory) as address, running(Cluster(directory / "actd", nodes=1)) as cluster:
        cluster.start()
        yield address, cluster.client_address("n1")


def ask(address: str, path: str, body: Any, lines: int = 0) -> Answer:
    """Post a body; return the status and every value of the answer, or its first `lines`."""
    text = body if isinstance(body, str) else json.dumps(body)
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        streams = response.headers["content-type"] == "application/json"
        if lines or path == "/v3/watch":
            said = [response.readline() for _ in range(lines or 1)]
        else:
            said = response.read().splitlines()
        return response.status, [json.loads(line) if streams else line for line in said if line.strip()]
    finally:
        connection.close()


def as_of_37(answer: Answer) -> Answer:
    """An answer without ids, and, where it is etcd 3.4's, as the gateway of 3.7 would put it.

    The older gateway repeats an error's text, has 412 for code 9, answers unknown paths with plain text, and words the
    errors of its JSON library differently; the line of an error in a stream had other names.
    """
    status, values = answer
    if status == 404 and values and isinstance(values[0], bytes):
        return 404, [{"code": 5, "message": "Not Found"}]
    values = [_plain(value) for value in values]
    first = values[0] if values else {}
    if "code" in first:
        first.pop("error", None)
        status = 400 if first["code"] == 9 else status
        if first["code"] == 3 and not first["message"].startswith("etcdserver: "):
            first["message"] = "the JSON is not what it should be"
    return status, values


def _plain(value: Any) -> Any:
    """A value without the ids and the term of headers."""
    if isinstance(value, dict):
        header = value.get("header", {})
        for name in ("cluster_id", "member_id", "raft_term"):
            header.pop(name, None)
        if not header:
            value.pop("header", None)
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def test_same_requests_have_the_same_answers(addresses: tuple[str, str]) -> None:
    """Calls and one-shot streams, mistakes of every kind included; then watches on what has become of it."""
    for number, (path, body) in enumerate(SCRIPT):
        expected, found = (as_of_37(ask(address, path, body)) for address in addresses)
        assert found == expected, f"request {number}: {path} {body}"
    for body, lines in WATCHES:
        # Both may say the progress before or after the events: what is said counts, and per watch its order.
        said = [sorted(map(json.dumps, as_of_37(ask(address, "/v3/watch", body, lines))[1])) for address in addresses]
        assert said[1] == said[0], body


def test_websockets_say_what_etcds_say(addresses: tuple[str, str]) -> None:
    """A watch that goes on, keep-alives one by one, and a call: message by message the same."""
    talks = [WebSocket(address, "/v3/watch") for address in addresses]
    try:
        assert [talk.status for talk in talks] == [101, 101]
        for talk in talks:
            talk.say({"create_request": {"key": b("ws"), "range_end": b("wt")}})
        assert _same([talk.hears() for talk in talks])["result"]["created"]
        for number in range(3):
            for address in addresses:
                assert ask(address, "/v3/kv/put", {"key": b(f"ws{number}"), "value": b("x")})[0] == 200
            (event,) = _same([talk.hears() for talk in talks])["result"]["events"]
            assert event["kv"]["key"] == b(f"ws{number}")
        for talk in talks:
            talk.say({"cancel_request": {"watch_id": "0"}})
        assert _same([talk.hears() for talk in talks])["result"]["canceled"]
    finally:
        for talk in talks:
            talk.hang_up()
    for path, said in (
        ("/v3/lease/keepalive", [{"ID": "12345"}, {"ID": 54321}]),
        ("/v3/kv/range", [{"key": b("ws0")}]),
        ("/v3/kv/put", [{}]),
    ):
        talks = [WebSocket(address, path) for address in addresses]
        for value in said:
            for talk in talks:
                talk.say(value)
            _same([talk.hears() for talk in talks])
        for talk in talks:
            talk.hang_up()


def _same(values: list[Any]) -> Any:
    """What both have said."""
    (_, expected), (_, found) = (as_of_37((200, [value])) for value in values)
    assert found == expected
    return found[0]


def test_range_stream_over_json_and_grpc_is_what_range_answers(addresses: tuple[str, str]) -> None:
    """Some megabytes in pieces; etcd has no such path, so actd is compared with itself."""
    _, address = addresses
    with grpc.insecure_channel(address) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put", request_serializer=rpc.PutRequest.SerializeToString)
        for number in range(40):
            put(rpc.PutRequest(key=b"rs/%02d" % number, value=bytes([number]) * 100_000), timeout=30)
        form = rpc.RangeStreamResponse.FromString
        stream = channel.unary_stream("/etcdserverpb.KV/RangeStream", rpc.RangeRequest.SerializeToString, form)
        pieces = list(stream(rpc.RangeRequest(key=b"rs/", range_end=b"rs0"), timeout=30))

    merged = rpc.RangeResponse()
    for piece in pieces:
        merged.MergeFrom(piece.range_response)
    status, lines = ask(address, "/v3/kv/rangestream", {"key": b("rs/"), "range_end": b("rs0")})
    assert status == 200
    assert len(pieces) == len(lines) > 3
    pairs = [pair for line in lines for pair in line["result"]["range_response"]["kvs"]]
    (whole,) = ask(address, "/v3/kv/range", {"key": b("rs/"), "range_end": b("rs0")})[1]
    assert pairs == whole["kvs"]
    assert [b(pair.key.decode()) for pair in merged.kvs] == [pair["key"] for pair in pairs]
    assert str(merged.count) == lines[-1]["result"]["range_response"]["count"] == whole["count"]


@pytest.mark.parametrize("option", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_gets_its_answers(addresses: tuple[str, str], option: str) -> None:
    """The command of etcd's documentation, over both versions of HTTP."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    url = f"http://{addresses[1]}/v3/kv"
    for path, body in (("put", {"key": b("curl"), "value": b(option)}), ("range", {"key": b("curl")})):
        command = [curl, "-sS", "--max-time", "30", option, f"{url}/{path}", "-d", json.dumps(body)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kvs"][0]["value"] == b(option)
