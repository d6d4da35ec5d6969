"""Who is calling: the request's signature, its nonce, and the roster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.context import Coordinator
from coordinator.errors import NotOnRoster
from coordinator.limits import Limits
from coordinator.store.members import Candidate
from federation.errors import IdentityError
from federation.membership import Member
from federation.request_signing import (
    MAX_SKEW_SECONDS,
    RequestSignature,
    parse_signature,
    verify_headers,
)


@dataclass(frozen=True)
class Head:
    """A request without its body: path as sent, query without ``?``, lower-case header names."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Caller:
    """Who signed a request; ``member`` is None for one who is not on the roster, with the reason.

    Nothing is done for a caller before ``use_up``.
    """

    signature: RequestSignature
    member: Member | None
    reason: NotOnRoster | None = None


def authenticate(coordinator: Coordinator, limits: Limits, request: Head) -> Caller:
    """Who signed this request, whose body may be unread.

    Raises IdentityError for a bad signature, NotOnRoster for one who is not known, TooManyRequests
    for a hospital that asks too often.
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
    return Caller(signature, member, None if former is None else _not_on_roster(former))


def use_up(coordinator: Coordinator, caller: Caller) -> Member:
    """The member that calls; its signature, durably remembered, serves no second time.

    Raises IdentityError for a replay, NotOnRoster for one who is no member.
    """
    signature = caller.signature
    fresh = coordinator.store.members.remember_nonce(
        signature.hospital,
        signature.nonce,
        expires=signature.created + MAX_SKEW_SECONDS,
        now=coordinator.clock(),
    )
    if not fresh:
        raise IdentityError("This request was sent before; a signature serves once.")
    if caller.member is None:
        assert caller.reason is not None
        raise caller.reason
    return caller.member


def _not_on_roster(former: Candidate) -> NotOnRoster:
    if former.revoked_at is not None:
        return NotOnRoster(
            f"{former.hospital} was revoked and takes part no more.",
            hint="The coordinator's administrator can invite it again.",
        )
    return NotOnRoster(
        f"{former.hospital} is enrolled and waits for approval.",
        hint="Read your fingerprint to the coordinator's administrator.",
    )
