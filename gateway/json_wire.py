"""etcd's messages as JSON, by the rules of its gateway: protobuf's JSON mapping, fields named as in `.proto` files.

Owns both directions and the splitting of a stream of values. Knows no HTTP and no method. Every kind of field is worked
out once for each message type.

Written: fields that are set, 64-bit integers as strings, bytes as standard base64, enums by name. Read: both spellings
of a field's name, integers as numbers or strings, base64 of either alphabet with or without padding, enums by name or
number; null means not given, unknown fields and enum names are passed over.

Invariants: nothing a client sends raises anything but `JsonFault`; what is written is read back as the same message.
Worked example: `Put{key: "foo", lease: 5}` is `{"key":"Zm9v","lease":"5"}`.
"""

import binascii
import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

_INT64: Final = (-(2**63), 2**63 - 1)
_RANGES: Final[dict[int, tuple[int, int]]] = {
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
}
_AS_TEXT: Final = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?")
_SHOWN_CHARS_MAX: Final = 60
"""Of what a client sent, in an error's text."""
quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring
"""A string as JSON, not escaped further than it must be."""

Render = Callable[[Any], str]
Read = Callable[[Any], Any]


class JsonFault(Exception):
    """What a client sent is not the message it should be; the text says where."""


def _refused(what: str, item: object) -> JsonFault:
    shown = repr(item)
    return JsonFault(f"proto: {what}: {shown if len(shown) <= _SHOWN_CHARS_MAX else shown[:_SHOWN_CHARS_MAX] + '…'}")


# --- reading -------------------------------------------------------------------------------------------


def _read_integer(name: str, low: int, high: int, item: Any) -> int:
    number: int | None = None
    if type(item) is int:
        number = item
    elif type(item) is float or (type(item) is str and _NUMBER.fullmatch(item)):
        text = str(item)
        number = int(text) if text.lstrip("-").isdigit() else (int(float(text)) if float(text).is_integer() else None)
    if number is None or not low <= number <= high:
        raise _refused(f"invalid value for integer field {name}", item)
    return number


def _read_bool(name: str, item: Any) -> bool:
    if type(item) is not bool:
        raise _refused(f"invalid value for bool field {name}", item)
    return item


def _read_text(name: str, item: Any) -> str:
    if type(item) is str:
        try:
            item.encode()
        except UnicodeEncodeError:
            raise _refused(f"invalid UTF-8 in string field {name}", item) from None
        return item
    raise _refused(f"invalid value for string field {name}", item)


def _read_bytes(name: str, item: Any) -> bytes:
    try:
        text = item
        if "-" in text or "_" in text:
            if "+" in text or "/" in text:
                raise _refused(f"invalid value for bytes field {name}", item)
            text = text.replace("-", "+").replace("_", "/")
        if len(text) % 4:
            text = text.replace("\r", "").replace("\n", "")
            if "=" in text:
                raise _refused(f"invalid value for bytes field {name}", item)
            text += "=" * (-len(text) % 4)
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except (ValueError, TypeError, AttributeError):
        raise _refused(f"invalid value for bytes field {name}", item) from None


def _read_enum(name: str, kind: EnumDescriptor, item: Any) -> int | None:
    if type(item) is str:
        value = kind.values_by_name.get(item)
        return None if value is None else int(value.number)
    return _read_integer(name, *_RANGES[FieldDescriptor.TYPE_INT32], item)


