"""CURVE keys of a client: its own pair, and those of the doors it believes.

`Client(endpoints, curve=CurveKeys.load("alice.key_secret", "n1.key"))`. Knows no socket.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from protocol.curve_keys import is_key, read_key_file
from protocol.errors import ConfigError


@dataclass(frozen=True)
class CurveKeys:
    """What a client needs to be let in, and to know whom it speaks to; each key is 40 characters of Z85.

    Args:
        public: the client's public key; the nodes must know it.
        secret: the client's secret key.
        servers: the public key that every door has, or the key of each door by its endpoint.
    """

    public: bytes
    secret: bytes
    servers: bytes | Mapping[str, bytes]

    def __post_init__(self) -> None:
        servers = [self.servers] if isinstance(self.servers, bytes) else list(self.servers.values())
        if not servers or not all(is_key(key) for key in (self.public, self.secret, *servers)):
            raise ValueError("CURVE keys are 40 characters of Z85 each")

    def __repr__(self) -> str:
        return f"CurveKeys(public={self.public.decode()!r})"

    @classmethod
    def load(
        cls, own: str | PathLike[str], servers: str | PathLike[str] | Mapping[str, str | PathLike[str]]
    ) -> "CurveKeys":
        """Return the keys in files that `python -m tools.keygen curve` or zmq.auth has made.

        Args:
            own: the client's `.key_secret` file.
            servers: the `.key` file of all doors, or one for each endpoint.

        Raises:
            ValueError: a file cannot be read or has no such key; the text names it.
        """
        try:
            mine = read_key_file(Path(own))
            if isinstance(servers, Mapping):
                theirs: bytes | dict[str, bytes] = {
                    endpoint: read_key_file(Path(path)).public for endpoint, path in servers.items()
                }
            else:
                theirs = read_key_file(Path(servers)).public
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if not mine.secret:
            raise ValueError(f"{own}: there is no secret key in it")
        return cls(mine.public, mine.secret, theirs)

    def server_key(self, endpoint: str) -> bytes:
        """Return the key that the door at `endpoint` must have."""
        if isinstance(self.servers, bytes):
            return self.servers
        return self.servers[endpoint]


def may_use(curve: CurveKeys | None, endpoints: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a client with these keys, or without, can use a door it has been told of.

    Raises:
        ValueError: one of `endpoints` cannot be used.
    """
    if curve is None or isinstance(curve.servers, bytes):
        return bool
    missing = [endpoint for endpoint in endpoints if endpoint not in curve.servers]
    if missing:
        raise ValueError(f"there is no CURVE key for {', '.join(missing)}")
    return curve.servers.__contains__
