"""Messages to bytes and back: msgpack of `[kind, {field: value}]`, validated once on the way in.

Owns the byte format of every ZeroMQ payload. Knows no socket.
Worked example: `EntriesApplied(applied=7, bytes_applied=90)` is the msgpack of
`["EntriesApplied", {"applied": 7, "bytes_applied": 90}]`.
"""

from collections.abc import Collection
from typing import Any, Final

import msgpack
from pydantic import ValidationError

from protocol.errors import PeerFault
from protocol.message import REGISTRY, Message

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""No single message is larger; checked before memory is spent on unpacking."""
ITEMS_PER_ARRAY_MAX: Final = 8
"""A message from outside holds at most so many items for each that its longest array may have."""


PACKER_BYTES_MAX: Final = 4 * 1024 * 1024
"""A packer keeps a buffer as large as the largest message it has made; after a larger one than this it is replaced."""

_packer = msgpack.Packer()
"""Made once: a new one for each message costs as much as the packing. It calls back no Python code, so threads that
encode take turns by themselves."""


def encode(message: Message) -> bytes:
    """Return the bytes of `message`; `decode` gives an equal message back."""
    packed: bytes = _packer.pack((message.kind, message.__dict__))
    if len(packed) > PACKER_BYTES_MAX:
        _replace_packer()
    return packed


def _replace_packer() -> None:
    global _packer
    _packer = msgpack.Packer()


def _unpack_bounded(data: bytes | memoryview, array_max: int) -> Any:
    """Unpack what a stranger sent: it gives up long before a frame full of tiny items has cost anything."""
    items_left = ITEMS_PER_ARRAY_MAX * array_max

    def count(items: Any) -> Any:
        nonlocal items_left
        items_left -= len(items)
        if items_left < 0:
            raise ValueError("too many items")
        return items

    return msgpack.unpackb(
        data, use_list=False, list_hook=count, object_hook=count, max_array_len=array_max, max_map_len=array_max
    )


def decode(
    data: bytes | memoryview, allowed: Collection[str] | None = None, *, array_max: int | None = None
) -> Message:
    """Return the message that `data` encodes.

    Args:
        data: one payload as `encode` made it; at most `MESSAGE_BYTES_MAX` bytes.
        allowed: the kinds that may arrive here; None allows every registered kind.
        array_max: for bytes from outside: no array or map may be longer, nor all together much longer, and each value
            has the type of its field as it is. Text that spells a number is none: it could spell one of any size.

    Raises:
        PeerFault: `data` is not a valid message of an allowed kind. Nothing but the message is lost.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise PeerFault(f"message of {len(data)} bytes is over {MESSAGE_BYTES_MAX}")
    try:
        if array_max is None:
            kind, fields = msgpack.unpackb(data, use_list=False)
        else:
            kind, fields = _unpack_bounded(data, array_max)
        cls = REGISTRY[kind]
    except Exception as error:
        raise PeerFault(f"undecodable message: {type(error).__name__}") from error
    if allowed is not None and kind not in allowed:
        raise PeerFault(f"message kind {kind} may not arrive here")
    try:
        message: Message = cls.__pydantic_validator__.validate_python(fields, strict=array_max is not None)
    except ValidationError as error:
        raise PeerFault(f"invalid {kind}: {error.error_count()} field errors") from error
    return message
