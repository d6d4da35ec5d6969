"""The sealed and signed update, as streams: memory does not grow with the adapter.

    payload   = length of header (4 bytes, big endian) | header (canonical JSON) | coded tensors
    context   = "fedmed/adapter/v1\\0" + SHA256(manifest)
    wrapped   = HPKE(random key, to the round's public key, info = context)
    body      = Cobblestone256(key, context) over the payload: 16 KiB chunks, key-committing
    signed    = SHA256(manifest) + SHA256(wrapped) + SHA256(body), purpose "update"
    signature = Ed25519 and ML-DSA-65; both must verify

Chunked decryption hands out plaintext before truncation is known, so ``open_update`` first
authenticates the whole body and only then decrypts it again for the reader.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from pydantic import ValidationError

from federation.adapter import AdapterSchema, checked_tensors
from federation.canonical import file_chunks
from federation.codec import decode, reference
from federation.errors import AdapterError, EnvelopeError, IdentityError
from federation.messages import (
    SUITE,
    Manifest,
    PayloadHeader,
    PublicIdentity,
    UpdateSignatures,
    UploadRequest,
)
from federation.round_keys import HPKE, public_key
from federation.signing import Identity, Signatures, verify
from federation.tensors import Pieces, Readable

_CHUNK = 1 << 20
_STREAM_CHUNK = 128 << 10
_AEAD_CHUNK = 16 << 10
_AEAD_OVERHEAD = 56
_AEAD_TAG = 16
_MAX_PAYLOAD_HEADER = 16 << 10
_SEAL_AGAIN = "Run the same command at the hospital again: the trained adapter is sealed anew."
_SEND_AGAIN = "Run the same command at the hospital again: the update is sealed and sent anew."


def sealed_length(payload_length: int) -> int:
    """Bytes of the body: 56 for the stream, and 16 each for full chunks (16 KiB) and the last."""
    chunks = payload_length // _AEAD_CHUNK + 1
    return payload_length + _AEAD_OVERHEAD + _AEAD_TAG * chunks


def _context(manifest: bytes) -> bytes:
    return b"fedmed/adapter/v1\0" + hashlib.sha256(manifest).digest()


def _signed_bytes(manifest: bytes, wrapped: bytes, body_sha256: str) -> bytes:
    digests = hashlib.sha256(manifest).digest() + hashlib.sha256(wrapped).digest()
    return digests + bytes.fromhex(body_sha256)


def _framed(header: PayloadHeader) -> bytes:
    text = header.to_json()
    return len(text).to_bytes(4, "big") + text


def payload_length(header: PayloadHeader, coded: Path) -> int:
    """Bytes of the payload that ``seal`` makes of this header and file of coded tensors."""
    return len(_framed(header)) + coded.stat().st_size


def seal(
    manifest: Manifest,
    header: PayloadHeader,
    coded: Path,
    round_public_key: str,
    identity: Identity,
    body: IO[bytes],
) -> UploadRequest:
    """Encrypt coded tensors (``federation.codec.encode``) into ``body`` and sign them.

    Returns what announces the upload. ``manifest.body_length`` must be
    ``sealed_length(payload_length(header, coded))``.
    Raises EnvelopeError when the file changed since its digest was taken.
    """
    manifest_bytes = manifest.to_json()
    context = _context(manifest_bytes)
    key = Cobblestone256Encryptor.generate_key()
    wrapped = HPKE.encrypt(key, public_key(round_public_key), info=context)
    encryptor = Cobblestone256Encryptor(key, context)
    plain, digest = hashlib.sha256(), hashlib.sha256()
    written = 0
    for piece in _sealed(encryptor, header, coded, plain.update):
        digest.update(piece)
        written += body.write(piece)
    if (written, plain.hexdigest()) != (manifest.body_length, header.plaintext_sha256):
        raise EnvelopeError(f"{coded} changed while it was being sealed.", hint=_SEAL_AGAIN)
    signatures = identity.sign(_signed_bytes(manifest_bytes, wrapped, digest.hexdigest()), "update")
    return UploadRequest(
        manifest=manifest_bytes.decode(),
        wrapped_key=base64.b64encode(wrapped).decode(),
        body_sha256=digest.hexdigest(),
        signatures=UpdateSignatures(
            ed25519=base64.b64encode(signatures.ed25519).decode(),
            mldsa65=base64.b64encode(signatures.mldsa65).decode(),
        ),
    )


def _sealed(
    encryptor: Cobblestone256Encryptor,
    header: PayloadHeader,
    coded: Path,
    seen: Callable[[bytes], None],
) -> Iterator[bytes]:
    yield encryptor.update(_framed(header))
    for chunk in file_chunks(coded):
        seen(chunk)
        yield encryptor.update(chunk)
    yield encryptor.finalize()


def parse_manifest(request: UploadRequest) -> Manifest:
    """The manifest of an announced upload. Raises EnvelopeError unless canonical and known."""
    try:
        manifest = Manifest.model_validate_json(request.manifest)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise EnvelopeError(f"The manifest is malformed: {place}: {problem['msg']}.") from error
    if manifest.to_json() != request.manifest.encode():
        raise EnvelopeError("The manifest is not canonical JSON.")
    if manifest.suite != SUITE:
        raise EnvelopeError(f"The manifest's suite {manifest.suite!r} is not {SUITE!r}.")
    return manifest


def verify_signatures(request: UploadRequest, signer: PublicIdentity) -> None:
    """Check both signatures over manifest, wrapped key and body digest. Raises EnvelopeError."""
    signed = _signed_bytes(
        request.manifest.encode(),
        base64.b64decode(request.wrapped_key),
        request.body_sha256,
    )
    signatures = Signatures(
        base64.b64decode(request.signatures.ed25519),
        base64.b64decode(request.signatures.mldsa65),
    )
    try:
        verify(signer, signed, signatures, "update")
    except IdentityError as error:
        raise EnvelopeError(
            "The update's signature does not verify.",
            hint="Do the hospital's keys match the roster? Compare fingerprints by phone.",
        ) from error


class _Hashed:
    """A stream and the digest of what was read from it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, n: int, /) -> bytes | memoryview:
        taken = self._source.read(n)
        self.digest.update(taken)
        return taken


