"""Regenerates `protocol/wire/*_pb2.py` and their type stubs from the `.proto` files beside them.

`python -m tools.generate_wire`. Needs the development extras (grpcio-tools, mypy-protobuf). `--check` writes nothing
and exits 1 when the generated code says something else than the `.proto` files.
"""

import ast
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parent.parent
WIRE = Path("protocol/wire")

app = typer.Typer(add_completion=False, help=__doc__)


def proto_files() -> list[str]:
    """Return every `.proto` file, relative to the repository."""
    return [str(WIRE / path.name) for path in sorted((ROOT / WIRE).glob("*.proto"))]


def protoc(*words: str) -> None:
    """Run the compiler from the repository.

    Raises:
        RuntimeError: it refused; the text says why.
    """
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *words, *proto_files()]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def compiled() -> dict[str, FileDescriptorProto]:
    """Return what the `.proto` files say, by file."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "descriptors")
        protoc(f"--descriptor_set_out={target}")
        found = FileDescriptorSet.FromString(target.read_bytes()).file
    for file in found:
        forget_json_names(list(file.message_type))
    return {file.name: file for file in found}


def forget_json_names(messages: list[DescriptorProto]) -> None:
    """Clear what the compiler adds to descriptor sets but not to generated code."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        forget_json_names(list(message.nested_type))


def generated(name: str) -> FileDescriptorProto:
    """Return what the committed code of a `.proto` file says."""
    module = importlib.import_module(name.replace("/", ".").removesuffix(".proto") + "_pb2")
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def names_of(messages: list[DescriptorProto], enums: list[EnumDescriptorProto]) -> Iterator[str]:
    """Yield every message, field, enum and enum value a type stub has to declare."""
    for enum in enums:
        yield enum.name
        yield from (value.name for value in enum.value)
    for message in messages:
        yield message.name
        yield from (field.name for field in message.field)
        yield from names_of(list(message.nested_type), list(message.enum_type))


def declared(stub: Path) -> set[str]:
    """Return every name a type stub declares, in whatever class."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(stub.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def stale() -> list[str]:
    """Return what is not as the `.proto` files have it; empty when all is current.

    Descriptors are compared, not text: another version of the compiler writes the same thing in other words.
    """
    found = []
    for name, file in compiled().items():
        if generated(name) != file:
            found.append(f"{name}: the generated code is another version's")
        stub = (ROOT / name).with_name(Path(name).stem + "_pb2.pyi")
        missing = sorted(set(names_of(list(file.message_type), list(file.enum_type))) - declared(stub))
        if missing:
            found.append(f"{name}: the type stub lacks {', '.join(missing)}")
    return found


@app.command()
def generate(check: Annotated[bool, typer.Option("--check", help="write nothing, only compare")] = False) -> None:
    """Write the generated code, or with --check say what is stale."""
    if not check:
        protoc("--python_out=.", "--mypy_out=quiet:.")
        typer.echo(f"generated {len(proto_files())} modules in {WIRE}")
        return
    found = stale()
    for line in found:
        typer.echo(line, err=True)
    if found:
        typer.echo("run: python -m tools.generate_wire", err=True)
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    app()
