"""One input at a time under its bounds: what is raised, how long it takes, how much memory is held afterwards.

Owns the verdict and the file a failing input is kept in. Invariant: an input that fails is on disk before anybody is
told.
"""

import hashlib
import resource
import time
import traceback
from pathlib import Path
from typing import Final

from fuzz.target import Target

CPU_S_MAX: Final = 1.0
"""What one input may cost, in seconds of this process: other processes do not make it slow."""
MEMORY_MIB_MAX: Final = 256
"""By how much a process may grow over any number of inputs, each at most `INPUT_BYTES_MAX`."""


def peak_mib() -> float:
    """Return the most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class InputFailed(Exception):
    """An input broke something; the text has the story and the command that replays it."""


class Judge:
    """Runs inputs of one target."""

    def __init__(self, target: Target, found: Path) -> None:
        """`found` is the directory where failing inputs are kept."""
        self._target = target
        self._found = found
        self.inputs = 0
        self.slowest_s = 0.0
        self._before_mib = peak_mib()

    def run(self, data: bytes) -> None:
        """Run one input.

        Raises:
            InputFailed: the target raised, took too long or held too much.
        """
        self.inputs += 1
        began = time.process_time()
        try:
            self._target.run(data)
        except Exception as error:
            raise InputFailed(self._story(data, traceback.format_exc())) from error
        spent_s = time.process_time() - began
        self.slowest_s = max(self.slowest_s, spent_s)
        if spent_s > CPU_S_MAX:
            raise InputFailed(self._story(data, f"{spent_s:.1f} s for {len(data)} bytes, at most {CPU_S_MAX} are fair"))
        grown_mib = peak_mib() - self._before_mib if self.inputs % 64 == 0 else 0.0
        if grown_mib > MEMORY_MIB_MAX:
            raise InputFailed(self._story(data, f"grown by {grown_mib:.0f} MiB, at most {MEMORY_MIB_MAX} are fair"))

    def _story(self, data: bytes, what: str) -> str:
        self._found.mkdir(parents=True, exist_ok=True)
        name = self._target.name
        path = self._found / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        return f"{what}\nreplay: python -m tools.fuzz --target {name} --replay {path}"