class _Field:
    """One field: how it is written, and how it is read into a message."""

    __slots__ = ("_form", "_read", "_render", "choice", "head", "name", "number", "repeated")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = field.name
        self.number = field.number
        self.repeated: bool = field.is_repeated
        self.choice = -field.containing_oneof.index - 1 if field.containing_oneof else field.number
        """What may be given once: the field, or the choice that it is one of."""
        self.head = f'"{field.name}":'
        self._form: MessageJson | None = None
        self._read: Read | None = None
        name, kind = field.name, field.type
        if kind == FieldDescriptor.TYPE_MESSAGE:
            self._form = form_of(field.message_type)
            self._render: Render = self._form.render
        elif kind == FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None, "an enum field has an enum"
            names = {value.number: f'"{value.name}"' for value in field.enum_type.values}
            self._read = functools.partial(_read_enum, name, field.enum_type)
            self._render = lambda number: names.get(number) or str(number)
        elif kind == FieldDescriptor.TYPE_BYTES:
            self._read = functools.partial(_read_bytes, name)
            self._render = _render_bytes
        elif kind == FieldDescriptor.TYPE_STRING:
            self._read = functools.partial(_read_text, name)
            self._render = quoted
        elif kind == FieldDescriptor.TYPE_BOOL:
            self._read = functools.partial(_read_bool, name)
            self._render = _render_bool
        else:
            self._read = functools.partial(_read_integer, name, *_RANGES[kind])
            self._render = _render_integer_text if kind in _AS_TEXT else str

    def render(self, value: Any) -> str:
        """Return the field's value; of a repeated field, its elements without brackets."""
        if self.repeated:
            return ",".join(map(self._render, value))
        return self._render(value)

    def read_into(self, message: Message, item: Any) -> None:
        """Set the field of `message`."""
        if not self.repeated:
            if self._form is not None:
                inner = getattr(message, self.name)
                inner.SetInParent()
                self._form.read_into(inner, item)
                return
            assert self._read is not None, "what is no message is read whole"
            value = self._read(item)
            if value is not None:
                setattr(message, self.name, value)
            return
        if type(item) is not list:
            raise _refused(f"invalid value for repeated field {self.name}", item)
        values = getattr(message, self.name)
        for element in item:
            if self._form is not None:
                self._form.read_into(values.add(), element)
            else:
                assert self._read is not None, "what is no message is read whole"
                value = self._read(element)
                if value is not None:
                    values.append(value)


def _render_bytes(value: bytes) -> str:
    return f'"{binascii.b2a_base64(value, newline=False).decode()}"'


def _render_bool(value: bool) -> str:
    return "true" if value else "false"


def _render_integer_text(value: int) -> str:
    return f'"{value}"'


