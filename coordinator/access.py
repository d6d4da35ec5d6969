"""Who is calling: the request's signature, its nonce, and the roster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.context import Coordinator
from coordinator.errors import NotOnRoster
from coordinator.limits import Limits
from federation.errors import IdentityError
from federation.membership import Member
from federation.request_signing import MAX_SKEW_SECONDS, parse_signature, verify_headers


@dataclass(frozen=True)
class Head:
    """A request without its body: path as sent, query without ``?``, lower-case header names."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


def authenticate(coordinator: Coordinator, limits: Limits, request: Head) -> Member:
    """The member that signed this request, which is thereby used up; its body may be unread.

    Raises IdentityError for a bad signature or a replay, NotOnRoster for one who is no member,
    TooManyRequests for a member that asks too often.
    """
    signature = parse_signature(request.headers)
    hospital = signature.hospital
    member = coordinator.roster().member(hospital)
    former = None if member else coordinator.store.members.candidates().get(hospital)
    known = member or former
    if known is None:
        raise NotOnRoster(
            f"{hospital} is not known to {coordinator.federation}.",
            hint="Ask for an invite, then `appliance enrol INVITE`.",
        )
    verify_headers(
        signature,
        known.identity,
        request.headers,
        request.method,
        request.path,
        request.query,
        coordinator.clock(),
    )
    # Before the nonce, whose remembering waits for the disk.
    limits.charge_hospital(hospital)
    fresh = coordinator.store.members.remember_nonce(
        hospital,
        signature.nonce,
        expires=signature.created + MAX_SKEW_SECONDS,
        now=coordinator.clock(),
    )
    if not fresh:
        raise IdentityError("This request was sent before; a signature serves once.")
    if member is None:
        assert former is not None
        if former.revoked_at is not None:
            raise NotOnRoster(
                f"{hospital} was revoked and takes part no more.",
                hint="The coordinator's administrator can invite it again.",
            )
        raise NotOnRoster(
            f"{hospital} is enrolled and waits for approval.",
            hint="Read your fingerprint to the coordinator's administrator.",
        )
    return member
