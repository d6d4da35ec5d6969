"""What ``appliance status`` and the overview screen show: here, and at the coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance import adapters
from appliance.adopted import Adoption, read_adoption
from appliance.context import Context
from appliance.enrolment import passphrase
from appliance.rounds.global_adapter import kept_record
from appliance.rounds.outbox import Outbox
from appliance.rounds.participation import read_metadata
from appliance.session import open_session, read_traffic
from appliance.trust import Trust, load_trust
from federation.errors import FedMedError, TransportError
from federation.signing import Identity, fingerprint

Stage = Literal["descriptor", "trained", "sealed", "delivered"]


@dataclass(frozen=True)
class LocalRound:
    """How far this hospital is with one round, and its held-out losses if it trained.

    ``weight`` is what its update counted for by the signed record that ``appliance sync`` fetched,
    None where it was left out or there is no record here; ``why`` is what the record says of it.
    """

    round: int
    stage: Stage
    loss_before: float | None
    loss_after: float | None
    weight: float | None = None
    why: str = ""


@dataclass(frozen=True)
class ApplianceStatus:
    """``coordinator`` says what the coordinator answered, or why it did not; in that case
    ``exit_code`` is that of the error. ``quarantine`` says why this hospital's update waits to be
    admitted by a person there, ``adoption`` which adapter is in use here. ``coordinator_keys`` is
    the fingerprint of the keys by which the coordinator is believed, ``key_changes`` how often they
    were replaced since this hospital enrolled."""

    federation: str
    hospital: str
    url: str
    fingerprint: str
    round: int | None
    round_state: str | None
    delivered: bool | None
    coordinator: str
    exit_code: int
    rounds: tuple[LocalRound, ...]
    global_rounds: tuple[int, ...]
    bytes_sent: int
    bytes_received: int
    quarantine: str = ""
    adoption: Adoption | None = None
    coordinator_keys: str = ""
    key_changes: int = 0


def read_status(context: Context) -> ApplianceStatus:
    """Ask disk and coordinator. Raises IdentityError when not enrolled; a coordinator that does
    not answer is part of the status, not an error."""
    trust = load_trust(context.paths)
    enrolment = trust.enrolment
    identity = Identity.load(context.paths.keys, passphrase())
    number: int | None = None
    state: str | None = None
    delivered: bool | None = None
    answer, quarantine = "answers", ""
    exit_code = 0
    try:
        with open_session(context) as session:
            # First: one that was revoked or waits is told no more than which keys sign.
            session.trust.learn(session.client)
            current = session.client.current()
        number, state, delivered = current.round, current.state, current.delivered
        quarantine = current.quarantine
    except TransportError as error:
        answer, exit_code = f"does not answer: {error}", error.exit_code
    except FedMedError as error:
        answer, exit_code = f"refuses: {error}", error.exit_code
    traffic = read_traffic(context.paths)
    return ApplianceStatus(
        federation=enrolment.federation,
        hospital=enrolment.hospital,
        url=enrolment.url,
        fingerprint=fingerprint(identity.public()),
        round=number,
        round_state=state,
        delivered=delivered,
        coordinator=answer,
        exit_code=exit_code,
        rounds=tuple(local_rounds(context)),
        global_rounds=tuple(adapters.global_rounds(context.paths)),
        bytes_sent=traffic.sent,
        bytes_received=traffic.received,
        quarantine=quarantine,
        adoption=read_adoption(context.paths),
        coordinator_keys=fingerprint(trust.newest),
        key_changes=len(trust.chain().links),
    )


def local_rounds(context: Context) -> list[LocalRound]:
    """The rounds that this appliance has a folder for, in order."""
    trust = load_trust(context.paths)
    identity = Identity.load(context.paths.keys, passphrase())
    found: list[LocalRound] = []
    for folder in sorted(context.paths.rounds.glob("[0-9]*")):
        outbox = Outbox(folder / "outbox", trust, identity)
        metadata = read_metadata(folder)
        stage: Stage = "descriptor" if metadata is None else "trained"
        if metadata is not None and outbox.sealed():
            stage = "delivered" if outbox.receipt() else "sealed"
        weight, why = _counted(folder, trust)
        found.append(
            LocalRound(
                int(folder.name),
                stage,
                metadata.loss_before if metadata else None,
                metadata.loss_after if metadata else None,
                weight,
                why,
            )
        )
    return found


def _counted(folder: Path, trust: Trust) -> tuple[float | None, str]:
    """What the round's record here says of this hospital's update: its weight, and why."""
    record, hospital = kept_record(folder, trust), trust.enrolment.hospital
    if record is None:
        return None, ""
    for contribution in record.contributions:
        if contribution.hospital == hospital:
            return contribution.weight, contribution.explanation
    for rejection in record.rejections:
        if rejection.hospital == hospital:
            return None, f"left out: {rejection.reason}"
    return None, ""
