"""Errors in OpenAI's format (https://platform.openai.com/docs/guides/error-codes)."""

from __future__ import annotations

from typing import Any

from federation.errors import BackendError, FedMedError, InputError

_RETRY_SECONDS = 10


class Problem(Exception):
    """What went wrong, as a program's client library understands it.

    ``kind`` and ``code`` are OpenAI's words; ``param`` names the request's field.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body: dict[str, Any] = {"error": error}
        """The body of the answer, or the last event of a stream."""


def problem_of(error: FedMedError) -> Problem:
    """The appliance's own error for the program that asked."""
    message = f"{error} {error.hint}".strip()
    if isinstance(error, InputError):
        return Problem(400, message, code=error.slug)
    if isinstance(error, BackendError):
        later = {"Retry-After": str(_RETRY_SECONDS)}
        return Problem(503, message, "server_error", code=error.slug, headers=later)
    return Problem(500, message, "server_error", code=error.slug)
