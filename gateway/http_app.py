"""The HTTP pages of the client port: /version, /health, /livez, /readyz, /metrics, and the JSON gateway below /v3/.

Owns paths, methods, query parameters and texts, which are etcd's. Knows no socket and no core: all it shows comes from
a `NodeView`, all it does goes through a `JsonGateway`. Imported only when the first plain HTTP request comes, because
what it imports is not small.
"""

import json
from pathlib import Path
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.json_gateway import JsonGateway
from gateway.json_paths import OLD_PREFIX, PREFIX
from gateway.node_view import NodeView

OPENAPI: Final = Path(__file__).with_name("openapi.json")
"""What the JSON gateway has, for tools that read such documents; made by `tools.generate_openapi`."""
_PLAIN = {"X-Content-Type-Options": "nosniff"}


def _json(value: dict[str, str], status: int = 200) -> Response:
    text = json.dumps(value, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def build_app(view: NodeView, json_gateway: JsonGateway) -> Starlette:
    """Return the application that shows `view` and serves `json_gateway`."""

    async def version(_request: Request) -> Response:
        return _json(
            {
                "etcdserver": view.server_version,
                "etcdcluster": view.cluster_version,
                "storage": view.storage_version,
            }
        )

    async def health(request: Request) -> Response:
        serializable = request.query_params.get("serializable") == "true"
        excluded = request.query_params.getlist("exclude")
        result = await view.health(serializable=serializable, excluded=excluded)
        body = {"health": "true" if result.healthy else "false", "reason": result.reason}
        return _json(body, 200 if result.healthy else 503)

    async def metrics(_request: Request) -> Response:
        return Response(await view.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(_request: Request) -> Response:
        return Response(OPENAPI.read_bytes(), media_type="application/json")

    async def checks(request: Request) -> Response:
        page = request.url.path.split("/")[1]
        return await _run_checks(view, request, page)

    async def not_found(_request: Request, _error: Exception) -> Response:
        return _not_found()

    pages = {"/version": version, "/health": health, "/metrics": metrics, "/openapi.json": openapi}
    for page in view.checks:
        pages |= {f"/{page}": checks, f"/{page}/{{check}}": checks}
    routes = [Route(path, page, methods=["GET"]) for path, page in pages.items()]
    for route in routes:
        route.methods = {"GET"}  # etcd's pages do not answer HEAD, and say so in Allow
    routes += [Route(f"{prefix}/{{rest:path}}", json_gateway) for prefix in (PREFIX, OLD_PREFIX)]
    return Starlette(routes=routes, exception_handlers={404: not_found})


def _not_found() -> Response:
    return PlainTextResponse("404 page not found\n", 404, headers=_PLAIN)


async def _run_checks(view: NodeView, request: Request, page: str) -> Response:
    """Answer a page of checks, or one check of it, as Kubernetes probes expect."""
    known = view.checks[page]
    asked = request.path_params.get("check")
    if asked is not None and asked not in known:
        return _not_found()
    excluded = set(request.query_params.getlist("exclude"))
    names = [asked] if asked is not None else [name for name in known if name not in excluded]
    results = await view.run_checks(page, names)
    lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in results.items()]
    if any(results.values()):
        return PlainTextResponse("\n".join([*lines, f"{page} check failed"]) + "\n", 503, headers=_PLAIN)
    if "verbose" in request.query_params:
        return PlainTextResponse("\n".join([*lines, "ok"]) + "\n", headers=_PLAIN)
    return PlainTextResponse("ok\n", headers=_PLAIN)
