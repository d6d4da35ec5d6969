"""What coding lost of this hospital's earlier updates, until it was sent after all.

A round's residual lies beside its sealed update, ``rounds/N/residual.safetensors``, and is never
moved: whether it is still owed follows from the signed records of the rounds since. So no crash can
lose it or have it sent twice, and neither can a round that was aborted or an update that was
refused, left out, or weighed with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from appliance.paths import Paths
from appliance.rounds.global_adapter import RECORD, kept_record
from appliance.session import Session
from appliance.trust import Trust
from federation.adapter import AdapterSchema
from federation.errors import AdapterError, RoundError, StorageError
from federation.files import atomic_writer, storage_errors, write_atomically
from federation.messages import RoundDescriptor
from federation.records import RoundRecord
from federation.signing import SignedDocument
from federation.tensors import TensorFile, write_tensors

_RESIDUAL = "residual.safetensors"


def remember(paths: Paths, session: Session, descriptor: RoundDescriptor) -> None:
    """Fetch the records that ``owed`` will ask for: an update is sealed without the coordinator."""

    def record(number: int) -> RoundRecord | None:
        folder, client = paths.round(number), session.client
        if (known := kept_record(folder, session.trust)) is not None:
            return known
        try:
            signed, found = session.trust.fetch(
                client, lambda: client.record(number), RoundRecord, "record"
            )
        except RoundError as error:
            if error.retryable:
                raise
            return None  # A coordinator that was restored from a backup may not know the round.
        write_atomically(folder / RECORD, signed.to_json())
        return found

    _last_counted(paths, session.enrolment.hospital, descriptor, record)


def owed(paths: Paths, trust: Trust, descriptor: RoundDescriptor) -> Mapping[str, np.ndarray]:
    """The residual to add to this round's update, by tensor; empty where none is owed.

    None is where the round has no error feedback. It is that of the last round whose aggregate this
    hospital's update was part of, if the round's parent adapter comes from there by rounds of the
    same combiner alone; older ones have been sent, and are removed. Raises StorageError for a file
    that cannot be used.
    """
    number = _last_counted(
        paths,
        trust.enrolment.hospital,
        descriptor,
        lambda n: kept_record(paths.round(n), trust),
    )
    if number is None:
        return {}
    with storage_errors(paths.rounds):
        for sent in _kept(paths, number):
            (paths.round(sent) / _RESIDUAL).unlink(missing_ok=True)
    return _read(paths.round(number) / _RESIDUAL, descriptor.adapter_schema)


def _last_counted(
    paths: Paths,
    hospital: str,
    descriptor: RoundDescriptor,
    record_of: Callable[[int], RoundRecord | None],
) -> int | None:
    """The round whose residual is owed in this one."""
    kept = _kept(paths, descriptor.round) if descriptor.error_feedback else set()
    lineage = descriptor.parent_adapter_sha256
    for number in range(descriptor.round - 1, min(kept, default=descriptor.round) - 1, -1):
        record = record_of(number)
        if record is None:
            return None
        if record.outcome == "aborted":
            continue
        if record.adapter_sha256 != lineage:
            return None  # The federation started afresh since.
        if number in kept and _counted(record, hospital, paths.round(number)):
            return number
        if _combiner(record.aggregator) != _combiner(descriptor.aggregator):
            return None  # It may have turned the factors, so that a residual means nothing now.
        lineage = record.parent_adapter_sha256
    return None


def _combiner(aggregator: str) -> str:
    """The last part of an aggregator's name, which decides what becomes of factors."""
    return aggregator.rpartition("+")[2]


def keep(
    folder: Path,
    schema: AdapterSchema,
    lost: Iterator[tuple[str, np.ndarray]],
    live: Mapping[str, tuple[int, ...]],
    before: Mapping[str, np.ndarray],
) -> None:
    """Write a round's residual durably while ``lost`` is read: all of ``live``, in name order.

    Of tensors that the round does not train what was owed ``before`` stays owed. Raises
    StorageError.
    """
    shapes = {n: shape for n, shape in schema.shapes().items() if n in live or n in before}
    with atomic_writer(folder / _RESIDUAL, mode=0o600) as file:
        write_tensors(file, shapes, (next(lost) if n in live else (n, before[n]) for n in shapes))
        if (more := next(lost, None)) is not None:
            raise AdapterError(f"Tensor {more[0]!r} is not one that the round trains.")


def _kept(paths: Paths, below: int) -> set[int]:
    files = paths.rounds.glob(f"[0-9]*/{_RESIDUAL}")
    return {number for file in files if (number := int(file.parent.name)) < below}


def _counted(record: RoundRecord, hospital: str, folder: Path) -> bool:
    """Whether the update that was sealed in ``folder`` is part of what the round published."""
    try:
        signed = SignedDocument.model_validate_json((folder / "descriptor.json").read_bytes())
    except (OSError, ValidationError):
        return False
    return signed.body_sha256 == record.descriptor_sha256 and any(
        part.hospital == hospital and part.weight > 0 for part in record.contributions
    )


def _read(path: Path, schema: AdapterSchema) -> TensorFile:
    hint = "Remove it: what the earlier update lost by coding is then not sent."
    try:
        found = TensorFile(path)
    except AdapterError as error:
        raise StorageError(f"{path} is damaged: {error}", hint=hint) from error
    shapes = schema.shapes()
    if any(shapes.get(name) != shape for name, shape in found.shapes().items()):
        raise StorageError(f"{path} is not of this round's adapter.", hint=hint)
    return found
