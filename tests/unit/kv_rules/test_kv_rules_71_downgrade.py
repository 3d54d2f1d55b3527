"""etcd's rule 71 for version 3.7.1, and the hash of all that members have in common (rule 27)."""

import pytest

from protocol.command import ReadKind
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.wire.rpc_pb2 import DowngradeRequest, DowngradeResponse, HashRequest, HashResponse
from sim.store_driver import StoreDriver

VALIDATE, ENABLE, CANCEL = DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE, DowngradeRequest.CANCEL


def validate(store: StoreDriver, version: str) -> tuple[ErrorCode, str]:
    """What VALIDATE answers."""
    answer = store.read(ReadKind.DOWNGRADE_VALIDATE, DowngradeRequest(version=version), DowngradeResponse)
    return answer.code, answer.response.version if answer.response else ""


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("3.6", ErrorCode.OK),
        ("3.6.0", ErrorCode.OK),
        ("3.5.0", ErrorCode.INVALID_DOWNGRADE_TARGET),
        ("3.7.0", ErrorCode.INVALID_DOWNGRADE_TARGET),
        ("3.6.14", ErrorCode.INVALID_DOWNGRADE_TARGET),
        ("", ErrorCode.WRONG_DOWNGRADE_FORMAT),
        ("3.6.x", ErrorCode.WRONG_DOWNGRADE_FORMAT),
        ("three", ErrorCode.WRONG_DOWNGRADE_FORMAT),
    ],
)
def test_rule_71_the_target_is_exactly_one_minor_version_below(
    store: StoreDriver, version: str, code: ErrorCode
) -> None:
    """With or without the patch; VALIDATE answers with the cluster's version and changes nothing."""
    assert validate(store, version) == (code, "" if code else "3.7")
    assert store.one(DowngradeRequest(action=ENABLE, version=version)).code == code
    assert bool(store.status().downgradeInfo.enabled) == (code == ErrorCode.OK)


def test_rule_71_one_downgrade_at_a_time_and_cancelling_always_succeeds(store: StoreDriver) -> None:
    """Status tells the target; it outlives a restart."""
    assert store.one(DowngradeRequest(action=CANCEL)).response.version == "3.7"
    assert store.one(DowngradeRequest(action=ENABLE, version="3.6")).response.version == "3.6"
    store.restart()
    assert store.status().downgradeInfo.targetVersion == "3.6.0"
    for code in (validate(store, "3.6")[0], store.one(DowngradeRequest(action=ENABLE, version="3.6")).code):
        assert code == ErrorCode.DOWNGRADE_IN_PROCESS
    assert store.one(DowngradeRequest(action=CANCEL)).code == ErrorCode.OK
    assert not store.status().HasField("downgradeInfo")
    assert validate(store, "3.6")[0] == ErrorCode.OK
    assert WIRE_ERRORS[ErrorCode.DOWNGRADE_IN_PROCESS].text == "etcdserver: cluster has a downgrade job in progress"


def whole_hash(store: StoreDriver) -> int:
    """What Hash answers."""
    return int(store.read(ReadKind.HASH, HashRequest(), HashResponse).response.hash)


def test_rule_27_hash_sees_leases_and_not_how_far_compaction_got(store: StoreDriver) -> None:
    """Unlike HashKV it covers the other tables; space that is given back changes nothing."""
    for _ in range(5):
        store.put(b"k")
    before = whole_hash(store)
    store.grant(7)
    assert whole_hash(store) != before
    store.revoke(7)
    assert whole_hash(store) == before
    store.compact(4)
    compacted = whole_hash(store)
    store.finish_compaction()
    assert whole_hash(store) == compacted


def test_rule_28_only_a_defragmentation_gives_size_back(store: StoreDriver) -> None:
    """The size is then what is in use, also after a restart."""
    for _ in range(5):
        store.put(b"k", b"v" * 100)
    store.compact(6)
    store.finish_compaction()
    in_use = store.store.size_in_use
    assert store.store.size > in_use
    store.store.defragmented()
    store.check()
    store.restart()
    assert (store.store.size, store.store.size_in_use) == (in_use, in_use)
