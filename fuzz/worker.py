"""One target in a process of its own, so that its memory is its own: `python -m fuzz.worker NAME ...`.

With `guided` the code under test is instrumented while it is imported, and libFuzzer (package `atheris`) looks for
inputs that reach more of it; so nothing of it may be imported before. With `blind` chance alone chooses.
"""

import argparse
import json
import logging
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fuzz.target import Target

UNDER_TEST: Final = ["protocol", "storage", "gateway", "daemon", "actd", "actors"]
RSS_MIB_MAX: Final = 1024
"""At which libFuzzer ends the process, if a single input makes it grow so much."""
HANG_S_MAX: Final = 30
"""After which libFuzzer ends an input that never returns; `fuzz.judge` measures those that do."""
REPORT: Final = "fuzz report: "


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--engine", choices=("guided", "blind"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="where inputs that reached something new are kept")
    parser.add_argument("--found", type=Path, required=True, help="where failing inputs are kept")
    return parser.parse_args()


def _quiet() -> None:
    """Say nothing of every refused frame."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _blind(arguments: argparse.Namespace) -> int:
    from fuzz.blind import for_seconds, run_blind
    from fuzz.judge import InputFailed, Judge, peak_mib
    from fuzz.targets import TARGETS

    _quiet()
    target = TARGETS[arguments.target]
    judge = Judge(target, arguments.found)
    failure = ""
    try:
        run_blind(target, judge, Random(arguments.seed), for_seconds(arguments.seconds))
    except InputFailed as failed:
        failure = str(failed)
    figures = {"inputs": judge.inputs, "peak_mib": peak_mib(), "slowest_s": judge.slowest_s, "failure": failure}
    sys.stdout.write(REPORT + json.dumps(figures) + "\n")
    return 1 if failure else 0


def _guided(arguments: argparse.Namespace) -> int:
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=UNDER_TEST):
        targets = import_module("fuzz.targets")
    from fuzz.judge import CPU_S_MAX, InputFailed, Judge, peak_mib
    from fuzz.target import INPUT_BYTES_MAX

    _quiet()
    target: Target = targets.TARGETS[arguments.target]
    judge = Judge(target, arguments.found)
    told_at = 0

    def one_input(data: bytes) -> None:
        nonlocal told_at
        try:
            judge.run(data)
        except InputFailed as failed:
            _tell(judge, peak_mib(), str(failed))
            raise
        if judge.inputs >= told_at * 1.05 + 1:
            # libFuzzer ends the process without a word to us: what was told last is the report.
            told_at = judge.inputs
            _tell(judge, peak_mib(), "")

    assert CPU_S_MAX < HANG_S_MAX, "an input is slow before it hangs"
    arguments.corpus.mkdir(parents=True, exist_ok=True)
    arguments.found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="actd-fuzz-") as scratch:
        seeds = Path(scratch) / "seeds"
        seeds.mkdir()
        for number, data in enumerate(target.seeds()):
            (seeds / f"{number:05}").write_bytes(data)
        words = Path(scratch) / "words"
        words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
        options = [
            f"-max_total_time={int(arguments.seconds)}", f"-seed={arguments.seed}", f"-dict={words}",
            f"-max_len={INPUT_BYTES_MAX}", f"-timeout={HANG_S_MAX}", f"-rss_limit_mb={RSS_MIB_MAX}",
            f"-artifact_prefix={arguments.found}/{target.name}-", "-verbosity=1", "-print_final_stats=1",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options, str(arguments.corpus), str(seeds)], one_input)
        atheris.Fuzz()
    return 0


def _tell(judge: Any, peak_mib: float, failure: str) -> None:
    figures = {"inputs": judge.inputs, "peak_mib": peak_mib, "slowest_s": judge.slowest_s, "failure": failure}
    sys.stdout.write(REPORT + json.dumps(figures) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Fuzz; return 1 if an input failed."""
    arguments = _arguments()
    return _guided(arguments) if arguments.engine == "guided" else _blind(arguments)


if __name__ == "__main__":
    sys.exit(main())
