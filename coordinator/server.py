"""``coordinator serve``: uvicorn over TLS, and a thread that moves the round on."""

from __future__ import annotations

import ctypes
import logging
import resource
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from coordinator.api import create_app
from coordinator.certificates import TlsFiles
from coordinator.closing import advance
from coordinator.config import CoordinatorConfig
from coordinator.context import Coordinator
from coordinator.deadlines import DeadlineProtocol
from coordinator.events import Emit
from coordinator.metrics import metrics_listener
from coordinator.paths import Paths
from coordinator.planning import follow_plan
from coordinator.sweeping import Sweeper
from federation.errors import FedMedError, InputError
from federation.signing import fingerprint

_TICK_SECONDS = 1.0
_REST_SECONDS = 0.02
_REST_LOOKS = 4
"""Between two looks, however many updates arrive, as many times as long as a look takes: with
hundreds of hospitals each costs."""
_SHUTDOWN_SECONDS = 10
_KEEP_ALIVE_SECONDS = 30
_FILES = 8192
_THREADS = 8
"""Calls worked on at once. Their writes queue for the disk anyway, and with more of them the event
loop waits for its turn among them."""
_M_ARENA_MAX = -8  # malloc.h
_UNFORESEEN_HINT = "This is a defect of fedmed: report it with this line."


class Ticker(threading.Thread):
    """Moves the newest round on and opens those planned, beside the event loop.

    It looks once a second, and soon after an update has arrived.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(name="rounds", daemon=True)
        self._coordinator = replace(coordinator, awake_since=coordinator.clock())
        self._identity = coordinator.identity
        self._woken = threading.Event()
        self._ended = False
        self._last_problem = ""

    def run(self) -> None:
        """Advance until stopped; a problem is logged when it appears, and tried again.

        This is the thread's outermost edge: if any error ended it, no round would move again.
        """
        looked = 0.0
        while self._rested(min(_TICK_SECONDS, max(_REST_SECONDS, _REST_LOOKS * looked))):
            begun = time.monotonic()
            try:
                newest = self._coordinator.store.rounds.newest()
                if newest is not None:
                    advance(self._coordinator, newest.number)
                follow_plan(self._coordinator)
                self._say_new_keys()
                self._last_problem = ""
            except FedMedError as error:
                self._stuck(str(error), error.hint)
            except Exception as error:
                self._stuck(f"{type(error).__name__}: {error}", _UNFORESEEN_HINT)
            looked = time.monotonic() - begun

    def _say_new_keys(self) -> None:
        """A command has replaced the coordinator's keys; this process signs by them already."""
        identity = self._coordinator.identity
        if identity is not self._identity:
            self._identity = identity
            shown = fingerprint(identity.public())
            self._coordinator.emit("signing_rotated", fingerprint=shown)

    def _rested(self, least: float) -> bool:
        """Wait until it is time to look; False when it is time to end."""
        time.sleep(least)
        self._woken.wait(_TICK_SECONDS - least)
        self._woken.clear()
        return not self._ended

    def _stuck(self, reason: str, hint: str) -> None:
        if reason != self._last_problem:
            self._last_problem = reason
            self._coordinator.emit("round_stuck", reason=reason, hint=hint)

    def wake(self) -> None:
        """Look now: an update has arrived."""
        self._woken.set()

    def stop(self, seconds: float) -> None:
        """End after the step under way, and wait at most so long for it."""
        self._ended = True
        self._woken.set()
        self.join(seconds)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError when the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Only listening finds out that another process listens there.
        listener.listen(2048)
    except OSError as error:
        raise InputError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another --host or --port, or stop what listens there.",
        ) from error
    return listener


class _LogEvents(logging.Handler):
    """Turns what libraries log into events, one line each, tracebacks included."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._emit("log", level=record.levelname, message=record.getMessage(), traceback=trace)


def _tls_context(_: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def serve(
    coordinator: Coordinator,
    paths: Paths,
    config: CoordinatorConfig,
    listener: socket.socket,
    tls: TlsFiles,
) -> None:
    """Serve until SIGINT or SIGTERM; requests and the round's step under way may finish.

    They have ten seconds each. What is cut off then is not acknowledged, and goes on after the
    next start. Raises InputError when the certificate does not fit its key, or when the address of
    the metrics is taken.
    """
    app = create_app(coordinator, lambda app: _background(app, paths, listener))
    emit: Emit = app.state.coordinator.emit
    served = _configuration(app, coordinator, tls)
    logging.getLogger().addHandler(_LogEvents(emit))
    try:
        served.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{tls.certificate} and {tls.key} cannot be used for TLS: {error}.",
            hint="tls_cert holds the chain and tls_key its key, both PEM, unencrypted.",
        ) from error
    # uvicorn raises the signal again when it has ended by it: that end is none of a failure.
    signal.signal(signal.SIGTERM, _end)
    _allow_files()
    _share_heaps()
    with metrics_listener(app.state.metrics, config.metrics, emit):
        uvicorn.Server(served).run(sockets=[listener])


def _allow_files() -> None:
    """Every connection is an open file, and while it aggregates every update too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _share_heaps() -> None:
    """Let glibc's threads share two heaps: of one each, what was freed stays with the process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def _end(*_: object) -> None:
    raise SystemExit(0)


@asynccontextmanager
async def _background(app: FastAPI, paths: Paths, listener: socket.socket) -> AsyncIterator[None]:
    """What runs beside the application."""
    coordinator: Coordinator = app.state.coordinator
    to_thread.current_default_thread_limiter().total_tokens = _THREADS
    sweeper, ticker = Sweeper(coordinator, paths), Ticker(coordinator)
    sweeper.start()
    ticker.start()
    app.state.background = ticker
    app.state.metrics.federation.background = ticker
    host, port = listener.getsockname()[:2]
    coordinator.emit("serving", federation=coordinator.federation, host=host, port=port)
    yield
    for thread in (ticker, sweeper):
        thread.stop(_SHUTDOWN_SECONDS)
        if thread.is_alive():
            coordinator.emit("cut_off", thread=thread.name)
    coordinator.emit("stopped")


def _configuration(app: FastAPI, coordinator: Coordinator, tls: TlsFiles) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        ssl_context_factory=_tls_context,
        http=DeadlineProtocol,
        loop="coordinator.deadlines:DeadlineLoop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=coordinator.limits.connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
