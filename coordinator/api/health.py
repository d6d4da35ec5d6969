"""``/healthz`` and ``/readyz``: is the process alive, and can it do its work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response

from coordinator.api.calls import peer
from coordinator.api.documenting import refused, text
from coordinator.context import Coordinator
from coordinator.errors import NotReady
from federation.errors import StorageError

router = APIRouter()


@router.get("/healthz", response_class=Response, responses=text("It is alive"))
async def get_health() -> Response:
    """The process answers."""
    return Response("ok\n", media_type="text/plain")


@router.get(
    "/readyz", response_class=Response, responses=text("It can do its work") | refused(429, 503)
)
def get_readiness(request: Request) -> Response:
    """Database and disk take writes and rounds move on; else 503 says all that does not."""
    # It writes to the disk, for anybody who asks.
    request.app.state.limits.charge_address(peer(request))
    if failures := list(_failures(request.app.state.coordinator, request.app.state.background)):
        raise NotReady(" ".join(failures))
    return Response("ready\n", media_type="text/plain")


def _failures(coordinator: Coordinator, background: threading.Thread | None) -> Iterator[str]:
    if background is not None and not background.is_alive():
        yield "rounds: they are not moved on any more; restart the coordinator."
    try:
        coordinator.store.database.check_writable()
    except StorageError as error:
        yield f"database: {error}"
    try:
        coordinator.blobs.require_space(0)
    except StorageError as error:
        yield f"disk: {error}"
