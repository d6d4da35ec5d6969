"""Every error as an RFC 9457 problem document; bad input never becomes a 500."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from coordinator.errors import BadRange, TooManyRequests, TooSlow, WrongOffset
from federation.errors import PROBLEM_PREFIX, FedMedError, InputError
from federation.messages import Problem


def _response(
    request: Request,
    slug: str,
    status: int,
    detail: str,
    hint: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    # For the event log, which repeats what the caller is told.
    request.state.reason, request.state.detail = slug, detail
    problem = Problem(
        type=PROBLEM_PREFIX + slug,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        hint=hint,
    )
    return Response(
        problem.to_json(),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, FedMedError)
    headers: dict[str, str] = {}
    if isinstance(error, WrongOffset):
        headers["Upload-Offset"] = str(error.offset)
    if error.retry_after:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, TooManyRequests):
        request.state.limited = error.by
    if isinstance(error, TooSlow):
        # What is left of the body would be waited for otherwise.
        headers["Connection"] = "close"
    if isinstance(error, BadRange):
        headers["Content-Range"] = f"bytes */{error.size}"
    return _response(request, error.slug, error.status, str(error), error.hint, headers)


def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Starlette's own: no such path (404), method not allowed (405).
    headers = dict(error.headers) if error.headers else None
    detail = f"{HTTPStatus(error.status_code).phrase}."
    return _response(request, InputError.slug, error.status_code, detail, headers=headers)


def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return _response(request, InputError.slug, InputError.status, f"{place}: {problem['msg']}.")


def _unforeseen(request: Request, error: Exception) -> Response:
    # The process's outermost edge: the caller learns nothing, the log gets the traceback.
    request.app.state.coordinator.emit("internal_error", error=type(error).__name__)
    return _response(request, FedMedError.slug, 500, "The coordinator failed; its log says why.")


def install(app: FastAPI) -> None:
    """Answer all errors of ``app`` as problem documents."""
    app.add_exception_handler(FedMedError, _known)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(Exception, _unforeseen)
