"""`rtmdet serve`: the models of a repository over HTTP, until a signal comes."""

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Annotated

import typer

from model.repository import ModelRepository
from service.access.gate import Gate
from service.commands.options import Repository
from service.detector import Detector
from service.http_api.draining import Draining
from service.http_api.serving.stopping import StoppedEarly, StopSignals
from service.http_api.serving.tls import ServerTls, tls_files
from service.listening import bound_socket, reason_of
from service.logs import configure_logs
from service.settings import Settings, SettingsError, load_settings
from service.wiring import build_detector, build_gate, choose_tracing

logger = logging.getLogger(__name__)

_SWITCH_S = 0.0005


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    repository: Repository = None,
    default_model: Annotated[
        str | None, typer.Option(help="Answers requests that name no model.")
    ] = None,
) -> None:
    """Serve the models of a repository over HTTP until stopped."""
    settings = load_settings(
        host=host, port=port, model_repository=repository, default_model=default_model
    )
    configure_logs(settings.log_level, settings.log_format)
    stopping = StopSignals()
    stopping.install()
    tracing = choose_tracing(settings)
    # Before the models are loaded: what is wrong is known at once. The repository comes first, for
    # whoever is in another folder than they think has more to mend than a port.
    ModelRepository(settings.model_repository).require()
    gate = build_gate(settings)
    listener = _listen(settings)
    files = tls_files(settings)
    tls = None if files is None else ServerTls(files)
    try:
        detector = stopping.unless_stopped(lambda: build_detector(settings, tracing))
    except StoppedEarly:
        logger.info("%s: stopped before the models were loaded", stopping.name)
        logging.shutdown()
        # Not by sys.exit: the thread that loads may be in native code, which nothing interrupts.
        os._exit(0)
    if run_server(detector, gate, settings, listener, stopping=stopping, tls=tls):
        raise typer.Exit(1)


def run_server(
    detector: Detector,
    gate: Gate,
    settings: Settings,
    listener: socket.socket,
    *,
    stopping: StopSignals,
    tls: ServerTls | None = None,
) -> int:
    """Serve those whom `gate` admits, on a bound socket, until a signal comes.

    Gives how many requests were cut off at the end.
    """
    import uvicorn

    from service.http_api.app import create_app
    from service.http_api.serving.limits import connection_limits
    from service.http_api.serving.server import Ending, GracefulServer

    draining = Draining()
    config = uvicorn.Config(
        create_app(
            detector,
            max_buffered_bytes=settings.max_buffered_bytes,
            access_log=settings.access_log,
            gate=gate,
            body_timeout_s=settings.body_timeout_ms / 1000,
            draining=draining,
        ),
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        lifespan="on",
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        # None is served; one would be a connection without limits, and the library for them logs
        # headers, keys among them, when it debugs.
        ws="none",
        # uvicorn by itself believes everybody on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    server = GracefulServer(
        config,
        limits=connection_limits(settings),
        ending=Ending(settings.drain_delay_ms / 1000, settings.request_timeout_ms / 1000),
        is_trusted=_membership(settings.trusted_proxies),
        tls=tls,
        draining=draining,
        stopping=stopping,
    )
    _settle_interpreter()
    server.run(sockets=[listener])
    return server.num_cut


def _settle_interpreter() -> None:
    """Have threads wait less for each other, once everything is loaded."""
    # A thread that wants the interpreter waits so long before it asks for it; the usual 5 ms are
    # half of what a small picture takes.
    sys.setswitchinterval(_SWITCH_S)
    # What is there stays. To look through all of it for garbage stops every thread for 0.1 s.
    gc.collect()
    gc.freeze()


def _membership(networks: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether an address is in one of the networks."""
    parsed = [ip_network(network) for network in networks]

    def contains(address: str) -> bool:
        return bool(parsed) and any(ip_address(address) in network for network in parsed)

    return contains


def _listen(settings: Settings) -> socket.socket:
    """Bound, and not listening yet: until the models are loaded, connections are refused and do
    not wait for an answer."""
    try:
        return bound_socket(settings.host, settings.port)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason_of(error)}; "
            "choose another --host or --port"
        ) from error
