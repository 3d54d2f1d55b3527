"""Every call of etcd has a way in the package, or a reason why not; and what the rarer ones of them say."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmq_node import TIMEOUT_S, SoloNode

import actd
from actd import Alarm, AsyncClient, Client, RequestRefused, calls
from actd.calls import DowngradeAction
from gateway.methods import METHODS_BY_NUMBER, STREAM_METHODS_BY_NUMBER
from protocol.wire import rpc_pb2 as rpc

ELSEWHERE = {
    "Lock": "actd.recipes.Lock, which tells when the lock is lost",
    "Unlock": "actd.recipes.Lock",
    "Campaign": "actd.recipes.Election",
    "Proclaim": "actd.recipes.Election",
    "Leader": "actd.recipes.Election",
    "Resign": "actd.recipes.Election",
    "Observe": "actd.recipes.Election, by a watch that resumes",
    "LeaseKeepAlive": "a call of its own, 11",
    "grpc.health.v1.Health/Watch": "the session greets its door",
}
"""What the package does another way."""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a node."""
    node = SoloNode().start()
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made
    node.close()


def numbers_in_use() -> set[int]:
    """The methods that the package's source names."""
    found: set[int] = set()
    for path in Path(actd.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value: ast.expr | None = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Call", "_done"):
                value = node.args[0]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                value = node.value if node.target.id.endswith("_METHOD") else None
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                found.add(value.value)
    return found


def test_every_call_has_a_way() -> None:
    """A method that the doors learn must be given one, or a reason."""
    missing = [
        method
        for number, method in {**METHODS_BY_NUMBER, **STREAM_METHODS_BY_NUMBER}.items()
        if number not in numbers_in_use()
    ]
    reasons = [method for method in missing if {method.name, f"{method.service}/{method.name}"} & ELSEWHERE.keys()]
    assert missing == reasons
    assert len(missing) == len(ELSEWHERE)


def test_both_clients_have_the_same_calls() -> None:
    """Whatever the blocking client can do, the asyncio client can; a pipeline is what it is anyway."""
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public - {"pipeline"} == {name for name in dir(AsyncClient) if not name.startswith("_")} - {"run_soon"}


def test_downgrade_says_what_etcds_rules_say(client: Client) -> None:
    """One minor version below can be validated, begun and given up; meanwhile the status tells, and no other begins."""
    assert client.downgrade("validate", "3.6.0") == "3.7"
    assert client.status().downgrade_target == ""
    assert client.downgrade("enable", "3.6.0") == "3.6"
    assert client.status().downgrade_target == "3.6.0"
    with pytest.raises(RequestRefused, match="cluster has a downgrade job in progress"):
        client.downgrade("validate", "3.6.0")
    assert client.downgrade("cancel") == "3.7"
    assert client.status().downgrade_target == ""


@pytest.mark.parametrize(
    ("action", "version", "text"),
    [
        ("validate", "3.5", "invalid downgrade target version"),
        ("enable", "4.0", "invalid downgrade target version"),
        ("enable", "soon", "wrong downgrade target version format"),
    ],
)
def test_downgrade_that_cannot_be_is_refused(client: Client, action: DowngradeAction, version: str, text: str) -> None:
    """In etcd's words."""
    with pytest.raises(RequestRefused, match=text):
        client.downgrade(action, version)


def test_alarms_are_raised_and_taken_back(client: Client) -> None:
    """`arm` names the alarm, `alarms` lists it, `disarm` ends it."""
    alarm = Alarm(member_id=7, kind=2)
    assert client.arm(alarm) == (alarm,)
    assert client.alarms() == (alarm,)
    assert client.disarm(alarm) == (alarm,)
    assert client.alarms() == ()


def test_status_tells_what_newer_servers_tell() -> None:
    """Storage version, quota and a downgrade under way are read; without them the fields are empty."""
    told = rpc.StatusResponse(
        storageVersion="3.7.0",
        dbSizeQuota=1 << 33,
        downgradeInfo=rpc.DowngradeInfo(enabled=True, targetVersion="3.6.0"),
    )
    status = calls.status().read(told.SerializeToString())
    assert (status.storage_version, status.db_size_quota_bytes, status.downgrade_target) == ("3.7.0", 1 << 33, "3.6.0")
    status = calls.status().read(b"")
    assert (status.storage_version, status.db_size_quota_bytes, status.downgrade_target) == ("", 0, "")
