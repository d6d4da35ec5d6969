"""``POST /v1/enrolments``: the one call of a hospital that is no member yet."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from coordinator.api.calls import JSON, answer, parse, peer, read_body, read_head
from coordinator.api.documenting import UNSIGNED, answered, takes
from coordinator.enrolment import enrol
from federation.membership import EnrolmentAnswer
from federation.signing import SignedDocument

router = APIRouter()

_LIMIT = 16 << 10
"""Bytes of an enrolment's body, which is read before anybody is known; a real one has 10 KiB."""


@router.post(
    "/v1/enrolments",
    responses=answered(EnrolmentAnswer, "The keys' fingerprint") | UNSIGNED,
    openapi_extra=takes(SignedDocument),
)
async def post_enrolment(request: Request) -> Response:
    """Record a hospital's public keys under its token."""
    request.app.state.limits.charge_address(peer(request))
    read_head(request, limit=_LIMIT, media_type=JSON)
    document = parse(SignedDocument, await read_body(request, _LIMIT))
    return answer(await run_in_threadpool(enrol, request.app.state.coordinator, document))
