"""Receiving sealed updates: announced, appended part by part, verified at commit."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.context import Coordinator
from coordinator.errors import NoSuchRound, TooManyUploads, WrongOffset
from coordinator.facts import facts_of
from coordinator.rounds import Action, State, decide
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from coordinator.verification import check_manifest, open_verified, signer_of
from federation.envelope import parse_manifest, verify_signatures
from federation.errors import AdapterError, EnvelopeError, RoundClosed, RoundError
from federation.membership import Member
from federation.messages import PayloadHeader, Receipt, UploadRequest, UploadStatus
from federation.signing import SignedDocument

_ACTIVE_PER_HOSPITAL = 2
_REFUSED_PER_HOSPITAL = 20
_ABANDONED_AFTER_SECONDS = 600
_LONGEST_REASON = 1000


def announce(
    coordinator: Coordinator, member: Member, number: int, request: UploadRequest
) -> tuple[UploadStatus, bool]:
    """Take note of a sealed update; answers where it stands and whether it is new.

    Raises RoundError and its leaves for the round, EnvelopeError for manifest and signatures,
    StorageError when the disk has no room for the body.
    """
    manifest = parse_manifest(request)
    known = coordinator.store.uploads.get(manifest.upload_id)
    if known is not None:
        return _same(known, member, request), False
    row = open_round(coordinator, number)
    signer = signer_of(coordinator, row.descriptor, member)
    check_manifest(row, signer, manifest)
    verify_signatures(request, signer.identity)
    new = UploadRow(
        upload_id=manifest.upload_id,
        round=number,
        hospital=member.hospital,
        request=request.to_json().decode(),
        body_length=manifest.body_length,
        touched_at=coordinator.clock(),
    )

    def admit(own: Sequence[UploadRow], lacking: int) -> str | None:
        replaced = _check_slots(coordinator, own)
        given_up = sum(u.body_length - u.offset for u in own if u.upload_id == replaced)
        coordinator.blobs.require_space(new.body_length + lacking - given_up)
        return replaced

    added, replaces = coordinator.store.uploads.add(new, admit)
    if replaces:
        coordinator.blobs.discard(replaces)
    return _same(added, member, request), added == new


def status(coordinator: Coordinator, member: Member, upload_id: str) -> UploadStatus:
    """Where the hospital's upload stands. Raises NoSuchRound for another's or unknown id."""
    return _status(_own(coordinator, member, upload_id))


def append(
    coordinator: Coordinator, member: Member, upload_id: str, offset: int, part: bytes
) -> UploadStatus:
    """Make a part durable. Raises WrongOffset, EnvelopeError when too long, StorageError."""
    with coordinator.blobs.appending:
        row = _own(coordinator, member, upload_id)
        open_round(coordinator, row.round)
        _check_active(row)
        if offset != row.offset:
            raise WrongOffset.at(row.offset)
        end = offset + len(part)
        if end > row.body_length:
            raise EnvelopeError(f"The part ends at {end}, after the body's {row.body_length}.")
        coordinator.blobs.append(upload_id, offset, part)
        if not coordinator.store.uploads.advance(row, end, now=coordinator.clock()):
            raise WrongOffset.at(_own(coordinator, member, upload_id).offset)
    return UploadStatus(upload_id=upload_id, offset=end, length=row.body_length)


def commit(coordinator: Coordinator, member: Member, upload_id: str) -> SignedDocument:
    """Verify a complete upload and answer a signed receipt, always the same for one upload.

    Raises WrongOffset when bytes are missing, RoundClosed when it comes too late.
    """
    row = _own(coordinator, member, upload_id)
    if receipt := row.signed_receipt():
        return receipt
    round_row = open_round(coordinator, row.round)
    _check_active(row)
    if row.offset != row.body_length:
        raise WrongOffset.at(row.offset)
    header: PayloadHeader | None = None
    reason = ""
    try:
        header = open_verified(coordinator, round_row, row)
    except (EnvelopeError, AdapterError) as error:
        # It may name what the hospital called its tensors.
        reason = str(error)[:_LONGEST_REASON]
    receipt = _receipt(coordinator, row, reason)
    now = coordinator.clock()
    settled = coordinator.store.uploads.settle(row, receipt, header=header, reason=reason, now=now)
    if settled is None:
        open_round(coordinator, row.round)
        raise _already_delivered(row.hospital, row.round)
    if header is None:
        coordinator.blobs.discard(upload_id)
    coordinator.emit(
        "update_refused" if reason else "update_accepted",
        round=row.round,
        hospital=row.hospital,
        upload=upload_id,
        reason=reason or None,
    )
    final = settled.signed_receipt()
    assert final is not None
    return final


def open_round(coordinator: Coordinator, number: int) -> RoundRow:
    """The round, if it takes updates now. Raises NoSuchRound or RoundClosed."""
    row = coordinator.store.rounds.get(number)
    if row is None:
        raise NoSuchRound(f"There is no round {number}.")
    if row.state is not State.OPEN:
        raise RoundClosed(f"Round {number} is {row.state}; it takes no more updates.")
    now = coordinator.clock()
    # At a deadline that is about to be extended nobody is turned away.
    if now >= row.deadline and decide(facts_of(coordinator, row), now).action is not Action.EXTEND:
        raise RoundClosed(f"The deadline of round {number} has passed.")
    return row


def _own(coordinator: Coordinator, member: Member, upload_id: str) -> UploadRow:
    row = coordinator.store.uploads.get(upload_id)
    if row is None or row.hospital != member.hospital:
        raise NoSuchRound(f"There is no upload {upload_id} of {member.hospital}.")
    return row


def _status(row: UploadRow) -> UploadStatus:
    return UploadStatus(upload_id=row.upload_id, offset=row.offset, length=row.body_length)


def _same(row: UploadRow, member: Member, request: UploadRequest) -> UploadStatus:
    if row.hospital != member.hospital or row.announced() != request:
        raise RoundError(f"The upload id {row.upload_id} is taken by another update.")
    return _status(row)


def _check_active(row: UploadRow) -> None:
    if row.state == "abandoned":
        raise RoundError(
            f"Upload {row.upload_id} was replaced by a newer one of {row.hospital}.",
            hint="Announce the update again.",
        )
    if row.state != "active":
        raise RoundError(f"Upload {row.upload_id} is finished: it was {row.state}.")


def _already_delivered(hospital: str, number: int) -> RoundError:
    return RoundError(f"{hospital} has delivered its update of round {number} already.")


def _check_slots(coordinator: Coordinator, own: Sequence[UploadRow]) -> str | None:
    """Which stalled upload a further one replaces, if any."""
    for row in own:
        if row.state == "accepted":
            raise _already_delivered(row.hospital, row.round)
    if sum(u.state == "refused" for u in own) >= _REFUSED_PER_HOSPITAL:
        raise TooManyUploads.until(
            _ABANDONED_AFTER_SECONDS,
            f"{own[0].hospital} had {_REFUSED_PER_HOSPITAL} updates of this round refused.",
            hint="The receipts say why; the next round takes updates again.",
        )
    active = sorted((u for u in own if u.state == "active"), key=lambda u: u.touched_at)
    if len(active) < _ACTIVE_PER_HOSPITAL:
        return None
    stalls_in = _ABANDONED_AFTER_SECONDS - (coordinator.clock() - active[0].touched_at)
    if stalls_in > 0:
        raise TooManyUploads.until(
            stalls_in,
            f"{active[0].hospital} has {len(active)} unfinished uploads, and may have no more.",
            hint="Finish one of them; one that stands still for ten minutes makes room.",
        )
    return active[0].upload_id


def _receipt(coordinator: Coordinator, row: UploadRow, reason: str) -> SignedDocument:
    receipt = Receipt(
        federation=coordinator.federation,
        round=row.round,
        hospital=row.hospital,
        upload_id=row.upload_id,
        body_sha256=row.announced().body_sha256,
        accepted=not reason,
        reason=reason,
        received_at=coordinator.clock(),
    )
    return SignedDocument.sign(receipt, coordinator.identity, "receipt")
