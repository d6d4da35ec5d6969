"""How a hospital becomes a member: invite, enrolment, approval; and how it ceases to be one."""

from __future__ import annotations

import secrets

from pydantic import ValidationError

from coordinator.context import Coordinator
from coordinator.store.members import Candidate, InviteRow
from coordinator.store.rotations import Rotation
from federation.canonical import sha256
from federation.errors import IdentityError, InputError
from federation.log import Kind
from federation.membership import EnrolmentAnswer, EnrolmentRequest, Invite, Member, Roster
from federation.signing import Identity, SignedDocument, fingerprint

_NEW_INVITE = "Ask the coordinator's administrator for a new invite."


def create_invite(
    coordinator: Coordinator, hospital: str, *, url: str, ca_certificate: str | None, hours: int
) -> Invite:
    """A one-time invite bound to one hospital; only the token's digest is kept.

    Raises InputError for a malformed name or a hospital that is a member.
    """
    if coordinator.roster().member(hospital):
        raise InputError(
            f"{hospital} is on the roster already.",
            hint=f"`coordinator revoke {hospital}` first, if it needs new keys.",
        )
    try:
        invite = Invite(
            federation=coordinator.federation,
            hospital=hospital,
            url=url,
            coordinator=coordinator.identity.public(),
            admin=coordinator.admin,
            ca_certificate=ca_certificate,
            token=secrets.token_urlsafe(32),
            expires=coordinator.clock() + hours * 3600,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"Invite, {problem['loc'][0]}: {problem['msg']}.") from error
    coordinator.store.members.add_invite(
        InviteRow(sha256(invite.token.encode()), hospital, invite.expires)
    )
    return invite


def enrol(coordinator: Coordinator, document: SignedDocument) -> EnrolmentAnswer:
    """Record a hospital's keys under its token. The same request again gets the same answer.

    Raises IdentityError: bad proof of possession, wrong, expired or used token.
    """
    try:
        claimed = EnrolmentRequest.model_validate_json(document.body)
    except ValidationError as error:
        raise IdentityError(f"The enrolment is malformed: {error.errors()[0]['msg']}.") from error
    request = document.open(EnrolmentRequest, claimed.identity, "enrolment")
    token_sha256 = sha256(request.token.encode())
    invite = coordinator.store.members.invite(token_sha256)
    if (
        invite is None
        or invite.hospital != request.hospital
        or request.federation != coordinator.federation
    ):
        raise IdentityError(
            f"The token is not valid for {request.hospital} in {request.federation}.",
            hint=_NEW_INVITE,
        )
    used_by = request.identity.digest()
    now = coordinator.clock()
    if invite.used_by is None and now > invite.expires:
        raise IdentityError("The invite has expired.", hint=_NEW_INVITE)
    candidate = Candidate(request.hospital, request.identity, now)
    if invite.used_by is None:
        if coordinator.store.members.use_invite(token_sha256, used_by, candidate):
            coordinator.emit("enrolled", hospital=request.hospital)
        # Another request may have spent the token meanwhile: ask who did.
        invite = coordinator.store.members.invite(token_sha256)
    if invite is None or invite.used_by != used_by:
        raise IdentityError("The invite was used already, with other keys.", hint=_NEW_INVITE)
    member = coordinator.roster().member(request.hospital)
    approved = member is not None and member.identity == request.identity
    return EnrolmentAnswer(
        hospital=request.hospital,
        fingerprint=fingerprint(request.identity),
        status="approved" if approved else "waiting",
    )


def candidate(coordinator: Coordinator, hospital: str) -> Candidate:
    """The hospital's enrolment that may be approved. Raises InputError when there is none."""
    found = coordinator.store.members.candidates().get(hospital)
    if found is None or found.revoked_at is not None:
        raise InputError(
            f"{hospital} has not enrolled{' again since it was revoked' if found else ''}.",
            hint=f"`coordinator invite {hospital}` makes its invite; the hospital then enrols.",
        )
    return found


def approve(
    coordinator: Coordinator, admin: Identity, hospital: str, *, expected: str | None = None
) -> Roster:
    """Sign the enrolled hospital into the roster; a member with the same keys stays as it is.

    ``expected`` is the fingerprint that the hospital read out. Raises InputError, IdentityError.
    """
    check_admin(coordinator, admin)
    entry = candidate(coordinator, hospital)
    found = fingerprint(entry.identity)
    if expected is not None and expected.strip().upper() != found:
        raise IdentityError(
            f"{hospital} enrolled with the fingerprint {found}, not {expected}.",
            hint="Do not approve it: compare both by phone, and invite again if they differ.",
        )
    roster = coordinator.roster()
    member = Member(hospital=hospital, identity=entry.identity)
    if roster.member(hospital) == member:
        return roster
    others = [m for m in roster.members if m.hospital != hospital]
    return sign_roster(
        coordinator, admin, roster, [*others, member], kind="approval", hospital=hospital
    )


def revoke(coordinator: Coordinator, admin: Identity, hospital: str) -> Roster:
    """Sign a roster without the hospital; effective at its next request.

    Raises InputError when it is no member, IdentityError for another admin key.
    """
    check_admin(coordinator, admin)
    roster = coordinator.roster()
    if roster.member(hospital) is None:
        raise InputError(f"{hospital} is not on the roster.", hint="`coordinator status` shows it.")
    others = [m for m in roster.members if m.hospital != hospital]
    return sign_roster(coordinator, admin, roster, others, kind="revocation", hospital=hospital)


def check_admin(coordinator: Coordinator, admin: Identity) -> None:
    """Raises IdentityError unless this is the federation's admin key."""
    if admin.public() != coordinator.admin:
        raise IdentityError(
            "This is not the federation's admin key.",
            hint="Give the file that `coordinator init` wrote, with --admin-key.",
        )


def sign_roster(
    coordinator: Coordinator,
    admin: Identity,
    before: Roster,
    members: list[Member],
    *,
    kind: Kind,
    hospital: str,
    rotation: Rotation | None = None,
) -> Roster:
    """Sign and keep the roster that follows ``before``; ``kind`` is why, for the audit log."""
    roster = Roster(
        federation=before.federation,
        version=before.version + 1,
        members=tuple(sorted(members, key=lambda m: m.hospital)),
    )
    coordinator.store.members.add_roster(
        roster.version,
        SignedDocument.sign(roster, admin, "roster"),
        kind=kind,
        hospital=hospital,
        rotation=rotation,
    )
    return roster
