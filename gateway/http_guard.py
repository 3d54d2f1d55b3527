"""Who may use the HTTP side: origins of pages (CORS), names of hosts and of users, and on the metrics port which pages.

Owns four questions asked before the application is. Knows no socket. Rules are etcd's: over TLS any name is right,
because a certificate has said who this is.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from gateway.asgi_bridge import COMMON_NAME, AsgiApp, Event
from gateway.websockets import WEBSOCKET

EVERYBODY: Final = "*"
METHODS_ALLOWED: Final = b"POST, GET, OPTIONS, PUT, DELETE"
HEADERS_ALLOWED: Final = b"accept, content-type, authorization"
PAGES_OF_METRICS: Final = frozenset({"metrics", "health", "livez", "readyz", "version"})
"""First words of the paths that the metrics port serves."""
PAGES_OF_JSON: Final = frozenset({"v3", "v3beta"})
_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
_NAME_IGNORED: Final = (
    b"CommonName of client sending a request against gateway will be ignored and not used as expected\n"
)

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


def guard(app: AsgiApp, origins: Collection[str], hosts: Collection[str]) -> AsgiApp:
    """Return `app` as it is for pages of `origins`, under the names `hosts` where it is plain HTTP."""

    async def guarded(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        fields = dict(reversed(scope["headers"]))
        host = fields.get(b"host", b"").decode("latin-1")
        if scope.get("scheme") != "https" and not _is_one_of(_name_of(host), hosts):
            await _answer(send, 421, _misdirected(_name_of(host)), [])
            return
        said = fields.get(b"origin", b"").decode("latin-1")
        if WEBSOCKET in scope and said and not _is_one_of(said, origins):
            # A browser hides another site's answer from a page unless it may be read, but not what a WebSocket says.
            await _answer(send, 403, b"this origin is not one of those that are allowed\n", [])
            return
        origin = EVERYBODY if EVERYBODY in origins else said
        cors = _cors(origin) if origin and _is_one_of(origin, origins) else []
        if scope["method"] == "OPTIONS":
            await _answer(send, 200, b"", cors)
            return
        await app(scope, receive, _with(send, cors))

    return guarded


def nameless(app: AsgiApp, rights_matter: Callable[[], bool]) -> AsgiApp:
    """Return `app` whose JSON paths are closed, while rights matter, to clients whose certificate names a user.

    Over JSON the name counts for nothing; who has one would think that it does.
    """

    async def answering(scope: Any, receive: Receive, send: Send) -> None:
        if scope.get(COMMON_NAME) and _first_word(scope) in PAGES_OF_JSON and rights_matter():
            await _answer(send, 400, _NAME_IGNORED, [])
            return
        await app(scope, receive, send)

    return answering


def only(app: AsgiApp, pages: Collection[str]) -> AsgiApp:
    """Return `app` with no paths but those that begin with one of `pages`."""
    return _limited(app, lambda page: page in pages)


def without(app: AsgiApp, pages: Collection[str]) -> AsgiApp:
    """Return `app` without the paths that begin with one of `pages`."""
    return _limited(app, lambda page: page not in pages)


def _limited(app: AsgiApp, serves: Callable[[str], bool]) -> AsgiApp:
    async def limited(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not serves(_first_word(scope)):
            await _answer(send, 404, b"404 page not found\n", [])
            return
        await app(scope, receive, send)

    return limited


def _first_word(scope: Any) -> str:
    return str(scope.get("path", "")).removeprefix("/").partition("/")[0]


def _is_one_of(value: str, allowed: Collection[str]) -> bool:
    return not allowed or EVERYBODY in allowed or value in allowed


def _name_of(host: str) -> str:
    """Return a Host field without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-methods", METHODS_ALLOWED),
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-headers", HEADERS_ALLOWED),
    ]


def _misdirected(host: str) -> bytes:
    return (
        f"actd was reached under the name {host!r}, which is not one of those it was told to answer to.\n"
        "Use TLS, or add the name to --host-whitelist (http.allowed_hosts in the cluster file). Pages of other sites\n"
        "must not reach a node by a name they control (CVE-2018-5702).\n"
    ).encode()


def _with(send: Send, fields: list[tuple[bytes, bytes]]) -> Send:
    if not fields:
        return send

    async def sending(event: Event) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event.get("headers", []), *fields]
        await send(event)

    return sending


async def _answer(send: Send, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*_TEXT, *length, *fields]})
    await send({"type": "http.response.body", "body": body})
