"""Writes `gateway/openapi.json`: the JSON gateway's paths and messages, from the descriptors that serve them.

`python -m tools.generate_openapi`. `--check` writes nothing and exits 1 when the file says something else.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default

from gateway.json_paths import PATHS, PREFIX
from storage.reads import ETCD_VERSION

TARGET: Final = Path(__file__).parent.parent / "gateway" / "openapi.json"
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}

app = typer.Typer(add_completion=False, help=__doc__)


def _reference(message: Descriptor) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{message.full_name}"}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field's value, and see to it that what it refers to is there."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None, "a message field has a message"
        _add(field.message_type, schemas)
        value: dict[str, Any] = dict(_reference(field.message_type))
    elif field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None, "an enum field has an enum"
        value = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    else:
        value = dict(_SCALARS[field.type])
    return {"type": "array", "items": value} if field.is_repeated else value


def _add(message: Descriptor, schemas: dict[str, Any]) -> None:
    if message.full_name not in schemas:
        properties: dict[str, Any] = {}
        schemas[message.full_name] = {"type": "object", "properties": properties}
        properties.update({field.name: _field(field, schemas) for field in message.fields})


def _body(schema: dict[str, Any], *, lines: bool = False) -> dict[str, Any]:
    return {"application/jsonl" if lines else "application/json": {"schema": schema}}


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the gateway."""
    failure = {"$ref": "#/components/schemas/Error"}
    schemas: dict[str, Any] = {
        "Error": {"type": "object", "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}}
    }
    paths: dict[str, Any] = {}
    for path, (service, name) in PATHS.items():
        method = Default().FindMethodByName(f"{service}.{name}")
        _add(method.input_type, schemas)
        _add(method.output_type, schemas)
        answer: dict[str, Any] = _reference(method.output_type)
        if method.server_streaming:
            answer = {"type": "object", "properties": {"result": answer, "error": failure}}
        paths[PREFIX + path] = {
            "post": {
                "operationId": f"{name}_{path[1:].replace('/', '_')}",
                "summary": f"{service}.{name}",
                "tags": [service.rpartition(".")[2]],
                "requestBody": {
                    "required": True,
                    "content": _body(_reference(method.input_type), lines=method.client_streaming),
                },
                "responses": {
                    "200": {
                        "description": "one JSON object a line" if method.server_streaming else "the response",
                        "content": _body(answer, lines=method.server_streaming),
                    },
                    "default": {"description": "an error", "content": _body(failure)},
                },
            }
        }
    token = {"type": "apiKey", "in": "header", "name": "Authorization"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "actd: etcd's API as JSON", "version": ETCD_VERSION},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items())), "securitySchemes": {"token": token}},
        "security": [{}, {"token": []}],
    }


def text() -> str:
    """Return what the file says."""
    return json.dumps(document(), indent=1) + "\n"


@app.command()
def main(check: Annotated[bool, typer.Option(help="Only say whether the file is right.")] = False) -> None:
    """Write the document."""
    if check:
        raise typer.Exit(int(TARGET.read_text() != text()))
    TARGET.write_text(text())


if __name__ == "__main__":
    app()
