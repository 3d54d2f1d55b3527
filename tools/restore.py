"""Makes data directories for a new cluster from a snapshot, which `etcdctl snapshot save` took of actd or of etcd.

`python -m tools.restore SNAPSHOT CLUSTER_FILE [--node NAME]`. The members and the id of the new cluster are those of
the cluster file; give it a token of its own, so that no member of the old cluster is taken for one of the new. Every
node must be restored from the same file with the same options. Nothing that is there already is touched.
"""

import hashlib
import mmap
import shutil
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from actors.node_directory import NodeDirectory
from protocol.config import ClusterConfig, NodeConfig, load_config
from protocol.errors import ConfigError, Corruption, DiskFailed, StartRefused
from protocol.types import NOBODY, HardState, Index, LogMark, Term
from raft.configuration import founding_configuration
from storage.bolt import BoltFile
from storage.etcd_file import Built, StoreBuilder
from storage.hash_kv import hash_slices
from storage.posix_disk import PosixDisk
from storage.rocks import RocksEngine
from storage.staging import STORE_DIR
from storage.wal import Wal, WalOwner

FIRST: Final = (Term(1), Index(1))
"""Where the log of a restored cluster begins: its one entry is the snapshot."""
DIGEST_BYTES: Final = 32
SECTOR_BYTES: Final = 512
SUFFIX: Final = ".restoring"

app = typer.Typer(add_completion=False, help=__doc__)


class Restored(NamedTuple):
    """What a node was given."""

    built: Built
    hash_kv: int


def check_digest(data: mmap.mmap, *, skip: bool) -> memoryview:
    """Return the snapshot without the SHA-256 behind it.

    Raises:
        Corruption: the digest does not fit, or there is none.
    """
    view = memoryview(data)
    has_digest = len(view) % SECTOR_BYTES == DIGEST_BYTES
    body = view[: len(view) - DIGEST_BYTES] if has_digest else view
    if skip:
        return body
    if not has_digest:
        raise Corruption(
            "there is no SHA-256 behind the snapshot: it was cut off, or copied from a data directory; "
            "--skip-hash-check takes it as it is"
        )
    if hashlib.sha256(body).digest() != bytes(view[-DIGEST_BYTES:]):
        raise Corruption("the SHA-256 behind the snapshot does not fit: the file is damaged")
    return body


def restore_node(
    file: BoltFile, config: ClusterConfig, node: NodeConfig, target: Path, *, bump: int, mark_compacted: bool
) -> Restored:
    """Make the data directory of one node; it is complete or not there.

    Raises:
        StartRefused: there is something already.
        Corruption: the snapshot cannot be read.
        DiskFailed: the disk cannot take it.
    """
    if target.exists() and any(target.iterdir()):
        raise StartRefused(f"{target}: is not empty; restore into a new directory")
    fresh = target.with_name(target.name + SUFFIX)
    shutil.rmtree(fresh, ignore_errors=True)
    directory = NodeDirectory(fresh, config, node.name)
    directory.open()
    try:
        term, index = FIRST
        founding = directory.founding
        owner = WalOwner(founding.cluster, directory.member, directory.store)
        wal = Wal.open(PosixDisk(fresh), owner, config.storage.wal_segment_bytes)
        wal.append(HardState(term, NOBODY, index), ())
        wal.set_mark(LogMark(index, term, founding_configuration(founding.founders).encode(), ""))
        wal.close()
        engine = RocksEngine(fresh, STORE_DIR, config.storage)
        built = StoreBuilder(engine, term, index).build(file, bump=bump, mark_compacted=mark_compacted)
        engine.flush()
        hashed = _hash(engine, built)
        engine.close()
    finally:
        directory.close()
    if target.exists():
        target.rmdir()
    fresh.rename(target)
    PosixDisk(target.parent).sync_dir(".")
    return Restored(built, hashed)


def _hash(engine: RocksEngine, built: Built) -> int:
    """Return HashKV at the revision of the snapshot: what the members of the old cluster say of it as well."""
    slices = hash_slices(engine, built.revision, built.compacted, 1 << 30)
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            value: int = stop.value
            return value


@app.command()
def main(
    snapshot: Annotated[Path, typer.Argument(help="what `etcdctl snapshot save` has written, here or at etcd")],
    cluster_file: Annotated[Path, typer.Argument(help="the cluster file of the new cluster")],
    data_dir: Annotated[
        Path | None, typer.Option(help="parent of the data directories, as tools.launch takes it")
    ] = None,
    node: Annotated[list[str] | None, typer.Option(help="restore this node only; may be repeated")] = None,
    bump_revision: Annotated[
        int, typer.Option(min=0, help="add so much to the revision, so that no client has seen a later one")
    ] = 0,
    mark_compacted: Annotated[
        bool, typer.Option(help="end every watch and cached read that began before: for use with --bump-revision")
    ] = False,
    skip_hash_check: Annotated[bool, typer.Option(help="take a file without the SHA-256 behind it")] = False,
) -> None:
    """Restore the nodes of a cluster file from a snapshot."""
    try:
        config = load_config(cluster_file)
        unknown = sorted({*(node or ())} - {each.name for each in config.nodes})
        if unknown:
            raise ConfigError(f"{cluster_file}: there is no node {', '.join(unknown)}")
        with snapshot.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            file = BoltFile(check_digest(data, skip=skip_hash_check))
            for each in config.nodes:
                if node and each.name not in node:
                    continue
                target = data_dir / each.name if data_dir else Path(config.data_dir_of(each))
                restored = restore_node(file, config, each, target, bump=bump_revision, mark_compacted=mark_compacted)
                built = restored.built
                typer.echo(
                    f"{target}: {each.name} of cluster {config.cluster_id:x}, revision {built.revision}, compacted "
                    f"{max(built.compacted, 0)}, {built.keys} keys, {built.leases} leases, {built.users} users, "
                    f"hash {restored.hash_kv:x}"
                )
            del file
    except (ConfigError, Corruption, StartRefused, DiskFailed, OSError, ValueError) as error:
        typer.secho(f"restore: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
