"""A WebSocket client on a plain socket, for tests of the JSON gateway: handshake, messages of text, and the end."""

import json
import socket
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

TIMEOUT_S = 20.0


class WebSocket:
    """One connection."""

    def __init__(self, address: str, path: str, *subprotocols: str, **fields: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._text = ""
        self.subprotocol: str | None = None
        self.refusal = b""
        extra = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._send(Request(host=address, target=path, subprotocols=list(subprotocols), extra_headers=extra))
        self.status = self._shake_hands()

    def _shake_hands(self) -> int:
        """Return the status of the handshake; 101: it is a WebSocket."""
        event = self._next()
        if isinstance(event, AcceptConnection):
            self.subprotocol = event.subprotocol
            return 101
        assert isinstance(event, RejectConnection), event
        while isinstance(part := self._next(), RejectData):
            self.refusal += part.data
            if part.body_finished:
                break
        return event.status_code

    def _send(self, event: Event) -> None:
        self._socket.sendall(self._connection.send(event))

    def _next(self) -> Event | None:
        """Return what happens next; None: the connection is closed."""
        while not self._events:
            data = self._socket.recv(65_536)
            self._connection.receive_data(data or None)
            self._events += self._connection.events()
            if not data and not self._events:
                return None
        return self._events.pop(0)

    def say(self, value: Any) -> None:
        """Send a value, or text as it is."""
        self._send(TextMessage(value if isinstance(value, str) else json.dumps(value)))

    def hears(self) -> Any:
        """Return the next value, or None once the other side has closed."""
        while True:
            event = self._next()
            if isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    return json.loads(text)
            elif isinstance(event, Ping):
                self._send(event.response())
            elif event is None or isinstance(event, CloseConnection):
                return None

    def close(self) -> None:
        """Say goodbye and hang up."""
        self._send(CloseConnection(code=1000))
        self.hang_up()

    def hang_up(self) -> None:
        """Say nothing and hang up."""
        self._socket.close()
