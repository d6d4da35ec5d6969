"""The audit log: signed checkpoints, entries, and proofs that nothing was rewritten."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from coordinator import audit
from coordinator.api.calls import answer
from coordinator.api.documenting import SIGNED, answered
from coordinator.api.rounds import Signed
from federation.log import ConsistencyProof, InclusionProof, LogEntries
from federation.signing import SignedDocument

router = APIRouter(prefix="/v1/log", responses=SIGNED)

Number = Annotated[int, Query(ge=0, le=1_000_000_000)]
Size = Annotated[int, Query(ge=1, le=1_000_000_000)]


@router.get("/checkpoint", responses=answered(SignedDocument, "A signed Checkpoint"))
def get_checkpoint(call: Signed) -> Response:
    """The signed root of the whole log."""
    return answer(audit.checkpoint(call.coordinator))


@router.get("/entries", responses=answered(LogEntries, "Entries as they were hashed"))
def get_entries(start: Number, end: Number, call: Signed) -> Response:
    """Entries from ``start`` to before ``end``; of many, as many as fit into one answer."""
    return answer(audit.entries(call.coordinator, start, end))


@router.get("/inclusion", responses=answered(InclusionProof, "A path of RFC 9162"))
def get_inclusion(index: Number, size: Size, call: Signed) -> Response:
    """The proof that the first ``size`` entries hold number ``index``."""
    return answer(audit.inclusion(call.coordinator, index, size))


@router.get("/consistency", responses=answered(ConsistencyProof, "A path of RFC 9162"))
def get_consistency(first: Size, second: Size, call: Signed) -> Response:
    """The proof that the first ``second`` entries begin with the ``first``."""
    return answer(audit.consistency(call.coordinator, first, second))
