"""Reading requests: capped, timed, of one media type; and authenticated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from coordinator.access import Head, authenticate, use_up
from coordinator.context import Coordinator
from coordinator.errors import TooLarge, TooSlow, UnsupportedMedia
from coordinator.limits import Limits
from federation.canonical import Message
from federation.errors import IdentityError, InputError
from federation.membership import Member
from federation.request_signing import verify_body

JSON = "application/json"
OCTETS = "application/octet-stream"
JSON_LIMIT = 64 << 10
PART_LIMIT = 8 << 20

_STALL_SECONDS = 20.0
_SLOWEST_BYTES_PER_SECOND = 16 << 10
"""Below this, counted from ``_STALL_SECONDS`` on, a body counts as a trickle."""

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True)
class Call:
    """A request signed by a member."""

    coordinator: Coordinator
    member: Member
    head: Head
    body: bytes


def read_head(request: Request, *, limit: int, media_type: str | None) -> Head:
    """All but the body, which needs ``media_type`` and may announce at most ``limit`` bytes.

    Raises TooLarge, UnsupportedMedia.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("Content-Encoding is not taken: adapters do not compress.")
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and given != media_type:
        raise UnsupportedMedia(f"The content type must be {media_type}.")
    announced = _announced(request, limit)
    if announced > limit:
        raise TooLarge(f"The body has {announced} bytes; at most {limit} are taken.")
    return Head(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        headers=headers,
    )


def _announced(request: Request, limit: int) -> int:
    """The body's length by its header; ``limit`` where none is given."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else limit


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most ``limit`` bytes. Raises TooLarge, TooSlow, InputError."""
    body = bytearray()
    clock = asyncio.get_running_loop().time
    begun = clock()
    try:
        async with asyncio.timeout(_STALL_SECONDS) as patience:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"The body has more than the {limit} bytes that are taken.")
                # What has come earns time for the rest; standing still ends it soon all the same.
                earned = begun + _STALL_SECONDS + len(body) / _SLOWEST_BYTES_PER_SECOND
                patience.reschedule(min(earned, clock() + _STALL_SECONDS))
        return bytes(body)
    except TimeoutError as error:
        raise TooSlow(
            f"The body stood still for {_STALL_SECONDS:.0f} s, or trickled at less than "
            f"{_SLOWEST_BYTES_PER_SECOND >> 10} KiB/s.",
            hint="Check the connection, then send it again.",
        ) from error
    except ClientDisconnect as error:
        raise InputError("The connection ended inside the body.") from error


def peer(request: Request) -> str:
    """The address that the request came from."""
    return request.client.host if request.client else ""


def signed(
    limit: int = 0, media_type: str | None = None
) -> Callable[[Request], AsyncIterator[Call]]:
    """A dependency: the caller is a member, and the request is not a replay.

    The body is read only after that, so that nobody else can make the coordinator hold one; but a
    part comes in while the disk remembers its nonce, and a replay's is dropped.
    """

    async def dependency(request: Request) -> AsyncIterator[Call]:
        coordinator: Coordinator = request.app.state.coordinator
        limits: Limits = request.app.state.limits
        limits.check_address(peer(request))
        head = read_head(request, limit=limit, media_type=media_type)
        with _charging(limits, request):
            caller = await run_in_threadpool(authenticate, coordinator, limits, head)

        async def used_up() -> Member:
            with _charging(limits, request):
                member = await run_in_threadpool(use_up, coordinator, caller)
            request.state.hospital = member.hospital
            return member

        if limit > JSON_LIMIT:
            with limits.parts.one(caller.signature.hospital):
                member, body = await _meanwhile(used_up(), read_body(request, limit))
                # Long enough to let others go on.
                await run_in_threadpool(verify_body, head.headers, body)
                yield Call(coordinator, member, head, body)
        else:
            member = await used_up()
            body = await read_body(request, limit)
            verify_body(head.headers, body)
            yield Call(coordinator, member, head, body)

    return dependency


@contextmanager
def _charging(limits: Limits, request: Request) -> Iterator[None]:
    """Let the address pay for a request that is no member's."""
    try:
        yield
    except IdentityError:
        limits.charge_address(peer(request))
        raise


async def _meanwhile(
    used_up: Awaitable[Member], reading: Coroutine[None, None, bytes]
) -> tuple[Member, bytes]:
    """The member and the body, which is dropped where there is no member."""
    task = asyncio.create_task(reading)
    # Nobody asks what became of a body that was dropped.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await used_up, await task
    finally:
        task.cancel()


def parse(model: type[_M], body: bytes) -> _M:
    """The message in a body. Raises InputError naming the field, never repeating the value."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{place or 'body'}: {problem['msg']}.") from error


def answer(message: Message, *, status: int = 200) -> Response:
    """A message as the response."""
    return Response(message.to_json(), status_code=status, media_type=JSON)
