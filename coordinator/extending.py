"""A later deadline for an open round: a signed document of its own, since a descriptor is final."""

from __future__ import annotations

from coordinator.context import Coordinator
from coordinator.errors import NoSuchRound
from coordinator.rounds import State
from coordinator.store.round_row import RoundRow
from federation.errors import RoundClosed, RoundError
from federation.messages import RoundExtension
from federation.signing import SignedDocument

_ADMINISTRATOR = "extended by the administrator"


def extend_automatically(coordinator: Coordinator, row: RoundRow, reason: str) -> bool:
    """Move the deadline as the descriptor allows; False where it was moved meanwhile.

    It counts from now, so that hospitals have the whole of it also after the coordinator was down.
    """
    used = row.extended.automatic if row.extended else 0
    deadline = coordinator.clock() + row.descriptor.extension_minutes * 60
    return _extend(coordinator, row, deadline, used + 1, reason)


def extend_by_hand(coordinator: Coordinator, number: int, minutes: int) -> RoundRow:
    """Add ``minutes`` to an open round's deadline.

    Raises NoSuchRound, RoundClosed, and RoundError where it was moved at the same time.
    """
    row = coordinator.store.rounds.get(number)
    if row is None:
        raise NoSuchRound(f"There is no round {number}.")
    if row.state is not State.OPEN:
        raise RoundClosed(
            f"Round {number} is {row.state}; it cannot be extended.",
            hint="`coordinator round open` opens the next one.",
        )
    used = row.extended.automatic if row.extended else 0
    deadline = max(row.deadline, coordinator.clock()) + minutes * 60
    if not _extend(coordinator, row, deadline, used, _ADMINISTRATOR):
        raise RoundError(
            f"Round {number} was closed or extended at the same time.",
            hint="`coordinator status` shows it.",
        )
    after = coordinator.store.rounds.get(number)
    assert after is not None
    return after


def _extend(
    coordinator: Coordinator, row: RoundRow, deadline: int, automatic: int, reason: str
) -> bool:
    extension = RoundExtension(
        federation=coordinator.federation,
        round=row.number,
        descriptor_sha256=row.document.body_sha256,
        number=row.extended.number + 1 if row.extended else 1,
        automatic=automatic,
        deadline=deadline,
        reason=reason,
    )
    signed = SignedDocument.sign(extension, coordinator.identity, "extension")
    done = coordinator.store.rounds.extend(row.number, row.extension, signed, reason)
    if done:
        coordinator.emit("round_extended", round=row.number, deadline=deadline, reason=reason)
    return done
