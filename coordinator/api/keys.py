"""``POST /v1/keys``: a member asks for new keys."""

from __future__ import annotations

from fastapi import APIRouter, Response

from coordinator import rotation
from coordinator.api.calls import answer, parse
from coordinator.api.documenting import SIGNED, answered, takes
from coordinator.api.rounds import SignedJson
from federation.membership import EnrolmentAnswer
from federation.rotation import RotationRequest

router = APIRouter(prefix="/v1", responses=SIGNED)


@router.post(
    "/keys",
    responses=answered(EnrolmentAnswer, "The new keys' fingerprint"),
    openapi_extra=takes(RotationRequest),
)
def post_keys(call: SignedJson) -> Response:
    """Note the keys that a member wants in place of its present ones."""
    request = parse(RotationRequest, call.body)
    return answer(rotation.ask(call.coordinator, call.member, request))
