"""pyetcd (etcd-sdk-python), the blocking gRPC client that descends from python-etcd3: put, txn, watch, lease, lock.

With a CA, a user and a password all of it over TLS, and what is denied as well.
"""

import itertools
import sys
from collections.abc import Callable

import grpc
import pyetcd


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Code and text when a call is refused: the client passes on the error of gRPC."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


address, *login = sys.argv[1:]
host, _, port = address.rpartition(":")
ca_file, user, password = login or (None, None, None)
etcd = pyetcd.client(host=host, port=int(port), ca_cert=ca_file, user=user, password=password, timeout=20)

etcd.put("app/py/a", "1")
etcd.put("app/py/b", b"\x00\xff")
assert etcd.get("app/py/a")[0] == b"1"
assert [meta.key for _, meta in etcd.get_prefix("app/py/", sort_order="descend")] == [b"app/py/b", b"app/py/a"]
assert etcd.status().version
print("put")

done, responses = etcd.transaction(
    compare=[etcd.transactions.value("app/py/a") == "1", etcd.transactions.version("app/py/a") > 0],
    success=[etcd.transactions.put("app/py/a", "2"), etcd.transactions.get("app/py/a")],
    failure=[etcd.transactions.delete("app/py/a")],
)
assert done
assert responses[1][0][0] == b"2"
assert etcd.put_if_not_exists("app/py/new", "once")
assert not etcd.put_if_not_exists("app/py/new", "twice")
print("txn")

events, cancel = etcd.watch_prefix("app/py/w/")
for number in range(3):
    etcd.put(f"app/py/w/{number}", "x")
etcd.delete("app/py/w/1")
heard = [(type(event).__name__, event.key) for event in itertools.islice(events, 4)]
cancel()
assert heard == [
    ("PutEvent", b"app/py/w/0"),
    ("PutEvent", b"app/py/w/1"),
    ("PutEvent", b"app/py/w/2"),
    ("DeleteEvent", b"app/py/w/1"),
]
print("watch")

lease = etcd.lease(60)
etcd.put("app/py/leased", "1", lease=lease)
assert list(lease.keys) == [b"app/py/leased"]
assert lease.refresh()[0].TTL == 60
lease.revoke()
assert etcd.get("app/py/leased")[0] is None
print("lease")

with etcd.lock("app/py/lock", ttl=30) as lock:
    assert lock.is_acquired()
    assert not etcd.lock("app/py/lock", ttl=30).acquire(timeout=1)
print("lock")

if login:
    for denied in (lambda: etcd.put("secret", "1"), lambda: etcd.get("secret"), lambda: etcd.delete_prefix("app")):
        assert refusal(denied) == ("PERMISSION_DENIED", "etcdserver: permission denied")
    print("auth")
