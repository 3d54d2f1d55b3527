"""Every registered message survives the wire, and nothing else gets through."""

import random
import types
import typing
from typing import Any

import msgpack
import pytest

import protocol.client
import protocol.local
import protocol.peer
from protocol import codec
from protocol.errors import WIRE_ERRORS, ErrorCode, PeerFault
from protocol.message import REGISTRY, Message

KINDS = sorted(REGISTRY)
assert protocol.client
assert protocol.local
assert protocol.peer


def sample(annotation: Any, rng: random.Random) -> Any:
    """A value of an annotated type."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    supertype = getattr(annotation, "__supertype__", None)
    if supertype is not None:
        return sample(supertype, rng)
    if origin in (typing.Union, types.UnionType):
        return sample(rng.choice(arguments), rng)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(sample(arguments[0], rng) for _ in range(rng.randrange(4)))
        return tuple(sample(argument, rng) for argument in arguments)
    if origin is dict:
        return {sample(arguments[0], rng): sample(arguments[1], rng) for _ in range(rng.randrange(4))}
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return make(annotation, rng)
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        hints = typing.get_type_hints(annotation)
        return annotation(*(sample(hint, rng) for hint in hints.values()))
    simple = {
        int: lambda: rng.randrange(1 << 62),
        str: lambda: f"text{rng.randrange(100)}",
        bytes: lambda: rng.randbytes(rng.randrange(50)),
        bool: lambda: rng.random() < 0.5,
        float: rng.random,
        type(None): lambda: None,
        object: lambda: rng.randrange(9),
    }
    return simple[annotation]()


def make(kind: type[Message], rng: random.Random) -> Message:
    """A message of a kind with random fields."""
    return kind(**{name: sample(field.annotation, rng) for name, field in kind.model_fields.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_comes_back_equal(kind: str) -> None:
    """Encoding and decoding gives an equal message of the same kind."""
    rng = random.Random(kind)
    for _ in range(20):
        message = make(REGISTRY[kind], rng)
        back = codec.decode(codec.encode(message))
        assert back == message
        assert type(back) is type(message)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_fields_are_refused(kind: str) -> None:
    """A field that no one declared is a fault of the sender."""
    message = make(REGISTRY[kind], random.Random(1))
    with pytest.raises(PeerFault):
        codec.decode(msgpack.packb((kind, {**message.__dict__, "surprise": 1}), default=lambda value: value.__dict__))


def test_garbage_is_a_peer_fault_and_nothing_else() -> None:
    """Random bytes, unknown kinds and wrong shapes raise the one error that is meant for them."""
    rng = random.Random(3)
    for _ in range(3000):
        with pytest.raises(PeerFault):
            codec.decode(rng.randbytes(rng.randrange(60)))
    for shape in (["Nobody", {}], ["Beat"], [1, 2], {"kind": "Beat"}, ["Beat", []], ["Beat", {1: 2}]):
        with pytest.raises(PeerFault):
            codec.decode(msgpack.packb(shape))


def test_truncated_messages_are_refused() -> None:
    """No prefix of a message passes for one."""
    data = codec.encode(make(REGISTRY["PersistEntries"], random.Random(2)))
    for end in range(len(data)):
        with pytest.raises(PeerFault):
            codec.decode(data[:end])


def test_kinds_that_may_not_arrive_are_refused() -> None:
    """A door lets in only what is meant for it."""
    data = codec.encode(make(REGISTRY["StopActor"], random.Random(2)))
    with pytest.raises(PeerFault, match="may not arrive"):
        codec.decode(data, {"Beat"})


def test_every_error_has_a_wire_form() -> None:
    """The table of wire errors is total: nothing can be raised that cannot be answered."""
    internal = {ErrorCode.OK, ErrorCode.PENDING}
    assert set(WIRE_ERRORS) == set(ErrorCode) - internal
    texts = [error.text for code, error in WIRE_ERRORS.items() if code is not ErrorCode.DUPLICATE_BATCH]
    assert len(texts) == len(set(texts))
