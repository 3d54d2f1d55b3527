"""etcd3gw, the maintained client of the JSON gateway: put, txn, watch, lease, lock."""

import sys
import threading

from etcd3gw import Etcd3Client

host, _, port = sys.argv[1].rpartition(":")
etcd = Etcd3Client(host, int(port), timeout=20)

assert etcd.status()["version"]
assert etcd.members()
assert etcd.put("gw/a", "1")
assert etcd.put("gw/b", b"\x00\xff")
assert etcd.get("gw/a") == [b"1"]
assert [pair["key"] for _, pair in etcd.get_prefix("gw/", sort_order="descend")] == [b"gw/b", b"gw/a"]
assert etcd.get("gw/b") == [b"\x00\xff"]
assert etcd.get("gw/none") == []
print("put")

assert etcd.create("gw/new", "once")
assert not etcd.create("gw/new", "twice")
assert etcd.replace("gw/a", "1", "2")
assert not etcd.replace("gw/a", "1", "3")
assert etcd.delete("gw/new")
assert not etcd.delete("gw/new")
print("txn")

events, cancel = etcd.watch_prefix("gw/w/")
writer = threading.Thread(
    target=lambda: [etcd.put(f"gw/w/{number}", "x" * (50_000 if number == 1 else 10)) for number in range(3)]
)
writer.start()
heard = [next(events) for _ in range(3)]
writer.join()
cancel()
assert [event["kv"]["key"] for event in heard] == [b"gw/w/0", b"gw/w/1", b"gw/w/2"]
assert len(heard[1]["kv"]["value"]) == 50_000
print("watch")

lease = etcd.lease(60)
assert etcd.put("gw/leased", "1", lease=lease)
assert lease.keys() == [b"gw/leased"]
assert 0 < lease.ttl() <= 60
assert lease.refresh() == 60
assert lease.revoke()
assert etcd.get("gw/leased") == []
print("lease")

with etcd.lock("gw-lock", ttl=30) as lock:
    assert lock.is_acquired()
    assert not etcd.lock("gw-lock", ttl=30).acquire()
assert not lock.is_acquired()
print("lock")
