"""Rounds: descriptor, record, roster; heartbeats and evaluations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from coordinator.api.calls import JSON, JSON_LIMIT, Call, answer, parse, signed
from coordinator.api.documenting import SIGNED, answered, empty, refused, takes
from coordinator.errors import NoSuchRound
from coordinator.review import quarantine_of
from coordinator.rounds import State
from coordinator.store.round_row import RoundRow
from coordinator.succession import present
from coordinator.uploads import open_round
from federation.errors import RoundError
from federation.messages import CurrentRound, EvaluationReport, ProgressReport
from federation.signing import SignedDocument

router = APIRouter(prefix="/v1", responses=SIGNED)

Number = Annotated[int, Path(ge=1, le=1_000_000)]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Signed = Annotated[Call, Depends(signed())]
SignedJson = Annotated[Call, Depends(signed(JSON_LIMIT, JSON))]


@router.get("/rounds/current", responses=answered(CurrentRound, "Number and state"))
def get_current(call: Signed) -> Response:
    """The newest round, and whether the caller has delivered."""
    store = call.coordinator.store
    row = store.rounds.newest()
    if row is None:
        return answer(CurrentRound(round=0, state="none", delivered=False))
    own = store.uploads.of_hospital(row.number, call.member.hospital)
    # An update that was left out is delivered too: it must not be sent again.
    delivered = any(upload.state in ("accepted", "excluded") for upload in own)
    current = CurrentRound(
        round=row.number,
        state=row.state.value,
        delivered=delivered,
        quarantine=quarantine_of(call.coordinator, row, own),
    )
    return answer(current)


@router.get(
    "/rounds/{number}",
    responses=answered(SignedDocument, "A signed RoundDescriptor")
    | empty(304, "If-None-Match names it")
    | refused(404),
)
def get_round(number: Number, call: Signed) -> Response:
    """The signed descriptor; its digest is the ETag."""
    document = present(call.coordinator, _existing(call, number).document, "descriptor")
    etag = f'"{document.body_sha256}"'
    if etag in call.head.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag})
    response = answer(document)
    response.headers["ETag"] = etag
    return response


@router.get(
    "/rounds/{number}/extension",
    responses=answered(SignedDocument, "A signed RoundExtension") | refused(404),
)
def get_extension(number: Number, call: Signed) -> Response:
    """The newest signed extension of a round, whose deadline holds instead of the descriptor's."""
    row = _existing(call, number)
    if row.extension is None:
        raise NoSuchRound(f"Round {number} was not extended.")
    return answer(present(call.coordinator, row.extension, "extension"))


@router.get(
    "/rounds/{number}/record",
    responses=answered(SignedDocument, "A signed RoundRecord") | refused(404),
)
def get_record(number: Number, call: Signed) -> Response:
    """The signed record of a round that is over."""
    row = _existing(call, number)
    if row.record is None:
        raise NoSuchRound(f"Round {number} is {row.state.value}; its record is not there yet.")
    return answer(present(call.coordinator, row.record, "record"))


@router.get(
    "/rosters/{sha256}", responses=answered(SignedDocument, "A signed Roster") | refused(404)
)
def get_roster(sha256: Digest, call: Signed) -> Response:
    """A signed roster by the digest that a descriptor names."""
    document = call.coordinator.store.members.roster_by_digest(sha256)
    if document is None:
        raise NoSuchRound(f"There is no roster {sha256}.")
    return answer(document)


@router.post(
    "/rounds/{number}/progress",
    status_code=204,
    responses=refused(404, 410),
    openapi_extra=takes(ProgressReport),
)
def post_progress(number: Number, call: SignedJson) -> Response:
    """Note a heartbeat of an open round."""
    report = parse(ProgressReport, call.body)
    open_round(call.coordinator, number)
    reports = call.coordinator.store.reports
    reports.beat(number, call.member.hospital, report, call.coordinator.clock())
    return Response(status_code=204)


@router.post(
    "/rounds/{number}/evaluations",
    status_code=204,
    responses=refused(404, 409),
    openapi_extra=takes(EvaluationReport),
)
def post_evaluation(number: Number, call: SignedJson) -> Response:
    """Note the held-out loss of the adapter that a round published."""
    report = parse(EvaluationReport, call.body)
    if (row := _existing(call, number)).state is not State.PUBLISHED:
        raise RoundError(f"Round {number} is {row.state.value}; it has no published adapter.")
    reports = call.coordinator.store.reports
    reports.evaluate(number, call.member.hospital, report, call.coordinator.clock())
    return Response(status_code=204)


def _existing(call: Call, number: int) -> RoundRow:
    row = call.coordinator.store.rounds.get(number)
    if row is None:
        raise NoSuchRound(f"There is no round {number}.")
    return row
