"""Joining a federation: keys made here, an invite spent, and what was agreed kept on disk."""

from __future__ import annotations

import time
from pathlib import Path

from appliance.client import CoordinatorClient
from appliance.config import NetworkSection
from appliance.enrolment import Enrolment, connect, load_enrolment, passphrase, read_invite
from appliance.paths import Paths
from appliance.policy import write_default_policy
from appliance.trust import Trust
from federation.canonical import sha256
from federation.errors import IdentityError
from federation.files import write_atomically
from federation.membership import EnrolmentAnswer, EnrolmentRequest, Invite
from federation.signing import Identity, SignedDocument, fingerprint


def enrol(invite_file: Path, paths: Paths, network: NetworkSection) -> EnrolmentAnswer:
    """Make this hospital's keys if there are none, and register them with the invite's token.

    Run again after a lost answer, it sends the same keys and gets the same answer. Raises
    IdentityError for an invite that is malformed, expired, spent, for another federation or with
    other trust anchors, and TransportError when the coordinator cannot be reached.
    """
    invite = read_invite(invite_file)
    existing = load_enrolment(paths) if paths.enrolment.exists() else None
    if existing is not None:
        _check_same(existing, invite, paths)
    # Where keys exist the answer may have been lost: the coordinator knows whether it was given.
    if invite.expires < time.time() and not paths.keys.exists():
        raise IdentityError(
            f"The invite {invite_file} expired at {time.ctime(invite.expires)}.",
            hint="Ask the coordinator for a new one (`coordinator invite`).",
        )
    if not paths.keys.exists():
        Identity.generate().save(paths.keys, passphrase())
    identity = Identity.load(paths.keys, passphrase())
    enrolment = Enrolment(
        federation=invite.federation,
        hospital=invite.hospital,
        url=invite.url,
        # What is here was signed by keys that lead from those that were pinned first.
        coordinator=(existing or invite).coordinator,
        admin=invite.admin,
        ca_certificate=invite.ca_certificate,
    )
    request = EnrolmentRequest(
        federation=invite.federation,
        hospital=invite.hospital,
        token=invite.token,
        identity=identity.public(),
    )
    with connect(enrolment, identity, network) as client:
        _check_led_to(Trust(enrolment, paths.coordinator_keys), invite, client, paths)
        answer = client.enrol(SignedDocument.sign(request, identity, "enrolment"))
    if answer.fingerprint != fingerprint(identity.public()):
        raise IdentityError(
            "The coordinator answered with the fingerprint of other keys.",
            hint="Do not go on; tell the coordinator's administrator by phone.",
        )
    write_default_policy(paths.policy)
    write_atomically(paths.enrolment, enrolment.to_json())
    return answer


def _check_same(existing: Enrolment, invite: Invite, paths: Paths) -> None:
    """Refuse an invite that would replace whom this appliance trusts. Raises IdentityError."""
    if (existing.federation, existing.hospital) != (invite.federation, invite.hospital):
        raise IdentityError(
            f"This appliance is already {existing.hospital!r} in {existing.federation!r}.",
            hint=f"For a second federation {_start_afresh(paths)}",
        )
    for what, kept, offered in (
        ("admin key", fingerprint(existing.admin), fingerprint(invite.admin)),
        ("CA certificate", _digest(existing.ca_certificate), _digest(invite.ca_certificate)),
    ):
        if kept != offered:
            raise _other(what, kept, offered, paths)


def _check_led_to(trust: Trust, invite: Invite, client: CoordinatorClient, paths: Paths) -> None:
    """Refuse an invite of coordinator keys to which no succession leads from those known here."""
    if invite.coordinator not in trust.known_keys:
        trust.learn(client)
    if invite.coordinator not in trust.known_keys:
        kept, offered = fingerprint(trust.newest), fingerprint(invite.coordinator)
        raise _other("coordinator key", kept, offered, paths)


def _other(what: str, kept: str, offered: str, paths: Paths) -> IdentityError:
    return IdentityError(
        f"The invite has another {what} ({offered}) than this appliance is enrolled with ({kept}).",
        hint="Compare both with the coordinator's administrator by phone. "
        f"Only if that federation was made anew, {_start_afresh(paths)}",
    )


def _start_afresh(paths: Paths) -> str:
    return (
        f"use another --home; or, to leave it, move {paths.enrolment}, {paths.coordinator_keys}, "
        f"{paths.rounds}, {paths.audit} and {paths.adapters / 'global'} away first: they belong "
        "to it."
    )


def _digest(ca_certificate: str | None) -> str:
    return "none" if ca_certificate is None else f"SHA-256 {sha256(ca_certificate.encode())[:20]}"
