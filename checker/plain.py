"""Protobuf messages as plain dicts of text and numbers: how histories write requests and answers.

Owns the mapping both ways. A field keeps its name in etcd's .proto files, one that is not set is left out, bytes become
text by Latin-1 (one character per byte, so order and equality stay), enums are their numbers, and of a header only
`revision` is kept: the rest says who answered, not what.
Invariant: `message_of(type, plain_of(message))` is `message` but for headers and fields the type does not know.
"""

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
)

Plain = dict[str, Any]

REQUESTS: Final[dict[str, type[Message]]] = {
    "put": PutRequest,
    "range": RangeRequest,
    "delete": DeleteRangeRequest,
    "txn": TxnRequest,
    "compact": CompactionRequest,
}
"""Call name to the class of its request."""
ANSWERS: Final[dict[str, type[Message]]] = {
    "put": PutResponse,
    "range": RangeResponse,
    "delete": DeleteRangeResponse,
    "txn": TxnResponse,
    "compact": CompactionResponse,
}
"""Call name to the class of its answer."""
CALLS: Final = {cls: name for name, cls in (*REQUESTS.items(), *ANSWERS.items())}
"""Class of a request or answer to the call's name."""


def plain_of(message: Message) -> Plain:
    """Return a message as a plain dict."""
    header = isinstance(message, ResponseHeader)
    return {
        field.name: _plain_value(field, value)
        for field, value in message.ListFields()
        if not header or field.name == "revision"
    }


def message_of(cls: type[Message], plain: Plain) -> Message:
    """Return the message of class `cls` that `plain` describes.

    Raises:
        KeyError: a field is not one of the class's.
        TypeError: a value is not of its field's type.
    """
    message = cls()
    _fill(message, plain)
    return message


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated:
        return [_plain_one(item) for item in value]
    return _plain_one(value)


def _plain_one(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return plain_of(value) if isinstance(value, Message) else value


def _fill(message: Message, plain: Plain) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in plain.items():
        field = fields[name]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            child = getattr(message, name)
            if field.is_repeated:
                for item in value:
                    _fill(child.add(), item)
            else:
                child.SetInParent()
                _fill(child, value)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(message, name, value.encode("latin-1"))
        else:
            setattr(message, name, value)
