"""The signed documents that this hospital holds, which the audit log must hold too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from appliance.trust import Trust
from federation.errors import StorageError
from federation.signing import SignedDocument

_FILES = ("roster.json", "descriptor.json", "extension.json", "outbox/receipt.json", "record.json")


@dataclass(frozen=True)
class Held:
    """A document, where it lies, and the digest of its signed text."""

    path: Path
    sha256: str


def held_documents(rounds: Path) -> list[Held]:
    """Every roster, descriptor, extension, receipt and record below the folder of rounds.

    Raises StorageError for a file that cannot be read.
    """
    paths = [
        folder / name
        for folder in sorted(rounds.glob("[0-9]*"))
        for name in _FILES
        if (folder / name).exists()
    ]
    return [Held(path, _digest(path)) for path in paths]


def held_successions(trust: Trust) -> list[Held]:
    """Every succession of the coordinator's keys that this hospital followed."""
    return [Held(trust.file, link.sha256) for link in trust.chain().links]


def _digest(path: Path) -> str:
    try:
        return SignedDocument.model_validate_json(path.read_bytes()).body_sha256
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.", hint="Restore it, or remove it to fetch it again."
        ) from error
