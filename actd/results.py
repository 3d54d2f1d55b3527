"""What calls give back: frozen, typed, with the revision they speak of."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

M = TypeVar("M", bound=BaseModel)


def trusted(cls: type[M], fields: dict[str, Any]) -> M:
    """Return a result made of fields that the wire reader has already given their types, defaults included.

    The same as `cls.model_construct(**fields)` at a quarter of its cost, which is most of what a small answer costs.
    """
    result = cls.__new__(cls)
    put = object.__setattr__
    put(result, "__dict__", fields)
    put(result, "__pydantic_fields_set__", set(fields))
    put(result, "__pydantic_extra__", None)
    put(result, "__pydantic_private__", None)
    return result


class Result(BaseModel):
    """Base of all results; `revision` is the store's when the call was served."""

    model_config = ConfigDict(frozen=True)

    revision: int = 0


class KeyValue(BaseModel):
    """One stored pair."""

    model_config = ConfigDict(frozen=True)

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0

    @property
    def text(self) -> str:
        """The value as UTF-8 text."""
        return self.value.decode()


class WatchEvent(BaseModel):
    """One change: `kind` is "put" or "delete"; `previous` is the pair it replaced, if that was asked for.

    The pair of a deletion has key and mod revision only.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["put", "delete"] = "put"
    pair: KeyValue = KeyValue()
    previous: KeyValue | None = None

    @property
    def key(self) -> bytes:
        """The key that changed."""
        return self.pair.key

    @property
    def value(self) -> bytes:
        """Its new value; empty for a deletion."""
        return self.pair.value

    @property
    def revision(self) -> int:
        """When it changed."""
        return self.pair.mod_revision


class PutResult(Result):
    """A put took effect at `revision`; `previous` is the old pair if it was asked for and there was one."""

    previous: KeyValue | None = None


class LeaseResult(Result):
    """A lease was granted or kept alive for `ttl_s` seconds; 0: there is no such lease."""

    lease: int = 0
    ttl_s: int = 0


class LeaseTimeResult(LeaseResult):
    """What is left of a lease (`ttl_s`; -1: there is none), what was granted, and its keys if they were asked for."""

    granted_ttl_s: int = 0
    keys: tuple[bytes, ...] = ()


class RangeResult(Result):
    """Pairs of a range; `count` is how many there are in all, `more` whether `limit` cut some off."""

    pairs: tuple[KeyValue, ...] = ()
    more: bool = False
    count: int = 0


class DeleteResult(Result):
    """How many keys went, and which pairs if that was asked for."""

    deleted: int = 0
    previous: tuple[KeyValue, ...] = ()


class TxnResult(Result):
    """Whether the conditions held, and one result per operation of the branch that was taken."""

    succeeded: bool = False
    results: "tuple[PutResult | RangeResult | DeleteResult | TxnResult, ...]" = ()


class CompactResult(Result):
    """History before a revision is gone."""


class StatusResult(Result):
    """How one member stands."""

    member_id: int = 0
    version: str = ""
    db_size_bytes: int = 0
    db_size_in_use_bytes: int = 0
    leader: int = 0
    raft_index: int = 0
    raft_term: int = 0
    raft_applied_index: int = 0
    errors: tuple[str, ...] = ()
    is_learner: bool = False
    storage_version: str = ""
    db_size_quota_bytes: int = 0
    downgrade_target: str = ""
    """The version a downgrade that is under way goes to, if one is."""


class SavedSnapshot(BaseModel):
    """A file that holds all of a member's store; `etcdctl`, etcd and `tools.restore` read it."""

    model_config = ConfigDict(frozen=True)

    path: Path
    size_bytes: int
    """With the digest at its end."""
    sha256: bytes
    """Of what stands before it."""
    storage_version: str


class Member(BaseModel):
    """One member of the cluster."""

    model_config = ConfigDict(frozen=True)

    id: int = 0
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


class Alarm(BaseModel):
    """What is wrong with a member; `member_id` 0: it is not known with which."""

    model_config = ConfigDict(frozen=True)

    member_id: int = 0
    kind: int = 0
    """1: NOSPACE, 2: CORRUPT."""


class AuthStatusResult(Result):
    """Whether rights matter, and how often users, roles or permissions have changed."""

    enabled: bool = False
    auth_revision: int = 0


class Permission(BaseModel):
    """What a role permits on a key, or on `[key, range_end)`; a `range_end` of one zero byte is everything behind."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["read", "write", "readwrite"] = "read"
    key: bytes = b""
    range_end: bytes = b""


class HashResult(Result):
    """One member's hash over the store up to `hash_revision`."""

    hash: int = 0
    compact_revision: int = 0
    hash_revision: int = 0
