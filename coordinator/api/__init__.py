"""The coordinator's HTTP interface: one application over the services."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from coordinator.api import adapters, enrolments, health, log, problems, rounds, uploads
from coordinator.context import Coordinator
from coordinator.limits import Limits

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What runs beside the application, from its start to its end."""


def create_app(coordinator: Coordinator, lifespan: Lifespan | None = None) -> FastAPI:
    """The application for one coordinator."""
    app = FastAPI(
        title="FedMed coordinator",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.coordinator = coordinator
    app.state.limits = Limits(coordinator.limits)
    app.state.background = None
    problems.install(app)
    for module in (enrolments, rounds, uploads, adapters, log, health):
        app.include_router(module.router)
    return app
