"""The sealed update: round trip, every kind of damage, bounded memory."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from federation import envelope
from federation.adapter import AdapterSchema, ModuleShape, initial_adapter
from federation.canonical import file_sha256
from federation.envelope import (
    OpenedUpdate,
    open_update,
    parse_manifest,
    payload_length,
    seal,
    sealed_length,
    verify_signatures,
)
from federation.errors import AdapterError, EnvelopeError
from federation.messages import (
    SUITE,
    EngineInfo,
    Manifest,
    PayloadHeader,
    UploadRequest,
)
from federation.round_keys import HPKE, new_seed, private_key, public_text
from federation.signing import Identity
from federation.tensors import Pieces, write_tensors

SCHEMA = AdapterSchema(
    modules=(ModuleShape(path="m.q_proj", inputs=6, outputs=4),), rank=2, alpha=4.0
)
PARENT = dict(initial_adapter(SCHEMA, 7))
SEED = new_seed()
HOSPITAL = Identity.generate()


def sealed(
    folder: Path, schema: AdapterSchema = SCHEMA, **changes: object
) -> tuple[UploadRequest, Path]:
    """Seal a freshly made adapter; returns the announcement and the body's file."""
    adapter = folder / "adapter.safetensors"
    with adapter.open("wb") as file:
        write_tensors(file, schema.shapes(), initial_adapter(schema, 1))
    header = PayloadHeader(
        codec="fp32",
        rank=schema.rank,
        factors="AB",
        n_examples=10,
        metrics={"loss_after": 1.5},
        engine=EngineInfo(name="torch", version="2", quantisation="none"),
        plaintext_sha256=file_sha256(adapter),
    )
    header = header.model_copy(update=changes)
    manifest = Manifest(
        suite=SUITE,
        federation="f",
        round=1,
        descriptor_sha256="0" * 64,
        hospital="h1",
        signer="AAAA",
        recipient="0" * 64,
        upload_id="0" * 32,
        base_sha256="0" * 64,
        parent_adapter_sha256="0" * 64,
        roster_sha256="0" * 64,
        schema_sha256="0" * 64,
        body_length=sealed_length(payload_length(header, adapter)),
    )
    body = folder / "body"
    with body.open("wb") as file:
        request = seal(manifest, header, adapter, public_text(SEED), HOSPITAL, file)
    return request, body


def opened(request: UploadRequest, body: Path, max_norm: float | None = None) -> OpenedUpdate:
    parse_manifest(request)
    verify_signatures(request, HOSPITAL.public())
    return open_update(request, body, private_key(SEED), SCHEMA, PARENT, max_norm=max_norm)


def test_opens_to_what_was_sealed(tmp_path: Path) -> None:
    update = opened(*sealed(tmp_path))
    expected = dict(initial_adapter(SCHEMA, 1))
    found = dict(update.tensors)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert update.header.metrics == {"loss_after": 1.5}


@pytest.mark.parametrize("length", [0, 1, 16383, 16384, 16385, 100_000])
def test_sealed_length_is_what_sealing_writes(length: int) -> None:
    from cryptography.cobblestone import Cobblestone256Encryptor

    encryptor = Cobblestone256Encryptor(Cobblestone256Encryptor.generate_key(), b"")
    assert len(encryptor.update(bytes(length)) + encryptor.finalize()) == sealed_length(length)


def test_every_flipped_byte_of_the_body_is_refused(tmp_path: Path) -> None:
    request, body = sealed(tmp_path)
    whole = body.read_bytes()
    for position in range(len(whole)):
        body.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(EnvelopeError):
            opened(request, body)


@pytest.mark.parametrize("field", ["wrapped_key", "ed25519", "mldsa65", "body_sha256", "manifest"])
def test_a_flipped_byte_of_the_announcement_is_refused(tmp_path: Path, field: str) -> None:
    request, body = sealed(tmp_path)
    document = request.model_dump()
    holder = document["signatures"] if field in document["signatures"] else document
    if field == "manifest":
        holder[field] = holder[field].replace('"round":1', '"round":2')
    elif field == "body_sha256":
        holder[field] = "0" * 64
    else:
        raw = bytearray(base64.b64decode(holder[field]))
        raw[7] ^= 1
        holder[field] = base64.b64encode(raw).decode()
    with pytest.raises(EnvelopeError):
        opened(UploadRequest.model_validate(document), body)


