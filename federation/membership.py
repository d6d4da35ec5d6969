"""Who takes part: the roster, and how a hospital comes onto it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from federation.canonical import Message
from federation.messages import Count, Name, PublicIdentity, Timestamp


class Member(Message):
    """One hospital on the roster."""

    hospital: Name
    identity: PublicIdentity


class Roster(Message):
    """Who may take part, sorted by hospital; signed by the admin key."""

    v: Literal[1] = 1
    federation: Name
    version: Count
    members: tuple[Member, ...]

    def member(self, hospital: str) -> Member | None:
        """The hospital's entry, or None."""
        return next((m for m in self.members if m.hospital == hospital), None)


class Invite(Message):
    """The file that a coordinator hands to a hospital; the token is a secret, for one use."""

    v: Literal[1] = 1
    federation: Name
    hospital: Name
    url: str = Field(pattern=r"^https://[^\s]+$", max_length=300)
    coordinator: PublicIdentity
    admin: PublicIdentity
    ca_certificate: str | None = Field(max_length=20_000)
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    expires: Timestamp


class EnrolmentRequest(Message):
    """A hospital's public keys under its token; sent signed by those keys (proof of possession)."""

    v: Literal[1] = 1
    federation: Name
    hospital: Name
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    identity: PublicIdentity


class EnrolmentAnswer(Message):
    """The enrolment is recorded and waits for the administrator."""

    hospital: Name
    fingerprint: str
    status: Literal["waiting", "approved"]
