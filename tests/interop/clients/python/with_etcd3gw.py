"""etcd3gw, the maintained client of the JSON gateway: put, txn, watch, lease, lock; over TLS and as a user if asked to.

It has no call that logs in, but lets one set a header and ask any path.
"""

import sys
import threading
from collections.abc import Callable

from etcd3gw import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception


def refusal(call: Callable[[], object]) -> str:
    """What the client says when a call is refused."""
    try:
        call()
    except Etcd3Exception as error:
        return error.detail_text or ""
    return "not refused"


address, *login = sys.argv[1:]
host, _, port = address.rpartition(":")
if login:
    ca_file, user, password = login
    etcd = Etcd3Client(host, int(port), protocol="https", ca_cert=ca_file, timeout=20)
    answer = etcd.post(etcd.get_url("/auth/authenticate"), json={"name": user, "password": password})
    etcd.session.headers["Authorization"] = answer["token"]
else:
    etcd = Etcd3Client(host, int(port), timeout=20)

assert etcd.status()["version"]
assert etcd.members()
assert etcd.put("app/gw/a", "1")
assert etcd.put("app/gw/b", b"\x00\xff")
assert etcd.get("app/gw/a") == [b"1"]
assert [pair["key"] for _, pair in etcd.get_prefix("app/gw/", sort_order="descend")] == [b"app/gw/b", b"app/gw/a"]
assert etcd.get("app/gw/b") == [b"\x00\xff"]
assert etcd.get("app/gw/none") == []
print("put")

assert etcd.create("app/gw/new", "once")
assert not etcd.create("app/gw/new", "twice")
assert etcd.replace("app/gw/a", "1", "2")
assert not etcd.replace("app/gw/a", "1", "3")
assert etcd.delete("app/gw/new")
assert not etcd.delete("app/gw/new")
print("txn")

events, cancel = etcd.watch_prefix("app/gw/w/")
writer = threading.Thread(
    target=lambda: [etcd.put(f"app/gw/w/{number}", "x" * (50_000 if number == 1 else 10)) for number in range(3)]
)
writer.start()
heard = [next(events) for _ in range(3)]
writer.join()
cancel()
assert [event["kv"]["key"] for event in heard] == [b"app/gw/w/0", b"app/gw/w/1", b"app/gw/w/2"]
assert len(heard[1]["kv"]["value"]) == 50_000
print("watch")

lease = etcd.lease(60)
assert etcd.put("app/gw/leased", "1", lease=lease)
assert lease.keys() == [b"app/gw/leased"]
assert 0 < lease.ttl() <= 60
assert lease.refresh() == 60
assert lease.revoke()
assert etcd.get("app/gw/leased") == []
print("lease")

with etcd.lock("app/gw/lock", ttl=30) as lock:
    assert lock.is_acquired()
    assert not etcd.lock("app/gw/lock", ttl=30).acquire()
assert not lock.is_acquired()
print("lock")

if login:
    for denied in (lambda: etcd.put("secret", "1"), lambda: etcd.get_prefix("a"), lambda: etcd.delete_prefix("app")):
        assert "etcdserver: permission denied" in refusal(denied)
    print("auth")
