"""A coordinator's HTTP application in this process, behind a network that loses and repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import httpx2
from fastapi import FastAPI


class Crash(BaseException):
    """The coordinator's process ends here: nothing may catch it on its way out."""


class Fault(Enum):
    """What the network does to one request."""

    NONE = "none"
    DROP_REQUEST = "drop request"
    DROP_RESPONSE = "drop response"
    DUPLICATE = "duplicate"
    DELAY = "delay"


@dataclass(frozen=True)
class Sent:
    """One request as it went over the wire, and the status of its answer; 0 where none came."""

    request: httpx2.Request
    status: int


Observer = Callable[[httpx2.Request, httpx2.Response], None]


class InProcess(httpx2.BaseTransport):
    """Carries requests to ``app``; sync handlers run in threads, as in the real server.

    Errors that the application answers with 500 come out too where ``raise_errors``.
    """

    def __init__(self, app: FastAPI, *, raise_errors: bool = True) -> None:
        self.app = app
        self._raise_errors = raise_errors
        self._runner = asyncio.Runner()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request; what the application raises comes out here."""
        return self._runner.run(self._answer(request))

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = request.read()
        parts = urlsplit(str(request.url))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": parts.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 9443),
        }
        pending = [{"type": "http.request", "body": body, "more_body": False}]
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pending:
                await asyncio.Event().wait()  # the peer stays until it has its answer
            return pending.pop()

        async def send(message: Any) -> None:  # noqa: ANN401  starlette's own
            messages.append(message)

        try:
            await self.app(scope, receive, send)
        except Exception:
            if self._raise_errors or not messages:
                raise
        start = messages[0]
        content = b"".join(message.get("body", b"") for message in messages[1:])
        response = httpx2.Response(
            start["status"], headers=start["headers"], content=content, request=request
        )
        response.elapsed = timedelta(0)
        return response


@dataclass
class Network(httpx2.BaseTransport):
    """A transport whose next request suffers ``fault``; every signed one can be sent again."""

    inner: InProcess
    restart: Callable[[], None]
    observe: Observer
    fault: Fault = Fault.NONE
    history: list[Sent] = field(default_factory=list)
    late: list[httpx2.Request] = field(default_factory=list)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Carry a request, or not. Raises httpx2.ConnectError or ReadError where it got lost."""
        request.read()
        fault, self.fault = self.fault, Fault.NONE
        if fault is Fault.DROP_REQUEST:
            raise httpx2.ConnectError("the request was dropped", request=request)
        if fault is Fault.DELAY:
            self.late.append(request)
            raise httpx2.ReadTimeout("the request is still under way", request=request)
        response = self.carry(request)
        if fault is Fault.DUPLICATE:
            again = self.carry(request)
            assert "signature" not in request.headers or again.status_code == 401, again.text
        if fault is Fault.DROP_RESPONSE:
            raise httpx2.ReadError("the response was dropped", request=request)
        return response

    def carry(self, request: httpx2.Request) -> httpx2.Response:
        """Bring the bytes to the coordinator. Raises httpx2.ReadError when it crashes over them."""
        try:
            response = self.inner.handle_request(request)
        except Crash as crash:
            self.restart()
            self._remember(request, 0)
            raise httpx2.ReadError("the coordinator crashed", request=request) from crash
        self._remember(request, response.status_code)
        self.observe(request, response)
        return response

    def _remember(self, request: httpx2.Request, status: int) -> None:
        if "signature" in request.headers:
            self.history.append(Sent(request, status))
