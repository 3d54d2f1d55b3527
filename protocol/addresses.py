"""URLs as etcd's flags write them, and what they mean for sockets.

Owns the parsing of one URL and the rule which hosts may be listened on. Knows no socket and resolves no name.
Invariant: an `Address` names one listening or dialling point; its `text` is the URL as it was given, because ids are
made from it.
"""

from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

TCP_SCHEMES: Final = ("http", "https")
UNIX_SCHEMES: Final = ("unix", "unixs")


class Address(NamedTuple):
    """One URL, taken apart."""

    text: str
    scheme: str
    host: str
    """Without brackets; of a unix socket its path."""
    port: int
    """0 of a unix socket."""

    @property
    def is_unix(self) -> bool:
        """Whether this is a socket in the file system."""
        return self.scheme in UNIX_SCHEMES

    @property
    def secure(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.scheme in ("https", "unixs")

    @property
    def host_port(self) -> str:
        """The address as `host:port`; an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can come here."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def zmq_bind(self) -> str:
        """The endpoint a ZeroMQ socket listens on; libzmq resolves no name there, so localhost is 127.0.0.1."""
        assert not self.is_unix, "ZeroMQ doors listen on TCP"
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return f"tcp://{self._replace(host=host).host_port}"

    def zmq_connect(self) -> str:
        """The endpoint a ZeroMQ socket dials."""
        assert not self.is_unix, "members dial TCP"
        return f"tcp://{self.host_port}"


def parse_url(text: str) -> Address:
    """Return the URL `text`, taken apart.

    Raises:
        ValueError: it is not one; the text says what is wrong, in etcd's words.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme in UNIX_SCHEMES and separator:
        # etcd takes host and port for the name of the file, and a longer path as it stands.
        if not rest or "\0" in rest:
            raise ValueError(f"URL names no socket file: {text}")
        return Address(text, scheme, rest, 0)
    if scheme not in TCP_SCHEMES or not separator:
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    parts = urlsplit(text)
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"URL must not contain a path: {text}")
    host, separator, port = parts.netloc.rpartition(":")
    plain = port.isascii() and port.isdigit() and int(port) <= 65535
    if not separator or not plain or (":" in host and not host.startswith("[")):
        raise ValueError(f'URL address does not have the form "host:port": {text}')
    if "@" in host:
        raise ValueError(f"URL must not contain a user: {text}")
    return Address(text, scheme, host.strip("[]").lower(), int(port))


def parse_listen_url(text: str) -> Address:
    """Return a URL that can be listened on: its host is an IP address, `localhost`, or a socket file.

    Raises:
        ValueError: it is not one.
    """
    address = parse_url(text)
    if address.is_unix or address.host == "localhost":
        return address
    if not address.host:
        return address._replace(host="0.0.0.0")  # noqa: S104 - what an empty host means; whether it may is decided later
    try:
        ip_address(address.host)
    except ValueError:
        raise ValueError(f"expected IP in URL for binding ({text})") from None
    return address
