"""The paths of ``appliance serve``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from appliance import adapters
from appliance.inference import Watch
from appliance.paths import Paths
from appliance.serving.access import Access
from appliance.serving.answers import Answers, Completion
from appliance.serving.line import Line
from appliance.serving.problems import Problem, problem_of
from appliance.serving.requests import parse
from federation.errors import FedMedError, StorageError

MAX_BODY = 1 << 20
"""Largest request, in bytes."""
_CLIENT_GONE = 499

T = TypeVar("T")
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    line: Line, paths: Paths, *, hosts: Collection[str], token: str | None, lifespan: Lifespan
) -> FastAPI:
    """The application; ``hosts`` are further names under which it is reached."""
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.add_middleware(Access, hosts=hosts, token=token)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(FedMedError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_routing)
    app.add_exception_handler(Exception, _answer_unforeseen)
    answers = Answers()

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        names = adapters.choices(paths)
        return {"object": "list", "data": [_model(paths, name) for name in names]}

    @app.get("/v1/models/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        _check_model(paths, name)
        return _model(paths, name)

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        asked = parse(await _read_body(request))
        _check_model(paths, asked.model)
        watch = Watch()
        completion = Completion(asked.model, watch, answers)
        conversation = answers.without_notices(asked.conversation)
        events = line.answer(asked.model, conversation, asked.options, watch)
        if not asked.stream:
            return JSONResponse(await _while_connected(request, completion.whole(events)))
        # Until something is released, an error still has its own status.
        first = await _while_connected(request, _first(events))
        pieces = completion.pieces(first, events, wants_usage=asked.wants_usage)
        return _EventStream(pieces, watch)

    return app


class _EventStream(StreamingResponse):
    """Server-sent events; where the client goes away, the answer ends with them."""

    def __init__(self, pieces: AsyncIterator[str], watch: Watch) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watch.stop()


async def _read_body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Pages of other origins may send any other type without asking first.
        raise Problem(415, "The request must have Content-Type: application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Problem(413, f"The request has more than {MAX_BODY} bytes.")
    return body


async def _first(events: AsyncIterator[T]) -> T:
    return await anext(events)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client goes away."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Problem(_CLIENT_GONE, "The client went away.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # The next reader of the connection must not find this one still waiting there.
        await asyncio.wait({task, gone})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_model(paths: Paths, name: str) -> None:
    names = adapters.choices(paths)
    if name not in names:
        raise Problem(
            404,
            f"There is no model {name!r} here; there are {', '.join(names)}.",
            code="model_not_found",
            param="model",
        )


def _model(paths: Paths, name: str) -> dict[str, Any]:
    try:
        stored = adapters.find(paths, name)
        created = int(stored.weights.stat().st_mtime) if stored else 0
    except OSError as error:
        raise StorageError(f"The adapter {name} cannot be read: {error.strerror}.") from error
    return {"id": name, "object": "model", "created": created, "owned_by": "fedmed"}


def _response(problem: Problem) -> Response:
    return JSONResponse(problem.body, problem.status, problem.headers)


def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _response(error)


def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FedMedError)
    return _response(problem_of(error))


def _answer_routing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _response(
        Problem(error.status_code, f"{error.detail}.", headers=dict(error.headers or {}))
    )


def _answer_unforeseen(_: Request, __: Exception) -> Response:
    # The process's outermost edge: the caller learns nothing, the log gets the traceback.
    return _response(Problem(500, "The server failed; its log says why.", "server_error"))
