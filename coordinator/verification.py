"""What an update must be: of this round and hospital, whole, and as the descriptor asks."""

from __future__ import annotations

from coordinator.context import Coordinator
from coordinator.facts import round_roster
from coordinator.rotation import same_member
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.adapter import AdapterSchema, Factors
from federation.canonical import sha256
from federation.codec import largest_payload
from federation.envelope import open_update, sealed_length
from federation.errors import AdapterError, EnvelopeError, RoundError, StorageError
from federation.membership import Member
from federation.messages import Codec, Manifest, PayloadHeader, RoundDescriptor
from federation.round_keys import private_key
from federation.signing import fingerprint

_PAYLOAD_HEADER = 16 << 10
"""Bytes that the sealed header has at most."""


def largest_update(codec: Codec, schema: AdapterSchema, factors: Factors) -> int:
    """Bytes that the sealed body of an update with the schema's full rank has at most."""
    return sealed_length(largest_payload(codec, schema, factors) + _PAYLOAD_HEADER)


def check_manifest(row: RoundRow, member: Member, manifest: Manifest) -> None:
    """Refuse a manifest that was made for another context. Raises EnvelopeError, RoundError.

    ``member`` is as in the round's roster (``signer_of``).
    """
    descriptor = row.descriptor
    expected = {
        "federation": descriptor.federation,
        "round": descriptor.round,
        "descriptor_sha256": row.document.body_sha256,
        "hospital": member.hospital,
        "signer": fingerprint(member.identity),
        "recipient": sha256(descriptor.round_public_key.encode()),
        "base_sha256": descriptor.base.sha256,
        "parent_adapter_sha256": descriptor.parent_adapter_sha256,
        "roster_sha256": descriptor.roster_sha256,
        "schema_sha256": descriptor.schema_sha256,
    }
    for field, value in expected.items():
        if getattr(manifest, field) != value:
            raise EnvelopeError(
                f"The manifest's {field} is not that of round {row.number} and {member.hospital}.",
                hint="Fetch the round's descriptor again and make the update anew.",
            )
    largest = largest_update(descriptor.codec, descriptor.adapter_schema, descriptor.factors)
    if manifest.body_length > largest:
        raise EnvelopeError(
            f"The update has {manifest.body_length} bytes; one of round {row.number} has at most "
            f"{largest}.",
            hint="Fetch the round's descriptor again and make the update anew.",
        )


def signer_of(coordinator: Coordinator, descriptor: RoundDescriptor, member: Member) -> Member:
    """The member with the keys that it signs this round's updates with: its roster's.

    They stay so when the member's keys are rotated meanwhile. Raises RoundError for one that
    joined, or was invited anew, after the round opened.
    """
    then = round_roster(coordinator, descriptor).member(member.hospital)
    if then is None or not same_member(coordinator, then, member.identity):
        raise RoundError(
            f"{member.hospital} joined after this round opened.",
            hint="It takes part from the next round on.",
        )
    return then


def open_verified(coordinator: Coordinator, round_row: RoundRow, row: UploadRow) -> PayloadHeader:
    """Open the whole update and give its sealed header; the tensors are checked and dropped.

    Raises EnvelopeError and AdapterError for the update, StorageError for the coordinator's disk.
    """
    descriptor = round_row.descriptor
    body = coordinator.blobs.body(row.upload_id)
    if round_row.wrapped_seed is None or not body.is_file():
        raise StorageError(
            f"The body or the key of upload {row.upload_id} is missing.",
            hint="The coordinator's operator has to restore its home from a backup.",
        )
    seed = coordinator.wrapping.unwrap(
        round_row.wrapped_seed, coordinator.federation, round_row.number
    )
    update = open_update(
        row.announced(),
        body,
        private_key(seed),
        descriptor.adapter_schema,
        coordinator.blobs.adapter_by_name(descriptor.parent_adapter_sha256),
        max_norm=descriptor.max_norm,
    )
    _check_header(descriptor, update.header)
    for _ in update.tensors:
        pass
    return update.header


def _check_header(descriptor: RoundDescriptor, header: PayloadHeader) -> None:
    schema = descriptor.adapter_schema
    if header.factors != descriptor.factors:
        raise AdapterError(
            f"The update holds the factors {header.factors}; round {descriptor.round} "
            f"trains {descriptor.factors}."
        )
    if header.codec != descriptor.codec:
        raise AdapterError(f"The update's codec is {header.codec}, not {descriptor.codec}.")
    if header.rank != schema.rank and not descriptor.mixed_ranks:
        raise AdapterError(
            f"The update's rank is {header.rank}, not {schema.rank}: {descriptor.aggregator} "
            "takes no mixed ranks."
        )
    if unasked := sorted(header.metrics.keys() - set(descriptor.metrics)):
        raise EnvelopeError(f"The update reports {unasked[0]}, which the round does not ask for.")
