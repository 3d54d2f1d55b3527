"""A ZeroMQ context for tests that closes all of its sockets, whoever still holds them."""

from typing import Any

import zmq


class Context(zmq.Context[zmq.Socket[bytes]]):
    """Keeps its sockets alive until `close_all`: a socket that is merely forgotten is a warning, and so a failure."""

    kept: list[zmq.Socket[bytes]] = []  # noqa: RUF012 - pyzmq keeps attributes of contexts for itself

    def socket(self, *arguments: Any, **options: Any) -> Any:
        """Open a socket as any context does."""
        made = super().socket(*arguments, **options)
        self.kept.append(made)
        return made

    def close_all(self) -> None:
        """Close every socket and end."""
        for one in self.kept:
            one.close(linger=0)
        self.kept.clear()
        self.term()
