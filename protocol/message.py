"""The base of every message and the registry of kinds.

Invariants: every message class is frozen, forbids unknown fields, and is registered under its class name;
two classes of one name are refused at import.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

REGISTRY: dict[str, type["Message"]] = {}
"""Every kind that may travel over a socket, by name."""


class Message(BaseModel):
    """What actors, nodes and clients say to each other. Subclasses register themselves by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="never")

    kind: ClassVar[str] = "Message"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the kind; a second class of the same name is a programming error."""
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.__name__
        if name.startswith("_") or cls.__dict__.get("abstract", False):
            return
        assert name not in REGISTRY, f"two message kinds are called {name}"
        cls.kind = name
        REGISTRY[name] = cls
