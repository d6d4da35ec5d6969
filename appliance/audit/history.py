"""What this hospital has seen of the audit log, on disk: checkpoint, entries, proofs, evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from appliance.trust import Trust
from federation.errors import AuditError, StorageError
from federation.files import atomic_writer, storage_errors, write_atomically
from federation.log import Checkpoint, Evidence
from federation.signing import SignedDocument

_RESTORE = "Restore the folder from a backup, or run `appliance audit accept`."


def open_checkpoint(document: SignedDocument, trust: Trust) -> Checkpoint:
    """A checkpoint of this federation, signed by any keys that its coordinator had.

    Raises IdentityError.
    """
    found = trust.open_held(document, Checkpoint, "checkpoint")
    check_federation(found, trust)
    return found


def check_federation(found: Checkpoint, trust: Trust) -> None:
    """Raise AuditError unless the checkpoint is of this hospital's federation."""
    if found.federation != (expected := trust.enrolment.federation):
        raise AuditError(f"The checkpoint is of federation {found.federation!r}, not {expected!r}.")


class History:
    """The files of one enrolment in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checkpoint = folder / "checkpoint.json"
        self._entries = folder / "entries.jsonl"

    def last(self) -> SignedDocument | None:
        """The newest checkpoint that was verified here, None before the first."""
        try:
            return SignedDocument.model_validate_json(self._checkpoint.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{self._checkpoint} cannot be read: {error}.", hint=_RESTORE
            ) from error

    def keep(self, document: SignedDocument) -> None:
        """Remember a checkpoint that was verified to follow the last one."""
        write_atomically(self._checkpoint, document.to_json())

    def entries(self) -> Iterator[str]:
        """The entries that were copied so far."""
        if not self._entries.exists():
            return
        # What is no text any more is no entry either: whoever reads it finds the copy damaged.
        with (
            storage_errors(self._entries),
            self._entries.open(encoding="utf-8", errors="replace", newline="\n") as file,
        ):
            for line in file:
                yield line.rstrip("\n")

    def keep_entries(self, texts: Iterable[str]) -> None:
        """Replace the copy; it stays as it is when ``texts`` raises."""
        with atomic_writer(self._entries) as file:
            file.writelines(f"{text}\n".encode() for text in texts)

    def keep_evidence(self, name: str, document: SignedDocument) -> Path:
        """Store a document that contradicts what was seen; answers where."""
        path = self.folder / f"{name}-{document.body_sha256[:12]}.json"
        write_atomically(path, document.to_json())
        return path

    def has_proof(self, sha256: str) -> bool:
        """Whether the inclusion of this document was proven before."""
        return self._proof(sha256).exists()

    def keep_proof(self, sha256: str, evidence: Evidence) -> None:
        """Store the proof that the log holds a document; it stands without the log."""
        write_atomically(self._proof(sha256), evidence.to_json())

    def _proof(self, sha256: str) -> Path:
        return self.folder / "proofs" / f"{sha256}.json"

    def set_aside(self) -> Path | None:
        """Move everything away, to begin anew; answers where, None if there is nothing."""
        if not self.folder.exists():
            return None
        number = 1
        while (target := self.folder.with_name(f"{self.folder.name}.{number}")).exists():
            number += 1
        with storage_errors(target):
            self.folder.rename(target)
        return target
