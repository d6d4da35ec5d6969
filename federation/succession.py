"""New signing keys for the coordinator: signed by the administrator and by the keys before.

A hospital pinned two keys when it enrolled, the coordinator's and the administrator's. It takes
others in the coordinator's place only by links that both signed, one after the other from those
that it pinned, and never goes back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from federation.canonical import Message
from federation.errors import IdentityError
from federation.messages import Name, PublicIdentity, Timestamp
from federation.signing import Identity, SignedDocument, fingerprint

MAX_SUCCESSIONS = 250
"""How often a federation may replace its coordinator's keys: all links fit into one answer."""

_REPORT = "Believe nothing that the new keys signed; ask the administrator by phone."


class Succession(Message):
    """``new`` take the place of ``former``; ``number`` counts from the founding keys, from 1 on."""

    v: Literal[1] = 1
    federation: Name
    number: int = Field(ge=1, le=MAX_SUCCESSIONS)
    former: PublicIdentity
    new: PublicIdentity
    at: Timestamp


class SignedSuccession(Message):
    """The same ``Succession``, signed by the admin key and by the former keys."""

    by_admin: SignedDocument
    by_former: SignedDocument

    @classmethod
    def make(cls, succession: Succession, admin: Identity, former: Identity) -> SignedSuccession:
        """Sign it with both."""
        return cls(
            by_admin=SignedDocument.sign(succession, admin, "succession"),
            by_former=SignedDocument.sign(succession, former, "succession"),
        )

    @property
    def sha256(self) -> str:
        """Digest of the signed text."""
        return self.by_admin.body_sha256

    def claimed(self) -> Succession:
        """What is said, before anything is verified. Raises IdentityError."""
        try:
            return Succession.model_validate_json(self.by_admin.body)
        except ValidationError as error:
            raise IdentityError(
                f"A succession of the coordinator's keys is malformed: {error.errors()[0]['msg']}.",
                hint=_REPORT,
            ) from error

    def open(self, federation: str, admin: PublicIdentity, former: PublicIdentity) -> Succession:
        """The succession to ``former``, both signatures verified. Raises IdentityError."""
        claimed = self.claimed()
        what = f"Succession {claimed.number} of the coordinator's keys"
        if self.by_former.body != self.by_admin.body:
            raise IdentityError(f"{what} is two different texts.", hint=_REPORT)
        for document, signer, whose in (
            (self.by_admin, admin, "the administrator's key"),
            (self.by_former, former, f"the keys before, {fingerprint(former)}"),
        ):
            try:
                document.verify(signer, "succession")
            except IdentityError as error:
                raise IdentityError(f"{what} is not signed by {whose}.", hint=_REPORT) from error
        if (claimed.federation, claimed.former) != (federation, former):
            raise IdentityError(
                f"{what} is not of the keys {fingerprint(former)} in {federation}.", hint=_REPORT
            )
        return claimed


class SuccessionChain(Message):
    """Successions of one coordinator's keys, oldest first; empty where they never changed."""

    links: Annotated[tuple[SignedSuccession, ...], Field(max_length=MAX_SUCCESSIONS)] = ()

    def since(self, pinned: PublicIdentity) -> SuccessionChain:
        """The links after ``pinned``, none of them verified.

        Raises IdentityError where these keys are neither followed by others nor the newest.
        """
        said = [link.claimed() for link in self.links]
        for place, succession in enumerate(said):
            if succession.former == pinned:
                return SuccessionChain(links=self.links[place:])
        if said and said[-1].new != pinned:
            raise IdentityError(
                "The successions of the coordinator's keys do not begin with the keys that are "
                f"trusted here, {fingerprint(pinned)}.",
                hint=_REPORT,
            )
        return SuccessionChain()

    def keys(
        self, federation: str, admin: PublicIdentity, pinned: PublicIdentity
    ) -> tuple[PublicIdentity, ...]:
        """``pinned`` and all keys that took its place, oldest first; every link is verified.

        Raises IdentityError naming the link.
        """
        found, number = [pinned], None
        for link in self.links:
            succession = link.open(federation, admin, found[-1])
            if number is not None and succession.number != number + 1:
                raise IdentityError(
                    f"Succession {succession.number} of the coordinator's keys follows number "
                    f"{number}.",
                    hint=_REPORT,
                )
            if succession.new in found:
                raise IdentityError(
                    f"Succession {succession.number} of the coordinator's keys goes back to "
                    f"earlier ones, {fingerprint(succession.new)}.",
                    hint=_REPORT,
                )
            found.append(succession.new)
            number = succession.number
        return tuple(found)

    def check_continues(self, known: SuccessionChain) -> None:
        """Raise IdentityError unless this begins with all of ``known``: it only ever grows."""
        for mine, theirs in zip(known.links, self.links, strict=False):
            if mine.sha256 != theirs.sha256:
                raise IdentityError(
                    f"There are two successions number {mine.claimed().number} of the "
                    "coordinator's keys, and another one is known here.",
                    hint=_REPORT,
                )
        if len(self.links) < len(known.links):
            raise IdentityError(
                "The coordinator went back to keys that were replaced: it shows "
                f"{len(self.links)} of the {len(known.links)} successions that are known here.",
                hint="Was it restored from a backup that is older than its keys? Ask the "
                "administrator by phone.",
            )