def _decrypted(body: Path, decryptor: Cobblestone256Decryptor) -> Iterator[bytes]:
    """The payload, decrypted as it is read; nothing touches a disk. Raises EnvelopeError."""
    try:
        # An aggregation has one stream of each hospital open: together they stay small.
        yield from map(decryptor.update, file_chunks(body, _STREAM_CHUNK))
        yield decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError(
            "The update's body is damaged or truncated.", hint=_SEND_AGAIN
        ) from error


@dataclass(frozen=True)
class OpenedUpdate:
    """An authenticated update: its sealed header, and its tensors as a stream in name order."""

    header: PayloadHeader
    tensors: Iterator[tuple[str, np.ndarray]]


def open_update(
    request: UploadRequest,
    body: Path,
    key: MLKEM768X25519PrivateKey,
    schema: AdapterSchema,
    parent: Mapping[str, np.ndarray],
    *,
    max_norm: float | None = None,
    accepted: bool = False,
) -> OpenedUpdate:
    """Decrypt a sealed update whose signatures were verified; ``parent`` is its round's adapter.

    The whole body is authenticated before a byte is parsed; the tensors are decoded by the header's
    codec and checked against ``schema`` as they are read: names, shapes, finite, L2 norm. An
    ``accepted`` one was read to its end before: its body's digest is compared again, and what
    follows from the same bytes is not, which is that of the tensors, their being finite, and the
    norm. Raises EnvelopeError for the envelope and AdapterError for the tensors (the latter also
    while iterating).
    """
    context = _context(request.manifest.encode())
    try:
        data_key = HPKE.decrypt(base64.b64decode(request.wrapped_key), key, info=context)
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError(
            "The update is not sealed to this round's key, or was altered on its way.",
            hint=_SEAL_AGAIN,
        ) from error
    _authenticate(body, data_key, context, request.body_sha256)
    payload = Pieces(_decrypted(body, Cobblestone256Decryptor(data_key, context)))
    header = _read_payload_header(payload)
    if header.rank > schema.rank:
        raise AdapterError(f"The update's rank {header.rank} is above the round's {schema.rank}.")
    shapes = schema.shapes(header.factors, header.rank)
    since = reference(header.codec, schema, header.rank, parent)
    if accepted:
        return OpenedUpdate(header, decode(payload, header.codec, shapes, since))
    stream = _Hashed(payload)
    tensors = decode(stream, header.codec, shapes, since)
    checked = _digest_checked(stream, tensors, header.plaintext_sha256)
    return OpenedUpdate(header, checked_tensors(checked, max_norm=max_norm))


def _digest_checked(
    stream: _Hashed, tensors: Iterator[tuple[str, np.ndarray]], expected: str
) -> Iterator[tuple[str, np.ndarray]]:
    yield from tensors
    if stream.digest.hexdigest() != expected:
        raise EnvelopeError("The update's tensors do not have the digest that its header states.")


def _authenticate(body: Path, data_key: bytes, context: bytes, expected: str) -> None:
    digest = hashlib.sha256()
    read, plain = memoryview(bytearray(_CHUNK)), bytearray(_CHUNK + _AEAD_CHUNK)
    try:
        decryptor = Cobblestone256Decryptor(data_key, context)
        with body.open("rb", buffering=0) as file:
            while n := file.readinto(read):
                digest.update(read[:n])
                decryptor.update_into(read[:n], plain)
        decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError(
            "The update's body is damaged or truncated.", hint=_SEND_AGAIN
        ) from error
    if digest.hexdigest() != expected:
        raise EnvelopeError(
            "The update's body does not have the announced digest.", hint=_SEND_AGAIN
        )


def _read_payload_header(stream: Readable) -> PayloadHeader:
    length = int.from_bytes(stream.read(4), "big")
    if not 0 < length <= _MAX_PAYLOAD_HEADER:
        raise EnvelopeError(f"The update's sealed header has {length} bytes.")
    try:
        return PayloadHeader.model_validate_json(bytes(stream.read(length)))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise EnvelopeError(
            f"The sealed header is malformed: {place}: {problem['msg']}."
        ) from error
