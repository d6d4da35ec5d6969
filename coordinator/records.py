"""The signed account of a round: who contributed what with which weight, and who did not."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.aggregation import Share
from coordinator.context import Coordinator
from coordinator.review import remark
from coordinator.store.reviews import Review
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.canonical import Message
from federation.membership import Roster
from federation.records import Contribution, Rejection, RoundRecord
from federation.signing import SignedDocument


class Account(Message):
    """What an aggregation did; kept between aggregating and publishing.

    ``discarded`` is the record's: what the cut to the schema's rank lost, by module. ``validated``
    says that the coordinator's own losses were weighed by.
    """

    contributions: tuple[Contribution, ...]
    discarded: dict[str, float]
    validated: bool = False


def contribution(upload: UploadRow, share: Share, review: Review | None) -> Contribution:
    """One accepted update's line in the record."""
    header = upload.payload_header()
    return Contribution(
        hospital=upload.hospital,
        upload_id=upload.upload_id,
        body_sha256=upload.announced().body_sha256,
        body_length=upload.body_length,
        weight=share.weight,
        explanation=(share.explanation + (remark(review) if review else ""))[:1000],
        n_examples=header.n_examples,
        metrics=header.metrics,
        engine=header.engine,
        change=review.finding.figures if review else None,
        validated_loss=review.finding.validated_loss if review else None,
        validated_variance=review.finding.validated_variance if review else None,
    )


def _rejection(upload: UploadRow, review: Review | None) -> Rejection:
    return Rejection(
        hospital=upload.hospital,
        upload_id=upload.upload_id,
        reason=(upload.reason or "")[:1000],
        change=review.finding.figures if review else None,
        validated_loss=review.finding.validated_loss if review else None,
        validated_variance=review.finding.validated_variance if review else None,
    )


def signed_record(
    coordinator: Coordinator,
    row: RoundRow,
    roster: Roster,
    uploads: Sequence[UploadRow],
    account: Account,
    adapter_sha256: str | None,
    reason: str | None = None,
) -> SignedDocument:
    """The record of a round that is over; without an adapter it was aborted, for ``reason``."""
    descriptor = row.descriptor
    reviews = coordinator.store.reviews.of_round(row.number)
    rejections = tuple(
        _rejection(u, reviews.get(u.upload_id))
        for u in uploads
        if u.state in ("refused", "excluded")
    )
    heard = {c.hospital for c in account.contributions} | {r.hospital for r in rejections}
    record = RoundRecord(
        federation=row.descriptor.federation,
        round=row.number,
        descriptor_sha256=row.document.body_sha256,
        outcome="published" if adapter_sha256 else "aborted",
        # It may list more hospitals than have room; `absent` and `rejections` list all.
        reason=(reason or row.reason or "")[:1000],
        adapter_sha256=adapter_sha256 or descriptor.parent_adapter_sha256,
        parent_adapter_sha256=descriptor.parent_adapter_sha256,
        aggregator=descriptor.aggregator,
        contributions=account.contributions,
        discarded=account.discarded,
        losses="validated" if account.validated else "reported",
        validation=(row.validation or "")[:1000],
        rejections=rejections,
        absent=tuple(m.hospital for m in roster.members if m.hospital not in heard),
        closed_at=row.closed_at or coordinator.clock(),
    )
    return SignedDocument.sign(record, coordinator.identity, "record")
