"""``GET /v1/adapters/{sha256}``: immutable, resumable by Range."""

from __future__ import annotations

import re

from fastapi import APIRouter, Response
from starlette.responses import FileResponse

from coordinator.api.documenting import SIGNED, octets, refused
from coordinator.api.rounds import Digest, Signed
from coordinator.errors import BadRange, NoSuchRound

router = APIRouter(prefix="/v1", responses=SIGNED)


class _AdapterResponse(FileResponse):
    """A file in larger pieces, each of which is read in a thread."""

    chunk_size = 256 << 10


_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


@router.get(
    "/adapters/{sha256}",
    response_class=Response,
    responses=octets("A safetensors file, or the part that Range asks for", 200, 206)
    | refused(404, 416),
)
def get_adapter(sha256: Digest, call: Signed) -> Response:
    """A global adapter by digest, whole or from one byte to another."""
    path = call.coordinator.blobs.adapter(sha256)
    if not path.is_file():
        raise NoSuchRound(f"There is no adapter {sha256}.")
    stat = path.stat()
    if (wanted := call.head.headers.get("range")) is not None:
        found = _RANGE.fullmatch(wanted)
        start, end = (int(found[1]), int(found[2] or stat.st_size)) if found else (1, 0)
        if start > end or start >= stat.st_size:
            raise BadRange.of(stat.st_size)
    return _AdapterResponse(
        path,
        media_type="application/octet-stream",
        stat_result=stat,
        headers={"ETag": f'"{sha256}"', "Cache-Control": "private, immutable, max-age=31536000"},
    )
