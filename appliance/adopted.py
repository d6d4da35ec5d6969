"""Which adapter this hospital has adopted, and why: one file, ``adapters/adopted.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from appliance.paths import Paths
from federation.canonical import Message, Sha256
from federation.errors import StorageError
from federation.files import write_atomically

Rule = Literal["always", "not-worse", "best", "mixture"]
"""How a hospital decides about a new global adapter (``appliance.rounds.adopting``)."""


class Adoption(Message):
    """The decision after round ``round``.

    ``choice`` is the adapter in use since, as ``appliance.adapters.find`` knows it, of which
    ``sha256`` is the digest, None for the plain base. ``losses`` are the held-out losses that were
    compared, in nats a completion token, by what was measured. ``global_part`` is how much of the
    global adapter is in a personal one, 0 to 1.
    """

    round: int = Field(ge=1)
    choice: str
    sha256: Sha256 | None
    rule: Rule
    reason: str
    losses: dict[str, float]
    n_held_out: int = Field(gt=0)
    global_part: float | None = Field(None, ge=0, le=1)
    at: float


def read_adoption(paths: Paths) -> Adoption | None:
    """The last decision, None before the first. Raises StorageError naming the file."""
    path = paths.adapters / "adopted.json"
    try:
        return Adoption.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.", hint="Remove it; `appliance sync` decides anew."
        ) from error


def keep_adoption(paths: Paths, adoption: Adoption) -> None:
    """Write the decision where it holds from now on, and beside its round for the record."""
    write_atomically(paths.round(adoption.round) / "adoption.json", adoption.to_json())
    write_atomically(paths.adapters / "adopted.json", adoption.to_json())
