"""Joining a federation: keys made here, an invite spent, and what was agreed kept on disk."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from appliance.client import CoordinatorClient
from appliance.config import NetworkSection, first_problem
from appliance.connection import Successor, tls_context
from appliance.paths import Paths
from appliance.policy import write_default_policy
from federation.canonical import Message, sha256
from federation.errors import IdentityError
from federation.files import write_atomically
from federation.membership import EnrolmentAnswer, EnrolmentRequest, Invite
from federation.messages import Name, PublicIdentity
from federation.signing import Identity, SignedDocument, fingerprint

_PASSPHRASE_VARIABLE = "FEDMED_PASSPHRASE"


class Enrolment(Message):
    """What this hospital agreed to: whom it trusts, and who it is there."""

    federation: Name
    hospital: Name
    url: str = Field(pattern=r"^https://[^\s]+$")
    coordinator: PublicIdentity
    admin: PublicIdentity
    ca_certificate: str | None


def read_invite(path: Path) -> Invite:
    """Read an invite file. Raises IdentityError naming the file and the field."""
    try:
        return Invite.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IdentityError(
            f"The invite {path} cannot be read: {error.strerror}.",
            hint="Give the path of the file that the coordinator sent.",
        ) from error
    except ValidationError as error:
        raise IdentityError(
            f"{path} is not an invite: {first_problem(error)}.",
            hint="Ask the coordinator for the file that `coordinator invite` wrote.",
        ) from error


def passphrase() -> str | None:
    """The passphrase of this hospital's keys, from FEDMED_PASSPHRASE."""
    return os.environ.get(_PASSPHRASE_VARIABLE)


def load_enrolment(paths: Paths) -> Enrolment:
    """What enrolling fixed. Raises IdentityError when this appliance is not enrolled."""
    try:
        return Enrolment.model_validate_json(paths.enrolment.read_bytes())
    except FileNotFoundError as error:
        raise IdentityError(
            f"This appliance is not enrolled ({paths.enrolment} does not exist).",
            hint="Run `appliance enrol INVITE` with the file from the coordinator.",
        ) from error
    except (OSError, ValidationError) as error:
        raise IdentityError(
            f"{paths.enrolment} cannot be read: {error}.", hint="Restore it or enrol again."
        ) from error


def enrol(invite_file: Path, paths: Paths, network: NetworkSection) -> EnrolmentAnswer:
    """Make this hospital's keys if there are none, and register them with the invite's token.

    Run again after a lost answer, it sends the same keys and gets the same answer. Raises
    IdentityError for an invite that is malformed, expired, spent, for another federation or with
    other trust anchors, and TransportError when the coordinator cannot be reached.
    """
    invite = read_invite(invite_file)
    if paths.enrolment.exists():
        _check_same(load_enrolment(paths), invite, paths)
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
        coordinator=invite.coordinator,
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
    start_afresh = (
        f"use another --home; or, to leave it, move {paths.enrolment}, {paths.rounds}, "
        f"{paths.audit} and {paths.adapters / 'global'} away first: they belong to it."
    )
    if (existing.federation, existing.hospital) != (invite.federation, invite.hospital):
        raise IdentityError(
            f"This appliance is already {existing.hospital!r} in {existing.federation!r}.",
            hint=f"For a second federation {start_afresh}",
        )
    for what, kept, offered in (
        ("coordinator key", fingerprint(existing.coordinator), fingerprint(invite.coordinator)),
        ("admin key", fingerprint(existing.admin), fingerprint(invite.admin)),
        ("CA certificate", _digest(existing.ca_certificate), _digest(invite.ca_certificate)),
    ):
        if kept != offered:
            raise IdentityError(
                f"The invite has another {what} ({offered}) than this appliance is enrolled "
                f"with ({kept}).",
                hint="Compare both with the coordinator's administrator by phone. "
                f"Only if that federation was made anew, {start_afresh}",
            )


def _digest(ca_certificate: str | None) -> str:
    return "none" if ca_certificate is None else f"SHA-256 {sha256(ca_certificate.encode())[:20]}"


def connect(
    enrolment: Enrolment,
    identity: Identity,
    network: NetworkSection,
    successors: Callable[[], Sequence[Successor]] = tuple,
) -> CoordinatorClient:
    """A client that speaks as this hospital to its coordinator."""
    context: ssl.SSLContext = tls_context(enrolment.ca_certificate, network.ca_file)
    return CoordinatorClient(
        url=enrolment.url,
        hospital=enrolment.hospital,
        key=identity.ed25519,
        verify=context,
        proxy=network.proxy or None,
        timeout_seconds=network.timeout_seconds,
        successors=successors,
    )
