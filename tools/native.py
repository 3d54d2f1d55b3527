"""Finds the compiled modules that were made of exactly these sources, and has them imported instead of the sources.

Owns where compiled modules lie and what tells whose they are. Knows nothing of how they are made (`tools.compile`).
Invariants: modules of other sources, or of another Python, are never used; without fitting ones everything runs from
the sources, slower and otherwise the same; a directory that some process uses is locked, and stays (`unused`): much is
imported only when it is first needed.
"""

import fcntl
import hashlib
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("actors", "gateway", "raft", "storage")
"""Whose modules are compiled, in part."""
SOURCES: Final = (*PACKAGES, "protocol")
"""What the compiler looks at."""
DIRECTORY: Final = ROOT / "build" / "compiled"
_held: Final[list[int]] = []
"""Descriptors that stay open for as long as the process."""
SWITCH: Final = "ACTD_INTERPRETED"
"""With this environment variable set to anything, the sources run."""


@cache
def fingerprint() -> str:
    """Return what compiled modules of these sources and this Python are called; some milliseconds."""
    digest = hashlib.blake2b(digest_size=10)
    digest.update(f"{sys.version} {sysconfig.get_config_var('EXT_SUFFIX')}".encode())
    for path in (Path(__file__).with_name("compile.py"), *(p for name in SOURCES for p in sorted(_modules(name)))):
        body = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(body)} ".encode() + body)
    return digest.hexdigest()


def _modules(package: str) -> list[Path]:
    """Return a package's sources; of generated code its types, which is what the compiler sees."""
    found = (ROOT / package).rglob("*.py*")
    return [path for path in found if path.suffix == ".pyi" or (path.suffix == ".py" and "_pb2" not in path.stem)]


def place() -> Path:
    """Return where compiled modules of these sources lie, or would."""
    return DIRECTORY / fingerprint()


def in_use() -> bool:
    """Whether this process runs compiled modules."""
    return str(DIRECTORY) in getattr(sys.modules.get("raft.core"), "__file__", "")


def use() -> bool:
    """Have compiled modules imported from now on, if there are fitting ones; return whether there are.

    To be called before the first import of what is compiled.
    """
    imported = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    assert not imported, f"imported before it was known in which form: {imported}"
    if SWITCH in os.environ or not place().is_dir():
        return False
    hold(place())
    sys.path.insert(0, str(place()))
    return True


def hold(directory: Path) -> None:
    """Keep `directory` from being removed while this process lives, or one that it forks."""
    _held.append(_lock(directory, fcntl.LOCK_SH))


def unused(directory: Path) -> bool:
    """Whether no living process holds `directory`."""
    try:
        os.close(_lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lock(directory: Path, how: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def run_actd() -> int:
    """Run console script `actd`, of compiled modules where there are such."""
    use()
    from tools.actd import main

    return main()
