"""Who may ask: host name, origin and token, checked before anything of a request is read."""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from collections.abc import Collection
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.serving.problems import Problem
from federation.errors import ConfigError

TOKEN_VARIABLE = "FEDMED_SERVE_TOKEN"
_SHORTEST_TOKEN = 16
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether only this machine's programs reach a server on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: str) -> str | None:
    """The token that programs must show: from the environment, else from ``file``, if named.

    Raises ConfigError when it is too short, or when others than the owner may read the file.
    """
    if token := os.environ.get(TOKEN_VARIABLE, ""):
        origin = TOKEN_VARIABLE
    elif file:
        origin = file
        path = Path(file).expanduser()
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigError(
                    f"Others than its owner may read the token in {path}.",
                    hint=f"chmod 600 {path}, and choose a new token.",
                )
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The token in {path} cannot be read: {error}.") from error
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii():
        raise ConfigError(
            f"The token in {origin} is not {_SHORTEST_TOKEN} or more ASCII characters.",
            hint="Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token


class Access:
    """ASGI middleware that lets only those in who may ask.

    A page of the web that points its own name at this machine (DNS rebinding) is known by the
    Host header, and one that posts across by its Origin; no answer allows other origins (CORS).
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str | None) -> None:
        self._app = app
        self._hosts = _LOOPBACK_NAMES | set(hosts)
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say why not."""
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))):
            response = JSONResponse(problem.body, problem.status, problem.headers)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _without_port(hosts[0]) not in self._hosts:
            return Problem(
                421,
                "This server does not answer under that host name.",
            )
        origin = headers.get("origin")
        if origin is not None and _without_port(origin.partition("://")[2]) not in self._hosts:
            return Problem(403, "Pages of other origins may not ask this server.")
        if self._token is not None and not self._is_known(headers.get("authorization", "")):
            return Problem(
                401,
                "The bearer token is missing or wrong.",
                "authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None

    def _is_known(self, authorization: str) -> bool:
        assert self._token is not None
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
