"""New keys for a member: asked for by itself, in force once the administrator has signed them."""

from __future__ import annotations

from coordinator.context import Coordinator
from coordinator.enrolment import check_admin, sign_roster
from coordinator.errors import TooManyRequests
from coordinator.store.rotations import Rotation
from federation.errors import IdentityError, InputError
from federation.membership import EnrolmentAnswer, Member, Roster
from federation.messages import PublicIdentity
from federation.rotation import KeyRotation, RotationRequest
from federation.signing import Identity, fingerprint

_PAUSE_SECONDS = 600


def ask(coordinator: Coordinator, member: Member, request: RotationRequest) -> EnrolmentAnswer:
    """Note the keys that a member wants; the same request again gets the present answer.

    Raises IdentityError where a signature does not verify or the keys were in use before,
    TooManyRequests for other keys than those asked for within the last ten minutes.
    """
    new = request.claimed().identity
    approved = new == member.identity
    if not approved:
        rotation = request.open(coordinator.federation, member.hospital, member.identity)
        rotations = coordinator.store.rotations
        _check_pace(coordinator, rotation)
        if rotation.identity.digest() in rotations.earlier_keys(member.identity.digest()):
            raise IdentityError(
                f"{member.hospital} had these keys before.", hint="Make new ones: keys rotate."
            )
        if rotations.ask(
            Rotation(member.hospital, rotation.old_sha256, rotation.identity, coordinator.clock())
        ):
            coordinator.emit(
                "rotation_asked", hospital=member.hospital, fingerprint=fingerprint(new)
            )
    return EnrolmentAnswer(
        hospital=member.hospital,
        fingerprint=fingerprint(new),
        status="approved" if approved else "waiting",
    )


def _check_pace(coordinator: Coordinator, asked: KeyRotation) -> None:
    """Raise TooManyRequests where others were asked for just before: each is logged for ever."""
    waiting = coordinator.store.rotations.waiting(asked.hospital)
    if waiting is None or waiting.identity == asked.identity:
        return
    since = coordinator.clock() - waiting.requested_at
    if 0 <= since < _PAUSE_SECONDS:
        raise TooManyRequests.after(_PAUSE_SECONDS - since, "hospital")


def pending(coordinator: Coordinator, hospital: str) -> Rotation | None:
    """The rotation that waits for the administrator, if the hospital is a member and asked."""
    member = coordinator.roster().member(hospital)
    found = coordinator.store.rotations.waiting(hospital)
    if member is None or found is None or found.old_sha256 != member.identity.digest():
        return None
    return found


def approve_rotation(
    coordinator: Coordinator, admin: Identity, hospital: str, *, expected: str
) -> Roster:
    """Sign the new keys into the roster: requests need them from now on.

    ``expected`` is the new keys' fingerprint that the hospital read out. Raises IdentityError,
    InputError without a pending rotation, StorageError where it changed meanwhile.
    """
    check_admin(coordinator, admin)
    rotation = pending(coordinator, hospital)
    if rotation is None:
        raise InputError(
            f"{hospital} has not asked for new keys.", hint="There: `appliance keys rotate`."
        )
    found = fingerprint(rotation.identity)
    if expected.strip().upper() != found:
        raise IdentityError(
            f"{hospital} asked for the keys {found}, not {expected}.",
            hint="Do not approve them: compare both by phone; revoke it if they differ.",
        )
    roster = coordinator.roster()
    others = [m for m in roster.members if m.hospital != hospital]
    member = Member(hospital=hospital, identity=rotation.identity)
    return sign_roster(
        coordinator,
        admin,
        roster,
        [*others, member],
        kind="rotation",
        hospital=hospital,
        rotation=rotation,
    )


def same_member(coordinator: Coordinator, then: Member, now: PublicIdentity) -> bool:
    """Whether a hospital's present keys are those of ``then`` or came from them by rotations.

    A hospital that was revoked and invited anew is another one in this sense.
    """
    if then.identity == now:
        return True
    return then.identity.digest() in coordinator.store.rotations.earlier_keys(now.digest())
