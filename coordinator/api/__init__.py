"""The coordinator's HTTP interface: one application over the services."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI

from coordinator.api import (
    adapters,
    documenting,
    enrolments,
    health,
    keys,
    log,
    problems,
    rounds,
    uploads,
)
from coordinator.api.observing import Observed
from coordinator.context import Coordinator
from coordinator.limits import Limits
from coordinator.metrics import Metrics

_HEAVY_CALLS = 4
"""Parts and commits worked on at once, so that they do not take all threads from short calls."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What runs beside the application, from its start to its end."""


def create_app(coordinator: Coordinator, lifespan: Lifespan | None = None) -> FastAPI:
    """The application for one coordinator; its ``state`` holds that and what belongs to the app."""
    metrics = Metrics(coordinator)
    coordinator = replace(coordinator, emit=metrics.counting(coordinator.emit))
    app = _routed(lifespan)
    app.state.coordinator = coordinator
    app.state.limits = Limits(coordinator.limits)
    app.state.metrics = metrics
    app.state.background = None
    app.state.heavy = CapacityLimiter(_HEAVY_CALLS)
    app.add_middleware(Observed, emit=coordinator.emit, metrics=metrics)
    problems.install(app)
    return app


def _routed(lifespan: Lifespan | None = None) -> FastAPI:
    app = FastAPI(
        title="FedMed coordinator",
        version=version("fedmed"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for module in (enrolments, keys, rounds, uploads, adapters, log, health):
        app.include_router(module.router)
    return app


def openapi() -> dict[str, Any]:
    """The OpenAPI document of every coordinator of this version."""
    return documenting.complete(_routed())
