"""Makes sure that nothing of a run outlives it: `python -m chaos.guard DIRECTORY` waits for its input to end.

Every process of a run works in a directory below the run's own; that is how they are found, whatever became of their
parents. Owns killing and unmounting. Kills nothing that is not ours by the name it goes under.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

KILL_S: Final = 10.0
_OURS: Final = ("actd: ", "tools.chaos_node", "chaos.proxy")


def processes_in(directory: Path) -> list[psutil.Process]:
    """Return the processes of ours that work at or below `directory`, this one aside."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            at = Path(process.cwd())
            if (at == directory or directory in at.parents) and _is_ours(process):
                found.append(process)
    return found


def _is_ours(process: psutil.Process) -> bool:
    words = process.cmdline()
    return process.name() == "etcd" or any(mark in word for word in words for mark in _OURS)


def end_everything(directory: Path) -> list[str]:
    """SIGKILL all processes of a run, however they stand, and unmount what is mounted there; return who would not go.

    Raises nothing: it is called when other things have gone wrong already.
    """
    until = time.monotonic() + KILL_S
    left = processes_in(directory)
    while left and time.monotonic() < until:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
        left = processes_in(directory)
    for mount in _mounts_below(directory):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    return [str(process) for process in left]


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    return [point for point in points if directory in Path(point).parents]


def main(arguments: list[str]) -> None:
    """Wait until whoever started this is gone, however it went; then clear up."""
    directory = Path(arguments[0]).resolve()
    while os.read(sys.stdin.fileno(), 4096):
        pass
    end_everything(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
