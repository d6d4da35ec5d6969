"""``appliance keys rotate``: new keys, asked for by the old ones and themselves."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.context import Context
from appliance.keys import load_keys, prepare_next
from appliance.session import open_session
from federation.errors import IdentityError
from federation.rotation import RotationRequest
from federation.signing import fingerprint


@dataclass(frozen=True)
class RotationOutcome:
    """Fingerprints of the keys in use and of the new ones; these are in use where approved."""

    hospital: str
    fingerprint: str
    new_fingerprint: str
    status: str


def rotate(context: Context) -> RotationOutcome:
    """Make new keys, unless some wait already, and ask the coordinator for them.

    The same call again asks again and learns whether the administrator has signed them. Raises
    TransportError and IdentityError; the present keys then stay in use.
    """
    current = load_keys(context.paths).current
    new = prepare_next(context.paths)
    with open_session(context) as session:
        enrolment = session.enrolment
        request = RotationRequest.make(enrolment.federation, enrolment.hospital, current, new)
        answer = session.client.rotate(request)
    expected = fingerprint(new.public())
    if answer.fingerprint != expected:
        raise IdentityError(
            "The coordinator answered with the fingerprint of other keys.",
            hint="Do not go on; tell the coordinator's administrator by phone.",
        )
    return RotationOutcome(
        enrolment.hospital, fingerprint(current.public()), expected, answer.status
    )
