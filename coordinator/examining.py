"""Looking at a round's updates beside each other, before any of them is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from coordinator import aggregation
from coordinator.aggregation import gram, gram_and_moves
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
    looked_at, damaged = _looked_at(coordinator, row, delivered)
    validated = validate(coordinator, row, [upload for upload, _ in looked_at])
    found = {
        upload_id: UpdateFinding(figures=None, reasons=(reason,))
        for upload_id, reason in damaged.items()
    }
    for upload, finding in looked_at:
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


def _looked_at(
    coordinator: Coordinator, row: RoundRow, delivered: Sequence[UploadRow]
) -> tuple[list[tuple[UploadRow, UpdateFinding]], dict[str, str]]:
    """What is found about the updates that can be read to their end; why each other one cannot."""
    damaged: dict[str, str] = {}
    while readable := [u for u in delivered if u.upload_id not in damaged]:
        try:
            findings = _anomalies(coordinator, row, readable)
            return list(zip(readable, findings, strict=True)), damaged
        except Damaged as error:
            # The figures are of all beside each other: without this one they are others.
            damaged[error.upload_id] = str(error)
    return [], damaged


def _anomalies(
    coordinator: Coordinator, row: RoundRow, readable: Sequence[UploadRow]
) -> list[UpdateFinding]:
    inputs = round_inputs(coordinator, row, readable, {})
    if aggregation.get(row.descriptor.aggregator).combiner.exact == "no":
        products, moves = gram_and_moves(inputs)
        moved = odd_moves(moves)
    else:
        products, moved = gram(inputs), [()] * len(readable)
    usual = coordinator.store.reviews.usual_figures(row.number, _REMEMBERED_ROUNDS)
    findings = find_anomalies(
        [upload.hospital for upload in readable],
        products,
        {name: [Figures(**dict(f)) for f in earlier] for name, earlier in usual.items()},
    )
    return [
        UpdateFinding(figures=ChangeFigures(**asdict(f.figures)), reasons=f.reasons + more)
        for f, more in zip(findings, moved, strict=True)
    ]
