"""Figures of the node's processes, read from /proc: CPU, memory, descriptors, of supervisor and actors together.

Owns the reading. A process that ends while it is read counts as nothing. Slow (it walks page tables), so it is called
off the loop's thread.
"""

import os
import resource
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def node_pids() -> list[int]:
    """Return the supervisor's pid and those of its children; only our own when nobody supervises us."""
    supervisor = os.getppid()
    try:
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    except OSError:
        return [os.getpid()]
    pids = [int(child) for child in children]
    return [supervisor, *pids] if os.getpid() in pids else [os.getpid()]


def _shared_bytes(pid: int) -> int:
    """Return the process's memory with pages it shares divided among the sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class _CpuTicks:
    """The most processor time that was seen: a process that ends between two looks is for a moment counted nowhere."""

    def __init__(self) -> None:
        self._most = 0

    def at_least(self, ticks: int) -> int:
        """Return `ticks`, or what was returned before if that is more."""
        self._most = max(self._most, ticks)
        return self._most


_CPU: Final = _CpuTicks()


def read_processes(pids: list[int]) -> list[tuple[str, dict[str, str], float]]:
    """Return name, labels and value of each figure; the first pid is the parent of the others."""
    cpu_ticks = resident = virtual = descriptors = 0
    started_ticks = 0
    for position, pid in enumerate(pids):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_ticks += int(fields[11]) + int(fields[12])
            if position == 0:
                # What children that have ended had used: without it the figure would fall with each of them.
                cpu_ticks += int(fields[13]) + int(fields[14])
            virtual += int(fields[20])
            started_ticks = started_ticks or int(fields[19])
            resident += _shared_bytes(pid)
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except (OSError, IndexError, ValueError):
            continue
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    booted = 0
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            booted = int(line.split()[1])
    figures = {
        "process_cpu_seconds_total": _CPU.at_least(cpu_ticks) / _TICKS_PER_S,
        "process_resident_memory_bytes": resident,
        "process_virtual_memory_bytes": virtual,
        "process_start_time_seconds": booted + started_ticks / _TICKS_PER_S,
        "process_open_fds": descriptors,
        "process_max_fds": limit,
        "os_fd_used": descriptors,
        "os_fd_limit": limit,
    }
    return [(name, {}, float(value)) for name, value in figures.items()]
