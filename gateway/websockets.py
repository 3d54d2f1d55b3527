"""WebSockets as HTTP requests: what etcd's gateway has for browsers, which cannot go on writing a request's body.

Owns the translation between ASGI's two forms. Each message of the client is a part of a request's body, each line of
the answer is a message of text; the request is a POST, whatever the handshake was. Knows no path but those below the
JSON gateway's prefixes, and no answer.

Invariants: the handshake is accepted when the application asks for the body, so that who refuses without it (a name of
this host that is not listed, a path that is none) answers with an HTTP status; an answer that is complete closes.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.asgi_bridge import AsgiApp, Event
from gateway.json_paths import GOES_ON_SPEAKING, OLD_PREFIX, PREFIX

WEBSOCKET: Final = "actd.websocket"
"""A key of the scope of a request that is none."""
BEARER: Final = "Bearer"
"""The first word of a subprotocol `Bearer, TOKEN`, the one place where a page can put a token."""
_NOT_HANDED_ON: Final = (b"content-length", b"transfer-encoding")

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


def over_websockets(app: AsgiApp) -> AsgiApp:
    """Return `app`, which knows requests only, for WebSockets too."""

    async def served(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return
        conversation = _Conversation(scope, receive, send)
        await receive()  # the handshake
        await app(conversation.request(), conversation.receive, conversation.send)

    return served


class _Conversation:
    """One WebSocket."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        path: str = scope["path"]
        prefix = next((prefix for prefix in (PREFIX, OLD_PREFIX) if path.startswith(prefix + "/")), "")
        self._is_call = bool(prefix)
        self._goes_on = path.removeprefix(prefix) in GOES_ON_SPEAKING
        self._accepted = False
        self._heard = False
        self._gone = False
        self._line = bytearray()

    def request(self) -> dict[str, Any]:
        """Return the scope of the request that this is."""
        scope = self._scope
        fields = [(name, value) for name, value in scope["headers"] if name not in _NOT_HANDED_ON]
        offered = scope["subprotocols"]
        if offered[:1] == [BEARER] and len(offered) > 1:
            fields.append((b"authorization", offered[1].encode("latin-1")))
        return {
            **scope,
            "type": "http",
            "method": "POST" if self._is_call else "GET",
            "scheme": "https" if scope["scheme"] == "wss" else "http",
            "headers": fields,
            "extensions": {},
            WEBSOCKET: True,
        }

    async def receive(self) -> Event:
        """Return what the client says as a part of a body; calls that are not streams take one message."""
        if not self._accepted:
            self._accepted = True
            subprotocol = BEARER if BEARER in self._scope["subprotocols"] else None
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._gone = True
            return {"type": "http.disconnect"}
        text: str | None = message.get("text")
        data: bytes = message["bytes"] if text is None else text.encode()
        if self._heard and not self._goes_on:
            return {"type": "http.request", "body": b"", "more_body": False}
        self._heard = True
        return {"type": "http.request", "body": data + b"\n", "more_body": self._goes_on}

    async def send(self, event: Event) -> None:
        """Send a part of the answer."""
        if not self._accepted:
            await self._send({**event, "type": f"websocket.{event['type']}"})
            return
        if event["type"] != "http.response.body" or self._gone:
            return
        self._line += event.get("body", b"")
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        more = event.get("more_body", False)
        for line in lines if more else (*lines, rest):
            if line:
                await self._send({"type": "websocket.send", "text": line.decode()})
        if not more:
            await self._send({"type": "websocket.close", "code": 1000})
