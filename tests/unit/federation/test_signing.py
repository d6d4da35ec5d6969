"""Identities on disk, signed documents, signed requests."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from federation.errors import IdentityError
from federation.membership import Member, Roster
from federation.request_signing import (
    MAX_SKEW_SECONDS,
    parse_signature,
    sign_request,
    verify_body,
    verify_headers,
)
from federation.signing import Identity, SignedDocument, fingerprint

ALICE = Identity.generate()
BOB = Identity.generate()
ROSTER = Roster(
    federation="f", version=1, members=(Member(hospital="h1", identity=ALICE.public()),)
)


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_keys_survive_the_disk(tmp_path: Path, passphrase: str | None) -> None:
    path = tmp_path / "keys" / "signing.pem"
    ALICE.save(path, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load(path, passphrase).public() == ALICE.public()


def test_a_wrong_passphrase_is_named(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "k.pem", "right")
    for wrong in ("wrong", None):
        with pytest.raises(IdentityError, match=r"k\.pem") as caught:
            Identity.load(tmp_path / "k.pem", wrong)
        assert "FEDMED_PASSPHRASE" in caught.value.hint


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(0o640)
    with pytest.raises(IdentityError) as caught:
        Identity.load(tmp_path / "k.pem")
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_or_missing_key_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "k.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"k\.pem"):
        Identity.load(path)


def test_a_signed_document_opens_to_its_message() -> None:
    signed = SignedDocument.sign(ROSTER, ALICE, "roster")
    again = SignedDocument.model_validate_json(signed.to_json())
    assert again.open(Roster, ALICE.public(), "roster") == ROSTER
    assert again.body_sha256 == ROSTER.digest()


def test_another_signer_purpose_or_body_is_refused() -> None:
    signed = SignedDocument.sign(ROSTER, ALICE, "roster")
    changed = signed.model_copy(update={"body": signed.body.replace('"version":1', '"version":2')})
    for document, signer, purpose in (
        (signed, BOB, "roster"),
        (signed, ALICE, "record"),
        (changed, ALICE, "roster"),
    ):
        with pytest.raises(IdentityError, match="signature"):
            document.open(Roster, signer.public(), purpose)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["ed25519", "mldsa65"])
def test_both_signatures_must_verify(field: str) -> None:
    signed = SignedDocument.sign(ROSTER, ALICE, "roster")
    raw = bytearray(base64.b64decode(getattr(signed, field)))
    raw[3] ^= 1
    broken = signed.model_copy(update={field: base64.b64encode(raw).decode()})
    with pytest.raises(IdentityError, match="signature") as caught:
        broken.open(Roster, ALICE.public(), "roster")
    assert "compare fingerprints" in caught.value.hint


def test_fingerprints_are_short_and_differ() -> None:
    first, second = fingerprint(ALICE.public()), fingerprint(BOB.public())
    assert first != second
    assert [len(group) for group in first.split("-")] == [4, 4, 4, 4, 4]


def headers(body: bytes = b"x", now: int = 1000) -> dict[str, str]:
    signed = sign_request(ALICE.ed25519, "h1", "POST", "/v1/a", "q=1", body, now)
    return {name.lower(): value for name, value in signed.items()}


def check(sent: dict[str, str], body: bytes = b"x", **changes: object) -> None:
    request: dict[str, object] = {
        "method": "POST",
        "path": "/v1/a",
        "query": "q=1",
        "now": 1000,
    }
    verify_headers(
        parse_signature(sent),
        ALICE.public(),
        sent,
        **{**request, **changes},  # type: ignore[arg-type]
    )
    verify_body(sent, body)


def test_a_signed_request_verifies() -> None:
    check(headers())
    assert parse_signature(headers()).hospital == "h1"
    assert parse_signature(headers()).nonce != parse_signature(headers()).nonce


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": "/v1/b"},
        {"query": "q=2"},
        {"body": b"y"},
        {"now": 1000 + MAX_SKEW_SECONDS + 1},
        {"now": 1000 - MAX_SKEW_SECONDS - 1},
    ],
)
def test_a_changed_request_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        check(headers(), **change)


def test_the_headers_alone_cover_the_digest_of_a_body_that_is_not_read_yet() -> None:
    sent, other = headers(b"x"), headers(b"y")
    arguments = ("POST", "/v1/a", "q=1", 1000)
    verify_headers(parse_signature(sent), ALICE.public(), sent, *arguments)
    for digest in (other["content-digest"], "", "sha-256=:AA=:", "md5=:AA==:"):
        changed = {**sent, "content-digest": digest}
        with pytest.raises(IdentityError):
            verify_headers(parse_signature(changed), ALICE.public(), changed, *arguments)


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest"])
def test_a_missing_header_is_refused(name: str) -> None:
    sent = headers()
    del sent[name]
    with pytest.raises(IdentityError):
        check(sent)


def test_a_nonce_or_hospital_put_in_afterwards_is_refused() -> None:
    sent = headers()
    for old, new in (('keyid="h1"', 'keyid="h2"'), ("created=1000", "created=1001")):
        changed = {**sent, "signature-input": sent["signature-input"].replace(old, new)}
        with pytest.raises(IdentityError):
            check(changed)
