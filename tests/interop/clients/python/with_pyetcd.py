"""pyetcd (etcd-sdk-python), the blocking gRPC client that descends from python-etcd3: put, txn, watch, lease, lock."""

import itertools
import sys

import pyetcd

host, _, port = sys.argv[1].rpartition(":")
etcd = pyetcd.client(host=host, port=int(port), timeout=20)

etcd.put("py/a", "1")
etcd.put("py/b", b"\x00\xff")
assert etcd.get("py/a")[0] == b"1"
assert [meta.key for _, meta in etcd.get_prefix("py/", sort_order="descend")] == [b"py/b", b"py/a"]
assert etcd.status().version
print("put")

done, responses = etcd.transaction(
    compare=[etcd.transactions.value("py/a") == "1", etcd.transactions.version("py/a") > 0],
    success=[etcd.transactions.put("py/a", "2"), etcd.transactions.get("py/a")],
    failure=[etcd.transactions.delete("py/a")],
)
assert done
assert responses[1][0][0] == b"2"
assert etcd.put_if_not_exists("py/new", "once")
assert not etcd.put_if_not_exists("py/new", "twice")
print("txn")

events, cancel = etcd.watch_prefix("py/w/")
for number in range(3):
    etcd.put(f"py/w/{number}", "x")
etcd.delete("py/w/1")
heard = [(type(event).__name__, event.key) for event in itertools.islice(events, 4)]
cancel()
assert heard == [
    ("PutEvent", b"py/w/0"),
    ("PutEvent", b"py/w/1"),
    ("PutEvent", b"py/w/2"),
    ("DeleteEvent", b"py/w/1"),
]
print("watch")

lease = etcd.lease(60)
etcd.put("py/leased", "1", lease=lease)
assert list(lease.keys) == [b"py/leased"]
assert lease.refresh()[0].TTL == 60
lease.revoke()
assert etcd.get("py/leased")[0] is None
print("lease")

with etcd.lock("py-lock", ttl=30) as lock:
    assert lock.is_acquired()
    assert not etcd.lock("py-lock", ttl=30).acquire(timeout=1)
print("lock")
