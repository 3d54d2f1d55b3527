"""The gateway's process: the core, its links, both doors, and the loop around them.

Owns the wiring. Its entry point is handed to the supervisor, which knows nothing of the gateway.
"""

import asyncio
import time
from collections.abc import Iterator

import uvloop
import zmq

from actors.links import LocalLinks
from actors.process import ProcessContext
from actors.shell import tune_garbage_collection
from gateway.asgi_bridge import AsgiApp
from gateway.core import GatewayCore
from gateway.grpc_door import GrpcShared
from gateway.grpc_methods import all_methods
from gateway.health import HealthService
from gateway.http1_door import HttpStack
from gateway.http_guard import PAGES_OF_JSON, PAGES_OF_METRICS, guard, nameless, only, without
from gateway.listening import door_name
from gateway.loop import GatewayLoop
from gateway.methods import HEALTH_WATCH, METHODS, STREAM_METHODS
from gateway.metrics_page import MetricsPage, Sample
from gateway.node_view import NodeView, door_samples
from gateway.sniff import ClientDoor
from gateway.tls_files import open_tls
from gateway.zmq_door import ZmqDoor
from storage.reads import ETCD_VERSION


def run_gateway(context: ProcessContext) -> int:
    """Run a gateway until it halts; return 0 if it was asked to."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    core = GatewayCore(context.identity, context.config)
    curve = context.open_curve(zmq_context, "gateway", core.metrics)
    links = LocalLinks(zmq_context, "gateway", context.identity.incarnation)
    for sibling, incarnation in context.siblings.items():
        links.connect(sibling, incarnation)
    core.members.calls.unix_s = lambda: int(time.time())
    gateway = GatewayLoop(core, loop, links, context.lifeline, lambda report: page.report(report))
    health = HealthService()
    core.streams.serve(HEALTH_WATCH, health.open_watch)
    shared = GrpcShared(gateway, all_methods(METHODS, STREAM_METHODS), context.config.limits, health)

    def samples() -> Iterator[Sample]:
        yield from view.samples()
        yield from door_samples(shared)

    page = MetricsPage(core.metrics, samples)
    storage_version = ETCD_VERSION.rpartition(".")[0] + ".0"
    view = NodeView(gateway, core, context.identity, page, (ETCD_VERSION, storage_version))

    def make_app() -> AsgiApp:
        from gateway.http_app import build_app
        from gateway.json_gateway import JsonGateway

        http = context.config.http
        app: AsgiApp = build_app(view, JsonGateway(shared))
        with_json = nameless(app, lambda: core.access.enabled)
        served = with_json if http.json_gateway else without(app, PAGES_OF_JSON)
        return guard(served, http.allowed_origins, http.allowed_hosts)

    http1 = HttpStack(loop, make_app)
    limits = context.config.limits
    tls = open_tls(context.node, context.data_dir, core.metrics)
    for address in context.node.client_listeners:
        secured = tls if address.secure else None
        gateway.doors.append(ClientDoor(gateway, door_name(address), shared, http1, limits, tls=secured))
    if context.node.metrics_listeners:
        pages = HttpStack(loop, lambda: only(make_app(), PAGES_OF_METRICS))
        no_calls = GrpcShared(gateway, {}, limits, health)
        for address in context.node.metrics_listeners:
            secured = tls if address.secure else None
            gateway.doors.append(ClientDoor(gateway, door_name(address), no_calls, pages, limits, tls=secured))
    if context.node.zmq:
        gateway.doors.append(
            ZmqDoor(gateway, zmq_context, context.identity, context.config, context.node.zmq, core.metrics, curve)
        )
    tune_garbage_collection()
    halt = gateway.run()
    if curve is not None:
        curve.close()
    zmq_context.term()
    loop.close()
    return 1 if halt.failed else 0
