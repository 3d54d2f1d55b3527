"""Small file systems for tests: a tmpfs that fills up or turns read-only, seen by chosen processes alone."""

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@cache
def namespace_words() -> list[str] | None:
    """How this user gets a mount namespace of its own; None if the machine does not let it."""
    for words in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        try:
            tried = subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        if tried.returncode == 0:
            return words
    return None


class SmallDisk:
    """A tmpfs over `directory`, in a namespace that lives as long as this object or the test process.

    Who is started with `prefix` sees it; everybody else sees what was there before.
    """

    def __init__(self, directory: Path, size: str) -> None:
        words = namespace_words()
        if words is None:
            pytest.skip("this machine gives no mount namespaces: nothing here can fill or lock a disk of its own")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        script = f'mount -t tmpfs -o size={size} none "$0" && echo mounted && exec cat'
        pipe = subprocess.PIPE
        self._holder = subprocess.Popen([*words, "sh", "-c", script, str(directory)], stdin=pipe, stdout=pipe)
        assert self._holder.stdout is not None, "it was asked for"
        assert self._holder.stdout.readline() == b"mounted\n"
        user = [] if words == ["unshare", "--mount"] else ["--user", "--preserve-credentials"]
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", *user]
        self.prefix = [*enter, "env", f"--chdir={ROOT}"]
        """Words that run a command inside."""

    @property
    def path(self) -> Path:
        """The directory as it is inside, for a look from outside."""
        return Path(f"/proc/{self._holder.pid}/root{self._directory}")

    def free_bytes(self) -> int:
        """How much more fits."""
        told = os.statvfs(self.path)
        return told.f_bavail * told.f_frsize

    def remount(self, options: str) -> None:
        """Change size or mode: `size=100m`, `ro`, `rw`."""
        # With the device named, options are taken as they stand here; those the kernel shows may be of another user.
        words = ["mount", "-t", "tmpfs", "-o", f"remount,{options}", "none", str(self._directory)]
        subprocess.run([*self.prefix, *words], check=True)

    def close(self) -> None:
        """Let go; the tmpfs goes with the last process that sees it."""
        assert self._holder.stdin is not None, "it was asked for"
        self._holder.stdin.close()
        self._holder.wait(10)
        assert self._holder.stdout is not None, "it was asked for"
        self._holder.stdout.close()
