"""What enrolling agreed on, as it is kept on disk, and the connection that follows from it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from appliance.client import CoordinatorClient
from appliance.config import NetworkSection, first_problem
from appliance.connection import Successor, tls_context
from appliance.paths import Paths
from federation.canonical import Message
from federation.errors import IdentityError
from federation.membership import Invite
from federation.messages import Name, PublicIdentity
from federation.signing import Identity

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
