"""Uploads: announce, ask where one stands, send parts, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Request, Response

from coordinator import uploads
from coordinator.api.calls import OCTETS, PART_LIMIT, Call, answer, parse, signed
from coordinator.api.documenting import SIGNED, answered, refused, takes, takes_octets
from coordinator.api.rounds import Number, Signed, SignedJson
from coordinator.limits import Limits
from coordinator.succession import present
from federation.messages import LARGEST_UPLOAD, UploadRequest, UploadStatus
from federation.signing import SignedDocument

_T = TypeVar("_T")

router = APIRouter(prefix="/v1", responses=SIGNED)

UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, le=LARGEST_UPLOAD)]
SignedPart = Annotated[Call, Depends(signed(PART_LIMIT, OCTETS))]


@router.post(
    "/rounds/{number}/uploads",
    responses=answered(UploadStatus, "Where the upload stands", 200, 201) | refused(404, 409, 410),
    openapi_extra=takes(UploadRequest),
)
def post_upload(number: Number, call: SignedJson) -> Response:
    """Announce a sealed update; 201, or 200 when it is known."""
    request = parse(UploadRequest, call.body)
    status, created = uploads.announce(call.coordinator, call.member, number, request)
    return answer(status, status=201 if created else 200)


@router.head("/uploads/{upload_id}", response_class=Response, responses=refused(404))
def head_upload(upload_id: UploadId, call: Signed) -> Response:
    """How many bytes of the body are durable."""
    status = uploads.status(call.coordinator, call.member, upload_id)
    headers = {
        "Upload-Offset": str(status.offset),
        "Upload-Length": str(status.length),
        "Cache-Control": "no-store",
    }
    return Response(headers=headers)


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    responses=refused(404, 409, 410),
    openapi_extra=takes_octets(),
)
async def patch_upload(
    upload_id: UploadId, offset: Offset, call: SignedPart, request: Request
) -> Response:
    """Append one part; answered when it is durable."""
    status = await _heavily(
        request,
        lambda: uploads.append(call.coordinator, call.member, upload_id, offset, call.body),
    )
    return Response(status_code=204, headers={"Upload-Offset": str(status.offset)})


@router.post(
    "/uploads/{upload_id}/commit",
    responses=answered(SignedDocument, "A signed Receipt") | refused(404, 409, 410),
)
async def post_commit(upload_id: UploadId, call: Signed, request: Request) -> Response:
    """Verify the whole update; the signed receipt says accepted, or refused and why."""
    limits: Limits = request.app.state.limits

    def commit() -> SignedDocument:
        with limits.commits.one(upload_id):
            receipt = uploads.commit(call.coordinator, call.member, upload_id)
            return present(call.coordinator, receipt, "receipt")

    receipt = await _heavily(request, commit)
    if (background := request.app.state.background) is not None:
        background.wake()  # this update may be the last one that the round waits for
    return answer(receipt)


async def _heavily(request: Request, act: Callable[[], _T]) -> _T:
    """Do it in one of the few threads for large things: short calls have threads of their own."""
    return await to_thread.run_sync(act, limiter=request.app.state.heavy)
