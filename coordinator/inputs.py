"""A round's sealed updates as the streams that aggregation and examination read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.aggregation import Inputs, Tensors, Update, ValidatedLoss
from coordinator.context import Coordinator
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.canonical import canonical_json, sha256
from federation.envelope import open_update
from federation.errors import AdapterError, EnvelopeError, StorageError
from federation.round_keys import private_key


class Damaged(EnvelopeError):
    """A stored update cannot be read any more, though it was verified when it came."""

    upload_id = ""


def inputs_digest(row: RoundRow, uploads: Sequence[UploadRow]) -> str:
    """Digest of all that an aggregation depends on."""
    bodies = [[u.hospital, u.upload_id, u.announced().body_sha256] for u in uploads]
    return sha256(canonical_json([row.document.body_sha256, sorted(bodies)]))


def round_inputs(
    coordinator: Coordinator,
    row: RoundRow,
    included: Sequence[UploadRow],
    losses: Mapping[str, ValidatedLoss],
) -> Inputs:
    """The updates, each opened when it is read; ``losses`` are by upload id.

    Raises StorageError without the round's secret or parent adapter. Reading raises Damaged for an
    update that the disk has changed.
    """
    descriptor = row.descriptor
    if row.wrapped_seed is None:
        raise StorageError(
            f"The secret of round {row.number} is missing.",
            hint="Restore the database, or give the round up: `coordinator round close --abort`.",
        )
    seed = coordinator.wrapping.unwrap(row.wrapped_seed, coordinator.federation, row.number)
    parent = coordinator.blobs.adapter_by_name(descriptor.parent_adapter_sha256)

    def tensors(upload: UploadRow) -> Tensors:
        try:
            yield from open_update(
                upload.announced(),
                coordinator.blobs.body(upload.upload_id),
                private_key(seed),
                descriptor.adapter_schema,
                parent,
                accepted=True,
            ).tensors
        except (EnvelopeError, AdapterError, OSError) as error:
            damaged = Damaged(f"damaged on the coordinator's disk: {error}")
            damaged.upload_id = upload.upload_id
            raise damaged from error

    def update(upload: UploadRow) -> Update:
        header = upload.payload_header()
        return Update(
            hospital=upload.hospital,
            rank=header.rank,
            n_examples=header.n_examples,
            metrics=header.metrics,
            tensors=lambda: tensors(upload),
            validated=losses.get(upload.upload_id),
        )

    return Inputs.of(
        descriptor.adapter_schema,
        lambda: coordinator.blobs.read_adapter(descriptor.parent_adapter_sha256),
        [update(upload) for upload in included],
    )
