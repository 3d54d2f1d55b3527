"""h2spec, the HTTP/2 conformance suite no one here wrote, against the real client door."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "gateway"))
from echo_door import echo_door

from gateway.http2_limits import Http2Limits

PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec"
PINNED = Path(__file__).parent / "h2spec"
"""Versions and checksums of the program and all it needs: the newest that Debian's Go 1.19 can build."""
CASES_MIN = 145
"""What this version of h2spec has; fewer would mean that it did not run to its end."""


def find_h2spec() -> Path:
    """Return the program, built with Go outside the repository if it is not there yet; skip where neither exists."""
    found = os.environ.get("H2SPEC") or shutil.which("h2spec")
    if found:
        return Path(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actd"
    program = cache / "h2spec"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run h2spec: install Go, or name the program in H2SPEC")
        pytest.skip("neither h2spec nor Go is installed")
    cache.mkdir(parents=True, exist_ok=True)
    # Tests in other processes may be building it as well: whoever is done puts it there as a whole.
    fresh = cache / f"h2spec.{os.getpid()}"
    command = [go, "build", "-mod=readonly", "-o", str(fresh), PACKAGE]
    built = subprocess.run(command, cwd=PINNED, capture_output=True, text=True, check=False)
    if built.returncode:
        reason = f"h2spec cannot be built: {built.stderr.strip()[-400:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    fresh.replace(program)
    return program


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [[], ["--strict"]], ids=["normal", "strict"])
def test_every_case_passes(options: list[str], tmp_path: Path) -> None:
    """Every case of h2spec passes: generic, HTTP/2 and HPACK.

    Asked of a page, which is served when its request is complete: a gRPC method refuses h2spec's requests by their
    head, as gRPC wants it, and then nobody looks at what is wrong with their ends.
    """
    program = find_h2spec()
    report = tmp_path / "report.xml"
    with echo_door(http2_limits=Http2Limits(concurrent_streams_max=100)) as door:
        # So that a stream too many finds the others still open, however slow the machine.
        door.core.answer_after_ms = 50
        subprocess.run(
            [program, "-h", "127.0.0.1", "-p", str(door.door.port), "-P", "/health", "-o", "5", "-j", report, *options],
            capture_output=True,
            timeout=300,
            check=False,
        )
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - we had it written
    failed = [
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]

    assert failed == []
    assert len(cases) >= CASES_MIN
