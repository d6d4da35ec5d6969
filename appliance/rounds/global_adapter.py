"""Published adapters: fetched, verified against a signed digest, and kept by round."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.client import CoordinatorClient
from appliance.events import Phase, Sink, Transfer
from appliance.trust import Trust
from federation.adapter import check_layout, checked_tensors
from federation.canonical import file_sha256
from federation.errors import AdapterError, IdentityError, StorageError
from federation.files import write_atomically
from federation.messages import RoundDescriptor
from federation.records import RoundRecord
from federation.signing import SignedDocument
from federation.tensors import DTYPES, header_bytes, read_header, read_tensors

RECORD = "record.json"
_REPORT = "Use nothing of this round and tell the coordinator's administrator."


def _file_length(descriptor: RoundDescriptor) -> int:
    """Bytes of an adapter file: the header's and the float32 values' are fixed by the schema."""
    schema = descriptor.adapter_schema
    float32 = DTYPES["F32"]
    header = header_bytes(schema.shapes(), float32)
    return len(header) + schema.n_parameters() * float32.itemsize


def _check_file(path: Path, descriptor: RoundDescriptor) -> None:
    with path.open("rb") as file:
        infos = read_header(file)
        shapes = descriptor.adapter_schema.shapes()
        check_layout({info.name: info.shape for info in infos}, shapes)
        for _ in checked_tensors(read_tensors(file, infos)):
            pass


def fetch_adapter(
    client: CoordinatorClient,
    folder: Path,
    digest: str,
    descriptor: RoundDescriptor,
    origin: str,
    sink: Sink,
) -> StoredAdapter:
    """The published adapter with this digest, from ``folder`` or downloaded into it.

    ``origin`` says what it is. ``descriptor`` is of a round with the same base and schema. Raises
    AdapterError when the content does not fit the schema, although its digest is right.
    """
    if folder.is_dir():
        stored = adapters.load(folder)
        if stored.card.sha256 == digest and file_sha256(stored.weights) == digest:
            return stored
    card = AdapterCard(
        base_name=descriptor.base.name,
        base_sha256=descriptor.base.sha256,
        adapter_schema=descriptor.adapter_schema,
        sha256=digest,
        origin=origin,
    )
    sink(Phase("downloading", origin))

    def download(target: Path) -> None:
        partial = folder.parent / f".{digest}.safetensors"
        length = _file_length(descriptor)
        client.adapter(
            digest, length, partial, lambda done, of: sink(Transfer("received", done, of))
        )
        try:
            _check_file(partial, descriptor)
        except AdapterError:
            partial.unlink()
            raise
        partial.replace(target)

    return adapters.store(folder, card, download)


def fetch_record(
    client: CoordinatorClient,
    trust: Trust,
    number: int,
    descriptor_sha256: str,
    folder: Path,
) -> RoundRecord:
    """A finished round's verified record, kept in ``folder`` too.

    Raises RoundError before the round is finished.
    """
    signed, record = trust.fetch(client, lambda: client.record(number), RoundRecord, "record")
    if (record.round, record.descriptor_sha256) != (number, descriptor_sha256):
        raise IdentityError(f"The record for round {number} is of another round.", hint=_REPORT)
    if record.federation != (expected := trust.enrolment.federation):
        raise IdentityError(
            f"The record is of federation {record.federation!r}, not {expected!r}.",
            hint=_REPORT,
        )
    write_atomically(folder / RECORD, signed.to_json())
    return record


def kept_record(folder: Path, trust: Trust) -> RoundRecord | None:
    """The record that ``fetch_record`` kept in a round's folder, or None. Raises StorageError."""
    path = folder / RECORD
    try:
        signed = SignedDocument.model_validate_json(path.read_bytes())
        return trust.open_held(signed, RoundRecord, "record")
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, IdentityError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.",
            hint=f"Remove it; `appliance sync --round {int(folder.name)}` fetches it again.",
        ) from error
