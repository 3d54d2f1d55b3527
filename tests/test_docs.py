"""Documentation that says something checkable is checked."""

import re
from pathlib import Path

from gateway.methods import METHODS_BY_NUMBER
from protocol import codec
from protocol.client import ClientHello
from protocol.errors import WIRE_ERRORS
from protocol.types import ClusterId

DOCS = Path(__file__).parent.parent / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text()


def test_the_worked_example_of_the_protocol_is_what_the_codec_makes() -> None:
    """The hexdump in docs/protocol.md is not a drawing."""
    dump = re.search(r"(?:^    (?:[0-9a-f]{2} ?)+\n)+", PROTOCOL, re.MULTILINE)
    assert dump is not None
    hello = ClientHello(protocol_version=1, client="me", cluster=ClusterId(0))
    assert bytes.fromhex(dump[0]) == codec.encode(hello)


def test_every_error_code_is_documented() -> None:
    """A client in another language finds each code with its text and what to do about it."""
    for code, error in WIRE_ERRORS.items():
        flags = ", ".join(
            name for name, holds in (("retryable", error.retryable), ("unknown", error.outcome_unknown)) if holds
        )
        row = f"| {int(code)} | {code.name} | {error.grpc_code.name} | `{error.text}` | {flags} |"
        assert row in PROTOCOL, row


def test_every_method_number_is_documented() -> None:
    """The table of methods is the table in the code."""
    for number, method in METHODS_BY_NUMBER.items():
        assert re.search(rf"^\| {number} \|", PROTOCOL, re.MULTILINE), method.name


def test_links_between_pages_lead_somewhere() -> None:
    """No page points at a file that is not there."""
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)
