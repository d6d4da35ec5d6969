"""Looking at a round's updates beside each other, before any of them is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from coordinator import aggregation
from coordinator.aggregation import factor_moves, gram
from coordinator.anomalies import Figures, find_anomalies, odd_moves
from coordinator.context import Coordinator
from coordinator.inputs import Damaged, inputs_digest, round_inputs
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from coordinator.validating import validate
from federation.findings import ChangeFigures, UpdateFinding

_REMEMBERED_ROUNDS = 10
"""How many earlier rounds say what is usual for a hospital."""


def examine(coordinator: Coordinator, row: RoundRow, delivered: Sequence[UploadRow]) -> None:
    """Note what is found about an open round's accepted updates; safe to repeat.

    Raises StorageError, also for updates that cannot be told from each other for want of the
    round's secret.
    """
    readable, damaged = _readable(coordinator, row, delivered)
    validated = validate(coordinator, row, readable)
    found = {
        upload_id: UpdateFinding(figures=None, reasons=(reason,))
        for upload_id, reason in damaged.items()
    }
    for upload, finding in zip(readable, _anomalies(coordinator, row, readable), strict=True):
        if own := validated.losses.get(upload.upload_id):
            measured = {"validated_loss": own.loss, "validated_variance": own.variance}
            finding = finding.model_copy(update=measured)
        found[upload.upload_id] = finding
    turned = coordinator.store.reviews.examined(
        row.number,
        inputs_digest(row, delivered),
        found,
        unreadable=list(damaged),
        validation=validated.text,
        now=coordinator.clock(),
    )
    names = {upload.upload_id: upload.hospital for upload in delivered}
    for upload_id in turned:
        coordinator.emit(
            "update_unusual",
            round=row.number,
            hospital=names[upload_id],
            upload=upload_id,
            reason="; ".join(found[upload_id].reasons),
        )


def _readable(
    coordinator: Coordinator, row: RoundRow, delivered: Sequence[UploadRow]
) -> tuple[list[UploadRow], dict[str, str]]:
    """The updates that can be read to their end, and why each other one cannot."""
    damaged: dict[str, str] = {}
    for update, upload in zip(
        round_inputs(coordinator, row, delivered, {}).updates, delivered, strict=True
    ):
        try:
            for _ in update.tensors():
                pass
        except Damaged as error:
            damaged[upload.upload_id] = str(error)
    return [u for u in delivered if u.upload_id not in damaged], damaged


def _anomalies(
    coordinator: Coordinator, row: RoundRow, readable: Sequence[UploadRow]
) -> list[UpdateFinding]:
    if not readable:
        return []
    usual = coordinator.store.reviews.usual_figures(row.number, _REMEMBERED_ROUNDS)
    inputs = round_inputs(coordinator, row, readable, {})
    findings = find_anomalies(
        [upload.hospital for upload in readable],
        gram(inputs),
        {name: [Figures(**dict(f)) for f in earlier] for name, earlier in usual.items()},
    )
    moved: list[tuple[str, ...]] = [()] * len(readable)
    if aggregation.get(row.descriptor.aggregator).combiner.exact == "no":
        moved = odd_moves(factor_moves(inputs))
    return [
        UpdateFinding(figures=ChangeFigures(**asdict(f.figures)), reasons=f.reasons + more)
        for f, more in zip(findings, moved, strict=True)
    ]
