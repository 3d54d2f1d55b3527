"""Watches and caches of the client while members of a real cluster are killed: no gap, no repetition, no lie."""

import contextlib
import threading

import pytest
from clusters import Cluster, wait_until

from actd import Client, Put, WatchEvent, version
from actd.errors import ActdError

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def put_once(client: Client, key: str) -> None:
    """Put a new key, trying again for as long as nobody knows whether it is there."""

    def tried() -> bool:
        with contextlib.suppress(ActdError):
            client.txn().if_(version(key) == 0).then(Put(key, "v")).commit()
            return True
        return False

    wait_until(tried, 60, f"{key} is put")


def test_client_watches_through_the_death_of_every_member(cluster: Cluster) -> None:
    """While each member in turn is killed and comes back, watch and cache see every key once, in order."""
    heard: list[WatchEvent] = []
    with cluster.client() as writer, cluster.client() as reader:
        watch = reader.watch("w/")
        cache = reader.cache("w/")

        def listen() -> None:
            heard.extend(watch)

        thread = threading.Thread(target=listen)
        thread.start()
        written = []
        for name in cluster.names:
            written.append(f"w/{len(written):03}")
            put_once(writer, written[-1])
            cluster.kill("supervisor", name)
            for _ in range(5):
                written.append(f"w/{len(written):03}")
                put_once(writer, written[-1])
            cluster.launch(name)
            cluster.await_serving(name)
            cluster.kill("gateway", name)
            written.append(f"w/{len(written):03}")
            put_once(writer, written[-1])
            cluster.await_serving(name)
        wait_until(lambda: len(heard) >= len(written), 60, f"{len(written)} events, heard {len(heard)}")
        pair = writer.get(written[-1])
        assert pair is not None
        assert cache.wait_for(pair.mod_revision, 60)
        watch.close()
        thread.join(20)

        assert [event.key.decode() for event in heard] == written
        assert [event.revision for event in heard] == sorted(event.revision for event in heard)
        assert [key.decode() for key in cache.snapshot()] == written
