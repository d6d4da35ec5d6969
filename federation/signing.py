"""Signing identities: Ed25519 and ML-DSA-65 side by side, and documents signed by both.

A document's signature covers a purpose and the exact bytes of its body, so that a signed receipt
can never pass for a signed descriptor and no canonicalisation is needed to verify.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)
from pydantic import Field, ValidationError

from federation.canonical import Message, sha256
from federation.errors import IdentityError
from federation.files import make_folder, storage_errors, write_atomically
from federation.messages import Base64, PublicIdentity

PRODUCT = "fedmed"

Purpose = Literal[
    "roster",
    "descriptor",
    "receipt",
    "record",
    "enrolment",
    "update",
    "extension",
    "rotation",
    "checkpoint",
    "succession",
    "backup",
]

_PEM_BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n", re.DOTALL)


def _context(purpose: Purpose) -> bytes:
    return f"{PRODUCT}/{purpose}/v1\0".encode()


def fingerprint(identity: PublicIdentity) -> str:
    """The short form that two people read out to each other: 100 bits as 5 groups of 4 letters."""
    digest = hashlib.sha256(f"{identity.ed25519}.{identity.mldsa65}".encode()).digest()
    letters = base64.b32encode(digest).decode()[:20]
    return "-".join(letters[i : i + 4] for i in range(0, 20, 4))


@dataclass(frozen=True)
class Signatures:
    """One signature by each algorithm, over the same bytes."""

    ed25519: bytes
    mldsa65: bytes


@dataclass(frozen=True)
class Identity:
    """A signer's private keys. Made where they are used; they never leave that machine."""

    ed25519: Ed25519PrivateKey
    mldsa65: MLDSA65PrivateKey

    @classmethod
    def generate(cls) -> Identity:
        """New keys. Raises IdentityError where this build of OpenSSL has no ML-DSA."""
        try:
            return cls(Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate())
        except UnsupportedAlgorithm as error:
            raise IdentityError(
                "This Python's cryptography build has no ML-DSA-65.",
                hint="Install the cryptography wheel (version 50) instead of a distribution's.",
            ) from error

    def public(self) -> PublicIdentity:
        """The public halves."""
        return PublicIdentity(
            ed25519=base64.b64encode(self.ed25519.public_key().public_bytes_raw()).decode(),
            mldsa65=base64.b64encode(self.mldsa65.public_key().public_bytes_raw()).decode(),
        )

    def sign(self, data: bytes, purpose: Purpose) -> Signatures:
        """Sign ``data`` for one purpose with both keys."""
        context = _context(purpose)
        return Signatures(self.ed25519.sign(context + data), self.mldsa65.sign(data, context))

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write both keys as PKCS#8 PEM, mode 0600, encrypted when there is a passphrase."""
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            protection = serialization.BestAvailableEncryption(passphrase.encode())
        pem = b"".join(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                protection,
            )
            for key in (self.ed25519, self.mldsa65)
        )
        with storage_errors(path):
            make_folder(path.parent, mode=0o700)
        write_atomically(path, pem, mode=0o600)

    @classmethod
    def load(
        cls, path: Path, passphrase: str | None = None, *, variable: str = "FEDMED_PASSPHRASE"
    ) -> Identity:
        """Read keys that ``save`` wrote; ``variable`` is where the passphrase comes from.

        Raises IdentityError naming the file and the remedy.
        """
        try:
            pem = path.read_bytes()
            open_to_others = path.stat().st_mode & 0o077
        except OSError as error:
            raise IdentityError(
                f"No signing keys at {path}: {error.strerror}.",
                hint="Restore the file from a backup; without it, new keys must be enrolled.",
            ) from error
        if open_to_others:
            raise IdentityError(f"{path} can be read by others.", hint=f"Run `chmod 600 {path}`.")
        password = passphrase.encode() if passphrase else None
        try:
            keys = [
                serialization.load_pem_private_key(block, password)
                for block in _PEM_BLOCK.findall(pem)
            ]
        except (ValueError, TypeError) as error:
            raise IdentityError(
                f"The keys in {path} cannot be read: {error}.",
                hint=f"Is the passphrase ({variable}) right? Else restore the file.",
            ) from error
        match keys:
            case [Ed25519PrivateKey() as ed25519, MLDSA65PrivateKey() as mldsa65]:
                return cls(ed25519, mldsa65)
        raise IdentityError(
            f"{path} does not hold an Ed25519 and an ML-DSA-65 key.",
            hint="Restore the file from a backup; without it, new keys must be enrolled.",
        )


def is_protected(path: Path) -> bool:
    """Whether the keys in a file that ``save`` wrote are encrypted. Raises IdentityError."""
    try:
        return b"ENCRYPTED" in path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}.") from error


def verify(identity: PublicIdentity, data: bytes, signatures: Signatures, purpose: Purpose) -> None:
    """Check both signatures. Raises IdentityError when either does not verify."""
    context = _context(purpose)
    try:
        ed25519 = Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.ed25519))
        mldsa65 = MLDSA65PublicKey.from_public_bytes(base64.b64decode(identity.mldsa65))
        ed25519.verify(signatures.ed25519, context + data)
        mldsa65.verify(signatures.mldsa65, data, context)
    except (InvalidSignature, ValueError) as error:
        raise IdentityError(
            f"The signature of this {purpose} is not valid.",
            hint="It was altered, or signed with other keys than those agreed on when enrolling: "
            "do not use it, and compare fingerprints with the other side by phone.",
        ) from error


_M = TypeVar("_M", bound=Message)


class SignedDocument(Message):
    """A message as the exact text that was signed, with both signatures."""

    body: str = Field(max_length=4 << 20)
    ed25519: Base64
    mldsa65: Base64

    @classmethod
    def sign(cls, message: Message, identity: Identity, purpose: Purpose) -> SignedDocument:
        """Sign a message's canonical JSON."""
        return cls.sign_text(message.to_json().decode(), identity, purpose)

    @classmethod
    def sign_text(cls, body: str, identity: Identity, purpose: Purpose) -> SignedDocument:
        """Sign a message's text as it is: its digest stays, whoever signs it."""
        signatures = identity.sign(body.encode(), purpose)
        return cls(
            body=body,
            ed25519=base64.b64encode(signatures.ed25519).decode(),
            mldsa65=base64.b64encode(signatures.mldsa65).decode(),
        )

    @property
    def body_sha256(self) -> str:
        """Digest of the signed text: the digest by which others refer to the message."""
        return sha256(self.body.encode())

    def verify(self, signer: PublicIdentity, purpose: Purpose) -> None:
        """Check both signatures of the text. Raises IdentityError when either does not verify."""
        signatures = Signatures(base64.b64decode(self.ed25519), base64.b64decode(self.mldsa65))
        verify(signer, self.body.encode(), signatures, purpose)

    def open(self, model: type[_M], signer: PublicIdentity, purpose: Purpose) -> _M:
        """Verify, then parse. Raises IdentityError for either."""
        self.verify(signer, purpose)
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise IdentityError(
                f"A signed {purpose} is malformed: {error.errors()[0]['msg']}.",
                hint="The two sides may run different versions of fedmed.",
            ) from error
