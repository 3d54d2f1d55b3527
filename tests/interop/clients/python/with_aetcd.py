"""aetcd, an asyncio client over gRPC: put, txn, watch, lease, lock."""

import asyncio
import sys

import aetcd


async def main(address: str) -> None:
    """Do one of everything; any surprise ends the program."""
    host, _, port = address.rpartition(":")
    async with aetcd.Client(host, int(port), timeout=20) as etcd:
        await etcd.put(b"ae/a", b"1")
        previous = await etcd.put(b"ae/a", b"2", prev_kv=True)
        assert previous.prev_kv.value == b"1"
        assert (await etcd.get(b"ae/a")).value == b"2"
        assert await etcd.get(b"ae/none") is None
        assert [pair.key for pair in await etcd.get_prefix(b"ae/")] == [b"ae/a"]
        print("put")

        done, responses = await etcd.transaction(
            compare=[etcd.transactions.value(b"ae/a") == b"2", etcd.transactions.version(b"ae/a") > 0],
            success=[etcd.transactions.put(b"ae/a", b"3"), etcd.transactions.get(b"ae/a")],
            failure=[etcd.transactions.delete(b"ae/a")],
        )
        assert done
        assert responses[1][0][0] == b"3"
        assert not await etcd.replace(b"ae/a", b"2", b"4")
        print("txn")

        watch = await etcd.watch_prefix(b"ae/w/")
        for number in range(3):
            await etcd.put(b"ae/w/%d" % number, b"x")
        await etcd.delete(b"ae/w/1")
        heard = []
        async for event in watch:
            heard.append((str(event.kind), event.kv.key))
            if len(heard) == 4:
                await watch.cancel()
        assert heard == [("PUT", b"ae/w/0"), ("PUT", b"ae/w/1"), ("PUT", b"ae/w/2"), ("DELETE", b"ae/w/1")]
        print("watch")

        lease = await etcd.lease(60)
        await etcd.put(b"ae/leased", b"1", lease=lease)
        assert list(await lease.keys()) == [b"ae/leased"]
        assert (await lease.refresh()).TTL == 60
        await lease.revoke()
        assert await etcd.get(b"ae/leased") is None
        print("lease")

        async with etcd.lock(b"ae-lock", ttl=30) as lock:
            assert await lock.is_acquired()
            assert not await etcd.lock(b"ae-lock", ttl=30).acquire(timeout=1)
        print("lock")


asyncio.run(main(sys.argv[1]))