def test_an_accepted_update_opens_to_the_same_and_no_other_body_does(tmp_path: Path) -> None:
    request, body = sealed(tmp_path)

    def again() -> dict[str, np.ndarray]:
        key = private_key(SEED)
        return dict(open_update(request, body, key, SCHEMA, PARENT, accepted=True).tensors)

    expected = dict(initial_adapter(SCHEMA, 1))
    found = again()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    whole = body.read_bytes()
    for damaged in (
        whole[:-1],
        whole + b"x",
        *(_flipped(whole, at) for at in range(0, len(whole), 45)),
    ):
        body.write_bytes(damaged)
        with pytest.raises(EnvelopeError, match="damaged or truncated"):
            again()
    # One that the hospital itself sealed for the same key, in place of the accepted one.
    context = envelope._context(request.manifest.encode())
    wrapped = base64.b64decode(request.wrapped_key)
    data_key = HPKE.decrypt(wrapped, private_key(SEED), info=context)
    encryptor = envelope.Cobblestone256Encryptor(data_key, context)
    decryptor = envelope.Cobblestone256Decryptor(data_key, context)
    payload = b"".join(envelope._decrypted(_written(body, whole), decryptor))
    body.write_bytes(encryptor.update(payload) + encryptor.finalize())
    with pytest.raises(EnvelopeError, match="announced digest"):
        again()


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_stream_gives_its_bytes_however_they_are_asked_for(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(400_000)
    key = envelope.Cobblestone256Encryptor.generate_key()
    encryptor = envelope.Cobblestone256Encryptor(key, b"")
    body = _written(tmp_path / "body", encryptor.update(data) + encryptor.finalize())
    for sizes in ([400_000], [1, 130_000, 0, 270_000], [128 << 10] * 4, [16_384] * 25):
        decryptor = envelope.Cobblestone256Decryptor(key, b"")
        stream = Pieces(envelope._decrypted(body, decryptor))
        assert b"".join(stream.read(n) for n in sizes) == data
        assert stream.read(1) == b""


def test_a_truncated_body_is_refused(tmp_path: Path) -> None:
    request, body = sealed(tmp_path)
    body.write_bytes(body.read_bytes()[:-1])
    with pytest.raises(EnvelopeError, match="truncated") as caught:
        opened(request, body)
    assert "sent anew" in caught.value.hint


def test_another_round_s_key_does_not_open_it(tmp_path: Path) -> None:
    request, body = sealed(tmp_path)
    with pytest.raises(EnvelopeError, match="round's key") as caught:
        open_update(request, body, private_key(new_seed()), SCHEMA, PARENT)
    assert "sealed anew" in caught.value.hint


def test_a_manifest_that_is_not_canonical_is_refused(tmp_path: Path) -> None:
    request, _ = sealed(tmp_path)
    spaced = request.model_copy(update={"manifest": request.manifest.replace(",", ", ", 1)})
    with pytest.raises(EnvelopeError, match="canonical"):
        parse_manifest(spaced)


def test_a_rank_above_the_schema_is_refused(tmp_path: Path) -> None:
    wide = AdapterSchema(modules=SCHEMA.modules, rank=3, alpha=4.0)
    request, body = sealed(tmp_path, wide)
    with pytest.raises(AdapterError, match="rank 3"):
        opened(request, body)


def test_a_header_that_announces_other_factors_is_refused(tmp_path: Path) -> None:
    request, body = sealed(tmp_path, factors="B")
    with pytest.raises(AdapterError, match="unexpected"):
        opened(request, body)


def test_a_norm_above_the_bound_is_refused(tmp_path: Path) -> None:
    request, body = sealed(tmp_path)
    with pytest.raises(AdapterError, match="norm"):
        list(opened(request, body, max_norm=0.01).tensors)


def test_sealing_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvelopeError, match="changed"):
        sealed(tmp_path, plaintext_sha256="1" * 64)


def test_every_byte_of_memory_is_bounded_for_200_megabytes(tmp_path: Path) -> None:
    """Sealing and opening 200 MB in a fresh interpreter adds less than 100 MB to its peak."""
    script = Path(__file__).with_name("seal_200_megabytes.py")
    result = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 100 << 20
