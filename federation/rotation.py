"""New keys for a hospital that is a member: asked for by the old keys and by the new.

The old keys' signature says that the hospital wants it, the new keys' that it holds them. They
take the old ones' place when the administrator signs them into the roster.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from federation.canonical import Message, Sha256
from federation.errors import IdentityError
from federation.messages import Name, PublicIdentity
from federation.signing import Identity, SignedDocument


class KeyRotation(Message):
    """``identity`` is to take the place of the keys whose digest is ``old_sha256``."""

    v: Literal[1] = 1
    federation: Name
    hospital: Name
    old_sha256: Sha256
    identity: PublicIdentity


class RotationRequest(Message):
    """The same ``KeyRotation``, signed by the old and by the new keys."""

    by_old: SignedDocument
    by_new: SignedDocument

    @classmethod
    def make(cls, federation: str, hospital: str, old: Identity, new: Identity) -> RotationRequest:
        """Ask for ``new`` in place of ``old``."""
        rotation = KeyRotation(
            federation=federation,
            hospital=hospital,
            old_sha256=old.public().digest(),
            identity=new.public(),
        )
        return cls(
            by_old=SignedDocument.sign(rotation, old, "rotation"),
            by_new=SignedDocument.sign(rotation, new, "rotation"),
        )

    def open(self, federation: str, hospital: str, old: PublicIdentity) -> KeyRotation:
        """The rotation, both signatures verified. Raises IdentityError."""
        asked = self.claimed()
        rotation = self.by_new.open(KeyRotation, asked.identity, "rotation")
        if self.by_old.body != self.by_new.body:
            raise IdentityError("The old and the new keys did not sign the same rotation.")
        self.by_old.open(KeyRotation, old, "rotation")
        wanted = (federation, hospital, old.digest())
        if (rotation.federation, rotation.hospital, rotation.old_sha256) != wanted:
            raise IdentityError(f"The rotation is not of {hospital}'s keys in {federation}.")
        return rotation

    def claimed(self) -> KeyRotation:
        """What is asked for, before anything is verified. Raises IdentityError."""
        try:
            return KeyRotation.model_validate_json(self.by_new.body)
        except ValidationError as error:
            raise IdentityError(
                f"The rotation is malformed: {error.errors()[0]['msg']}."
            ) from error
