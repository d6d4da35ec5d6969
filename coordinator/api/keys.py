"""Keys: ``POST /v1/keys``, a member asks for new ones; the coordinator's own, for anybody."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from coordinator import rotation
from coordinator.api.calls import answer, parse, peer
from coordinator.api.documenting import SIGNED, answered, refused, takes
from coordinator.api.rounds import SignedJson
from federation.membership import EnrolmentAnswer
from federation.rotation import RotationRequest
from federation.succession import SuccessionChain

router = APIRouter(prefix="/v1")


@router.post(
    "/keys",
    responses=answered(EnrolmentAnswer, "The new keys' fingerprint") | SIGNED,
    openapi_extra=takes(RotationRequest),
)
def post_keys(call: SignedJson) -> Response:
    """Note the keys that a member wants in place of its present ones."""
    request = parse(RotationRequest, call.body)
    return answer(rotation.ask(call.coordinator, call.member, request))


@router.get(
    "/coordinator-keys",
    responses=answered(SuccessionChain, "All successions, oldest first") | refused(429, 507),
)
def get_coordinator_keys(request: Request) -> Response:
    """Which keys took the place of the coordinator's founding ones, each signed by both and admin.

    Anybody may ask: a hospital has to know whom it talks to before it can be known there.
    """
    request.app.state.limits.charge_key_asker(peer(request))
    return answer(request.app.state.coordinator.store.successions.chain())
