"""`rtmdet serve`: the models of a repository over HTTP, until a signal comes."""

import logging
import os
import socket
from typing import Annotated

import typer

from service.access.gate import Gate
from service.commands.options import Repository
from service.detector import Detector
from service.logs import configure_logs
from service.settings import Settings, SettingsError, load_settings
from service.wiring import build_detector, build_gate, choose_tracing


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
    tracing = choose_tracing(settings)
    # Before the models are loaded: what is wrong with keys or port is known at once.
    gate = build_gate(settings)
    listener = _listen(settings)
    run_server(build_detector(settings, tracing), gate, settings, listener)


def run_server(detector: Detector, gate: Gate, settings: Settings, listener: socket.socket) -> None:
    """Serve those whom `gate` admits, on a bound socket, until a signal comes."""
    import uvicorn

    from service.http_api.app import create_app

    config = uvicorn.Config(
        create_app(
            detector,
            max_buffered_bytes=settings.max_buffered_bytes,
            access_log=settings.access_log,
            gate=gate,
        ),
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        # None is served, and the library for them logs headers, keys among them, when it debugs.
        ws="none",
        # A client that does not read its answer must not keep the server from ending.
        timeout_graceful_shutdown=settings.request_timeout_ms // 1000 + 5,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger(__name__).info("ready: http://%s:%d/detect, /docs", shown, port)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: until the models are loaded, connections are refused
    and do not wait for an answer."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((settings.host, settings.port))
        return listener
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; "
            "choose another --host or --port"
        ) from error
