"""Who may use the HTTP side: by origin, by the name they call this host, and by path on the metrics port."""

import asyncio
from typing import Any

import pytest

from gateway.asgi_bridge import naming
from gateway.http_guard import PAGES_OF_METRICS, guard, nameless, only


async def page(_scope: Any, _receive: Any, send: Any) -> None:
    """An application with one answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"page"})


def ask(
    app: Any, path: str = "/health", method: str = "GET", scheme: str = "http", **fields: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of one request."""
    events: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        events.append(event)

    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    scope = {"type": "http", "path": path, "method": method, "scheme": scheme, "headers": headers}
    asyncio.run(app(scope, None, send))
    told = {name.decode(): value.decode() for name, value in events[0]["headers"]}
    return events[0]["status"], told, b"".join(event.get("body", b"") for event in events[1:])


@pytest.mark.parametrize("host", ["good.example", "good.example:2379", "[::1]:2379", "::1"])
def test_a_name_that_is_listed_is_answered(host: str) -> None:
    """With or without its port."""
    assert ask(guard(page, ["*"], ["good.example", "::1"]), host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "", "good.example.evil", "[::2]:1"])
def test_a_name_that_is_not_listed_is_misdirected(host: str) -> None:
    """421, as etcd against DNS rebinding; a certificate settles the question over TLS."""
    app = guard(page, ["*"], ["good.example", "::1"])
    status, _, body = ask(app, host=host)
    assert status == 421
    assert b"CVE-2018-5702" in body
    assert ask(app, host=host, scheme="https")[0] == 200


def test_pages_of_listed_origins_may_read_the_answer() -> None:
    """Everybody with *, else the one that asks if it is listed; an OPTIONS is answered by itself."""
    everybody = guard(page, ["*"], ["*"])
    assert ask(everybody)[1]["access-control-allow-origin"] == "*"
    some = guard(page, ["http://a.example"], ["*"])
    allowed = ask(some, origin="http://a.example")
    assert allowed[1]["access-control-allow-origin"] == "http://a.example"
    assert allowed[1]["x"] == "y"
    assert "access-control-allow-origin" not in ask(some, origin="http://b.example")[1]
    assert "access-control-allow-origin" not in ask(some)[1]
    status, told, body = ask(everybody, method="OPTIONS")
    assert (status, body) == (200, b"")
    assert told["access-control-allow-methods"] == "POST, GET, OPTIONS, PUT, DELETE"


@pytest.mark.parametrize(
    ("path", "status"), [("/metrics", 200), ("/livez/serializable_read", 200), ("/v3/kv/put", 404), ("/", 404)]
)
def test_the_metrics_port_has_its_pages_only(path: str, status: int) -> None:
    """Nothing of the store."""
    assert ask(only(page, PAGES_OF_METRICS), path)[0] == status


def test_json_is_closed_to_whom_a_certificate_names_while_rights_matter() -> None:
    """Etcd's refusal: a name would not count there. Pages, and clients without a name, are let be."""
    matters = [True]
    app = nameless(page, lambda: matters[0])
    named = naming(app, "alice")
    for path in ("/v3/kv/range", "/v3beta/auth/authenticate"):
        status, _, body = ask(named, path, "POST", "https")
        assert (status, body[:10]) == (400, b"CommonName")
        assert ask(app, path, "POST", "https")[0] == 200
    assert ask(named, "/health", scheme="https")[0] == 200
    matters[0] = False
    assert ask(named, "/v3/kv/range", "POST", "https")[0] == 200