class MessageJson:
    """Messages of one type as JSON."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._by_name: dict[str, _Field] | None = None
        self._by_number: dict[int, _Field] = {}

    def _fields(self) -> dict[str, _Field]:
        """Return the fields by both of their names, worked out at first use: types may hold themselves."""
        if self._by_name is None:
            by_name: dict[str, _Field] = {}
            for descriptor in self._descriptor.fields:
                field = _Field(descriptor)
                by_name[descriptor.name] = by_name[descriptor.json_name] = field
                self._by_number[descriptor.number] = field
            self._by_name = by_name
        return self._by_name

    def read_into(self, message: Message, value: Any) -> None:
        """Fill an empty message.

        Raises:
            JsonFault: the value is not of this type.
        """
        if type(value) is not dict:
            raise _refused(f"unexpected value for {self._descriptor.full_name}", value)
        fields = self._by_name or self._fields()
        given: dict[int, None] = {}
        for name, item in value.items():
            field = fields.get(name)
            if field is None or item is None:
                continue
            if field.choice in given:
                raise JsonFault(f'proto: duplicate field "{name}"')
            given[field.choice] = None
            field.read_into(message, item)

    def render(self, message: Message) -> str:
        """Return a message as one piece of text."""
        self._fields()
        by_number = self._by_number
        parts = []
        for descriptor, value in message.ListFields():
            field = by_number[descriptor.number]
            text = field.render(value)
            parts.append(f"{field.head}[{text}]" if field.repeated else field.head + text)
        return f"{{{','.join(parts)}}}"

    def render_parts(self, parts: Iterator[Message]) -> Iterator[str]:
        """Yield the text of a message that comes as parts, whose fields follow in the order of their numbers."""
        self._fields()
        before = "{"
        open_array: _Field | None = None
        for part in parts:
            text: list[str] = []
            for descriptor, value in part.ListFields():
                field = self._by_number[descriptor.number]
                if field is open_array:
                    text.append("," + field.render(value))
                    continue
                if open_array is not None:
                    text.append("]")
                text.append(f"{before}{field.head}{'[' if field.repeated else ''}{field.render(value)}")
                open_array = field if field.repeated else None
                before = ","
            yield "".join(text)
        yield ("]" if open_array is not None else "") + ("{}" if before == "{" else "}")


@functools.cache
def form_of(descriptor: Descriptor) -> MessageJson:
    """Return the JSON form of a message type."""
    return MessageJson(descriptor)


# --- text ----------------------------------------------------------------------------------------------


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonFault("proto: syntax error: a field is given twice")
    return found


def _no_constant(text: str) -> Any:
    raise JsonFault(f"proto: syntax error: invalid value {text}")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant)


def read_message(form: type[Message], body: bytes) -> Message:
    """Return the message that the first JSON value of `body` says; an empty body is an empty message.

    Raises:
        JsonFault: it says no such message.
    """
    message = form()
    try:
        text = body.decode().lstrip(" \t\r\n")
        if text:
            value, _ = _DECODER.raw_decode(text)
            form_of(form.DESCRIPTOR).read_into(message, value)
    except RecursionError:
        raise JsonFault("proto: syntax error: exceeded maximum recursion depth") from None
    except UnicodeDecodeError:
        raise JsonFault("proto: syntax error: invalid UTF-8") from None
    except ValueError as error:
        raise JsonFault(f"proto: syntax error: {error}") from None
    return message


_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')
_SPACE: Final = b" \t\r\n"


class JsonValues:
    """Splits what a client says on a stream into JSON objects, however the bytes arrive."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._at = 0
        """What lies before has been looked at."""
        self._depth = 0
        self._in_string = False

    @property
    def held_bytes(self) -> int:
        """Bytes waiting for the rest of their value."""
        return len(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes; return the objects that are whole now.

        Raises:
            JsonFault: there is something else than objects, or one is too large.
        """
        self._data += data
        whole: list[bytes] = []
        while (value := self._next()) is not None:
            whole.append(value)
        if len(self._data) > self._bytes_max:
            raise JsonFault(f"proto: a value of more than {self._bytes_max} bytes")
        return whole

    def finish(self) -> None:
        """Nothing follows.

        Raises:
            JsonFault: in the middle of a value.
        """
        if self._data.strip(_SPACE):
            raise JsonFault("unexpected EOF")

    def _next(self) -> bytes | None:
        data = self._data
        if not self._depth:
            del data[: len(data) - len(data.lstrip(_SPACE))]
            self._at = 0
            if not data:
                return None
            if data[:1] != b"{":
                raise JsonFault("proto: syntax error: unexpected token")
        while True:
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(data, self._at)
            if found is None:
                self._at = len(data)
                return None
            mark = found.group()
            if mark == b"\\":
                if found.end() == len(data):
                    self._at = found.start()
                    return None
                self._at = found.end() + 1
                continue
            self._at = found.end()
            if mark == b'"':
                self._in_string = not self._in_string
                continue
            self._depth += 1 if mark in b"{[" else -1
            if not self._depth:
                value = bytes(data[: self._at])
                del data[: self._at]
                self._at = 0
                return value


# --- large answers -------------------------------------------------------------------------------------


def parts_of(form: type[Message], body: bytes, part_bytes: int) -> Iterator[Message]:
    """Yield an encoded message as messages of the same type, each of about `part_bytes` and of whole fields.

    Raises:
        DecodeError: the bytes are no message.
    """
    size = len(body)
    begin = at = 0
    while at < size:
        key, at = _varint(body, at)
        if key & 7 == 2:
            length, at = _varint(body, at)
            at += length
        elif key & 7 == 0:
            _, at = _varint(body, at)
        else:
            raise DecodeError("a wire type that no message of the API has")
        if at - begin >= part_bytes or at >= size:
            yield form.FromString(body[begin:at])
            begin = at


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(body):
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError("a number that does not end")
