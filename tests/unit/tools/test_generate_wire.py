"""The committed protobuf code is what the `.proto` files say, and a difference would be noticed."""

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools import generate_wire


def test_generated_code_is_current() -> None:
    """Nobody edited a `.proto` file without running `python -m tools.generate_wire`, nor the other way round."""
    assert generate_wire.stale() == []


def test_every_proto_file_is_compared() -> None:
    """The comparison covers all of etcd's files, with the messages clients send."""
    files = generate_wire.compiled()
    assert sorted(files) == generate_wire.proto_files()
    assert "PutRequest" in {message.name for message in files["protocol/wire/rpc.proto"].message_type}


def test_a_changed_field_number_is_noticed() -> None:
    """A field under another number is another wire, and not equal to what was generated."""
    file = FileDescriptorProto()
    file.CopyFrom(generate_wire.generated("protocol/wire/mvcc.proto"))
    assert file == generate_wire.generated("protocol/wire/mvcc.proto")
    file.message_type[0].field[0].number += 90
    assert file != generate_wire.generated("protocol/wire/mvcc.proto")


def test_a_name_the_stub_lacks_is_noticed(tmp_path: Path) -> None:
    """A stub that was not regenerated does not declare the new field."""
    stub = tmp_path / "some_pb2.pyi"
    stub.write_text("class KeyValue:\n    key: bytes\n    def value(self) -> bytes: ...\n")
    file = generate_wire.generated("protocol/wire/mvcc.proto")
    names = set(generate_wire.names_of(list(file.message_type), list(file.enum_type)))
    assert {"KeyValue", "key", "value", "mod_revision"} <= names
    assert generate_wire.declared(stub) & names == {"KeyValue", "key", "value"}
