"""``coordinator keys rotate-wrapping``: a new key for the secrets of rounds that are not over."""

from __future__ import annotations

from coordinator.context import Coordinator
from federation.errors import StorageError


def rotate_wrapping(coordinator: Coordinator) -> list[int]:
    """Wrap the secret of the round under way by a new key; gives the rounds that had one.

    A server may run meanwhile. Killed at any point, the same call finishes it. Raises StorageError
    for a secret that the present key does not open: then nothing was changed.
    """
    federation = coordinator.federation
    with coordinator.wrapping.replaced() as key:

        def anew(wrapped: bytes, number: int) -> bytes | None:
            try:
                key.unwrap(wrapped, federation, number)
            except StorageError:
                seed = coordinator.wrapping.unwrap(wrapped, federation, number)
                return key.wrap(seed, federation, number)
            return None  # By a run that was cut off.

        changed = coordinator.store.rounds.rewrap(anew)
        coordinator.store.database.empty_log()
    coordinator.emit("wrapping_rotated", rounds=len(changed))
    return changed
