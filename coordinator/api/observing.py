"""Around every request: an id, its duration and bytes for the metrics, an event if it is refused.

Neither log nor metrics get a header's value, a body or a token: route, status, who, and the
problem document's own words.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.events import Emit
from coordinator.metrics import Metrics

_FIRST_REFUSAL = 400


class Observed:
    """ASGI middleware; ``emit`` gets one event for each answer of 400 and above."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        emit: Emit,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._emit = emit
        self._metrics = metrics
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        begun = self._monotonic()
        # What is never answered has failed.
        status = 500

        async def counted_receive() -> Message:
            message = await receive()
            self._metrics.received.inc(len(message.get("body", b"")))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            self._metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            self._finish(scope, request_id, status, self._monotonic() - begun)

    def _finish(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.request(route, scope["method"], status, seconds)
        if status < _FIRST_REFUSAL:
            return
        state = scope.get("state", {})
        reason = state.get("reason", "error")
        self._metrics.refused.labels(reason).inc()
        if by := state.get("limited"):
            self._metrics.limited.labels(by).inc()
        self._emit(
            "request_limited" if by else "request_refused",
            request=request_id,
            method=scope["method"],
            route=route,
            status=status,
            reason=reason,
            detail=state.get("detail"),
            hospital=state.get("hospital"),
            address=scope["client"][0] if scope.get("client") else None,
        )
