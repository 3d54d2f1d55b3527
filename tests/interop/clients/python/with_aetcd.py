"""aetcd, an asyncio client over gRPC: put, txn, watch, lease, lock; with a user and a password what is denied as well.

It has no option for TLS: its channels are insecure ones.
"""

import asyncio
import sys
from collections.abc import Awaitable

import aetcd


async def main(address: str, user: str | None = None, password: str | None = None) -> None:
    """Do one of everything; any surprise ends the program."""
    host, _, port = address.rpartition(":")
    async with aetcd.Client(host, int(port), user, password, timeout=20) as etcd:
        await etcd.put(b"app/ae/a", b"1")
        previous = await etcd.put(b"app/ae/a", b"2", prev_kv=True)
        assert previous.prev_kv.value == b"1"
        assert (await etcd.get(b"app/ae/a")).value == b"2"
        assert await etcd.get(b"app/ae/none") is None
        assert [pair.key for pair in await etcd.get_prefix(b"app/ae/")] == [b"app/ae/a"]
        print("put")

        done, responses = await etcd.transaction(
            compare=[etcd.transactions.value(b"app/ae/a") == b"2", etcd.transactions.version(b"app/ae/a") > 0],
            success=[etcd.transactions.put(b"app/ae/a", b"3"), etcd.transactions.get(b"app/ae/a")],
            failure=[etcd.transactions.delete(b"app/ae/a")],
        )
        assert done
        assert responses[1][0][0] == b"3"
        assert not await etcd.replace(b"app/ae/a", b"2", b"4")
        print("txn")

        watch = await etcd.watch_prefix(b"app/ae/w/")
        for number in range(3):
            await etcd.put(b"app/ae/w/%d" % number, b"x")
        await etcd.delete(b"app/ae/w/1")
        heard = []
        async for event in watch:
            heard.append((str(event.kind), event.kv.key))
            if len(heard) == 4:
                await watch.cancel()
        assert [kind for kind, _ in heard] == ["PUT", "PUT", "PUT", "DELETE"]
        assert [key for _, key in heard] == [b"app/ae/w/%d" % number for number in (0, 1, 2, 1)]
        print("watch")

        lease = await etcd.lease(60)
        await etcd.put(b"app/ae/leased", b"1", lease=lease)
        assert list(await lease.keys()) == [b"app/ae/leased"]
        assert (await lease.refresh()).TTL == 60
        await lease.revoke()
        assert await etcd.get(b"app/ae/leased") is None
        print("lease")

        async with etcd.lock(b"app/ae/lock", ttl=30) as lock:
            assert await lock.is_acquired()
            assert not await etcd.lock(b"app/ae/lock", ttl=30).acquire(timeout=1)
        print("lock")

        if user:
            for denied in (etcd.put(b"secret", b"1"), etcd.get(b"secret"), etcd.delete_prefix(b"app")):
                assert await refusal(denied) == "etcdserver: permission denied"
            stranger = aetcd.Client(host, int(port), user, "wrong", timeout=20)
            assert "authentication failed, invalid user ID or password" in await refusal(stranger.connect())
            await stranger.close()
            print("auth")


async def refusal(call: Awaitable[object]) -> str:
    """What the client says when a call is refused."""
    try:
        await call
    except aetcd.ClientError as error:
        return str(error)
    return "not refused"


asyncio.run(main(*sys.argv[1:]))
