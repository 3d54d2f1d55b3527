"""The client library runs where only its own few dependencies are: no protobuf, no grpc, nothing of a node."""

import subprocess
import sys
import textwrap

import pytest
from clusters import ROOT, Cluster

pytestmark = [pytest.mark.processes, pytest.mark.slow]
NEEDED = ("actd", "protocol", "zmq", "msgpack", "pydantic")
"""What a program that uses the client must find; pydantic brings the rest of what is allowed below."""
BROUGHT_BY_PYDANTIC = ("pydantic_core", "typing_extensions", "typing_inspection", "annotated_types")
PROGRAM = """
    import sys

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            if top[0] != "_" and top not in sys.stdlib_module_names and top not in {allowed!r}:
                raise ImportError(f"{{name}} is not installed here")

    sys.meta_path.insert(0, Nothing())
    import asyncio
    from actd import AsyncClient, Client, Get, Put, version

    with Client({endpoints!r}) as client:
        client.put("alone/a", b"\\x00\\xff")
        assert client.get("alone/a").value == b"\\x00\\xff"
        won = client.txn().if_(version("alone/b") == 0).then(Put("alone/b", "1")).else_(Get("alone/b")).commit()
        assert won.succeeded
        assert len(client.get_prefix("alone/").pairs) == 2

    async def main():
        async with AsyncClient({endpoints!r}) as client:
            assert (await client.delete("alone/a")).deleted == 1

    asyncio.run(main())
    loaded = {{name.partition(".")[0] for name in sys.modules}}
    assert not loaded & {{"google", "grpc", "rocksdict", "uvloop", "storage", "raft", "actors", "gateway"}}, loaded
    assert not [name for name in sys.modules if name.startswith("protocol.wire")]
    print("done")
"""


def test_a_client_needs_five_packages(shared_cluster: Cluster) -> None:
    """Both clients work in a process that can import nothing else."""
    endpoints = [shared_cluster.zmq(name) for name in shared_cluster.names]
    program = textwrap.dedent(PROGRAM).format(allowed=(*NEEDED, *BROUGHT_BY_PYDANTIC), endpoints=endpoints)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_the_client_is_typed() -> None:
    """Type checkers of its users read its annotations."""
    assert (ROOT / "actd" / "py.typed").exists()
    assert 'actd = ["py.typed"]' in (ROOT / "pyproject.toml").read_text()
