"""Documentation that says something checkable is checked."""

import re
import tomllib
from pathlib import Path

from gateway.methods import METHODS_BY_NUMBER
from protocol import codec
from protocol.client import ClientHello
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS
from protocol.message import REGISTRY
from protocol.types import ClusterId
from tools import generate_docs

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


def test_reference_pages_are_current() -> None:
    """docs/reference/ says what the code says."""
    assert generate_docs.stale() == [], "run: python -m tools.generate_docs"


def test_every_message_that_may_travel_is_documented() -> None:
    """No kind of ours is registered outside the modules the page is made of, and each promises something."""
    page = generate_docs.messages_page()
    for kind, cls in REGISTRY.items():
        if cls.__module__.startswith("protocol."):
            assert f"\n### {kind}\n" in page, kind
            assert generate_docs.prose(cls) != generate_docs.prose(cls.__base__), f"{kind} has no docstring of its own"


def test_every_key_of_the_cluster_file_says_what_it_is_for() -> None:
    """Each key has a reason, and the shipped file spells out each key of each section."""
    shipped = tomllib.loads((DOCS.parent / "cluster.toml").read_text())
    for section, field in ClusterConfig.model_fields.items():
        assert section in shipped, section
        model = generate_docs.section_of(field)
        if model is None:
            assert field.description, section
            continue
        table = shipped[section][0] if isinstance(shipped[section], list) else shipped[section]
        for name, key in model.model_fields.items():
            inner = generate_docs.section_of(key)
            if inner is not None:
                # Certificates and keys have no useful default to spell out: docs/security.md shows them.
                assert all(one.description for one in inner.model_fields.values()), f"{section}.{name}"
                continue
            assert key.description, f"{section}.{name}"
            assert name in table or name == "data_dir", f"cluster.toml lacks {section}.{name}"


def test_commands_that_pages_name_exist() -> None:
    """Every `python -m tools.X` and `bin/X` in a page or the README is there to be run."""
    commands = set(generate_docs.command_modules())
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        text = page.read_text()
        for name in re.findall(r"python -m tools\.(\w+)", text):
            assert name in commands or name == "X", f"{page.name}: tools.{name}"
        for name in re.findall(r"(?<![\w/.])bin/(\w+)", text):
            assert (DOCS.parent / "bin" / name).exists(), f"{page.name}: bin/{name}"


def test_files_that_pages_name_exist() -> None:
    """A page that sends its reader to a module sends them somewhere, and to a function that is there."""
    missing = []
    for page in [DOCS / "architecture.md", DOCS / "life-of-a-put.md", *DOCS.glob("decisions/*.md")]:
        for path, function in re.findall(r"`((?:\w+/)+\w+\.\w+)(?:: (\w+))?`", page.read_text()):
            file = DOCS.parent / path
            if not file.exists() or (function and not re.search(rf"def {function}\(", file.read_text())):
                missing.append(f"{page.name}: {path} {function}".rstrip())
    assert not missing, "\n".join(missing)
