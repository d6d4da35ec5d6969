"""Runs the endpoint: the address, uvicorn, and the one assistant behind it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import uvicorn
from fastapi import FastAPI

from appliance.config import ServeSection
from appliance.context import Context
from appliance.events import Sink
from appliance.inference import Assistant
from appliance.serving.access import TOKEN_VARIABLE, is_loopback, read_token
from appliance.serving.app import create_app
from appliance.serving.line import Line
from federation.errors import ConfigError, InputError

_SHUTDOWN_SECONDS = 5
_CONNECTIONS = 64


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError when the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise InputError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another --host or --port, or stop what listens there.",
        ) from error
    return listener


def serve(
    context: Context, settings: ServeSection, sink: Sink, ready: Callable[[str, int], None]
) -> None:
    """Serve until SIGINT or SIGTERM; an answer under way has five seconds to end.

    ``ready`` is told host and port once questions can be asked. Raises ConfigError where others
    than this machine could ask without a token, and whatever loading the base model raises.
    """
    token = read_token(settings.token_file)
    if token is None and not is_loopback(settings.host):
        raise ConfigError(
            f"Without a token nothing may listen on {settings.host}: others could ask too.",
            hint=f"Set token_file in [serve], or {TOKEN_VARIABLE}; or listen on 127.0.0.1.",
        )
    line = Line(Assistant(context, sink), waiting=settings.waiting)
    with bind(settings.host, settings.port) as listener, closing(line):
        host, port = listener.getsockname()[:2]
        line.load()

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            ready(host, port)
            yield
            # While the loop still runs: the thread tells it of the last answer.
            await asyncio.to_thread(line.close)

        app = create_app(
            line, context.paths, hosts=settings.host_names, token=token, lifespan=lifespan
        )
        logging.basicConfig(level=logging.WARNING)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])
