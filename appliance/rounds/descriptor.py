"""A round's descriptor and its roster, fetched once and verified before anything is believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from appliance.client import CoordinatorClient
from appliance.enrolment import Enrolment
from appliance.trust import Trust
from federation.canonical import Message
from federation.errors import IdentityError, RoundError, StorageError
from federation.files import write_atomically
from federation.membership import Roster
from federation.messages import SUITE, PublicIdentity, RoundDescriptor
from federation.signing import SignedDocument

_DESCRIPTOR = "descriptor.json"
_ROSTER = "roster.json"
_NEWEST = "newest-roster.json"
_REPORT = "Do not take part; tell the coordinator's administrator."


@dataclass(frozen=True)
class VerifiedRound:
    """A descriptor whose signature, suite, federation and roster were checked.

    ``own`` are this hospital's keys for this round: those of its roster, which its update is signed
    by also when they are rotated meanwhile.
    """

    descriptor: RoundDescriptor
    sha256: str
    roster: Roster
    own: PublicIdentity


class NewestRoster(Message):
    """The newest round that was verified here, and the highest version of a roster."""

    round: int = Field(0, ge=0)
    version: int = Field(0, ge=0)


def _verify(
    descriptor: RoundDescriptor,
    sha256: str,
    roster: SignedDocument,
    enrolment: Enrolment,
    *own: PublicIdentity,
) -> VerifiedRound:
    _same_federation("descriptor", descriptor.federation, enrolment)
    if descriptor.suite != SUITE:
        raise IdentityError(
            f"Round {descriptor.round} uses the suite {descriptor.suite!r}, not {SUITE!r}.",
            hint="A weaker suite is never accepted; are both sides on the same version?",
        )
    if roster.body_sha256 != descriptor.roster_sha256:
        raise IdentityError("The roster is not the one that the descriptor names.", hint=_REPORT)
    members = roster.open(Roster, enrolment.admin, "roster")
    _same_federation("roster", members.federation, enrolment)
    member = members.member(enrolment.hospital)
    if member is None or member.identity not in own:
        raise RoundError(
            f"{enrolment.hospital!r} is not on the roster of round {descriptor.round}.",
            hint="The coordinator approves a hospital before it opens a round.",
        )
    return VerifiedRound(descriptor, sha256, members, member.identity)


def _same_federation(what: str, federation: str, enrolment: Enrolment) -> None:
    if federation != enrolment.federation:
        raise IdentityError(
            f"The {what} is of federation {federation!r}, not {enrolment.federation!r}.",
            hint=_REPORT,
        )


def _check_not_rolled_back(verified: VerifiedRound, file: Path) -> None:
    """Refuse an older roster than an earlier round had, and remember the newest in ``file``.

    Without this a coordinator could bring a revoked hospital back with a roster that the admin
    key once signed. An earlier round than the newest seen may have an earlier roster.
    """
    newest = _read_newest(file)
    number, version = verified.descriptor.round, verified.roster.version
    if number >= newest.round and version < newest.version:
        raise IdentityError(
            f"Round {number} has version {version} of the roster; round {newest.round} had "
            f"version {newest.version} already.",
            hint=_REPORT,
        )
    seen = NewestRoster(round=max(number, newest.round), version=max(version, newest.version))
    if seen != newest:
        write_atomically(file, seen.to_json())


def _read_newest(file: Path) -> NewestRoster:
    try:
        return NewestRoster.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return NewestRoster()
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{file} cannot be read: {error}.",
            hint="Restore it, or remove it once the coordinator confirmed the roster's version.",
        ) from error


def _read(path: Path) -> SignedDocument | None:
    try:
        return SignedDocument.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def fetch_round(
    client: CoordinatorClient,
    number: int,
    folder: Path,
    trust: Trust,
    *own: PublicIdentity,
) -> VerifiedRound:
    """The round's verified descriptor, from ``folder`` where it was kept, else fetched and kept.

    ``own`` are the keys that this hospital holds, of which the round's roster must name some.
    Raises RoundError when there is no such round or this hospital is not on its roster,
    IdentityError when anything does not verify or the roster is older than an earlier round's.
    """
    newest = folder.parent / _NEWEST
    signed, roster = _read(folder / _DESCRIPTOR), _read(folder / _ROSTER)
    if signed is None or roster is None:
        signed, descriptor = trust.fetch(
            client, lambda: client.descriptor(number), RoundDescriptor, "descriptor"
        )
        if descriptor.round != number:
            raise IdentityError(
                f"Asked for round {number}, got round {descriptor.round}.", hint=_REPORT
            )
        roster = client.roster(descriptor.roster_sha256)
        verified = _verify(descriptor, signed.body_sha256, roster, trust.enrolment, *own)
        _check_not_rolled_back(verified, newest)
        write_atomically(folder / _ROSTER, roster.to_json())
        write_atomically(folder / _DESCRIPTOR, signed.to_json())
        return verified
    descriptor = trust.open_held(signed, RoundDescriptor, "descriptor")
    verified = _verify(descriptor, signed.body_sha256, roster, trust.enrolment, *own)
    _check_not_rolled_back(verified, newest)
    return verified
