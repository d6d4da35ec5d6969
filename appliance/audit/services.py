"""What ``appliance audit`` and ``appliance sync`` do with the coordinator's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from appliance.audit.auditor import Auditor
from appliance.audit.held import held_documents, held_successions
from appliance.audit.history import History, open_checkpoint
from appliance.context import Context
from appliance.events import Event, Note
from appliance.locks import exclusive
from appliance.session import Session, open_session
from appliance.trust import load_trust
from federation.errors import InputError, StorageError
from federation.log import Checkpoint, LogEntry
from federation.signing import SignedDocument


@dataclass(frozen=True)
class Verified:
    """What ``verify`` found in order: sizes, and what is worth a look though nothing is wrong."""

    size: int
    root_sha256: str
    documents: int
    notes: tuple[str, ...]


@contextmanager
def _auditor(context: Context, session: Session) -> Iterator[tuple[Auditor, History]]:
    history = History(context.paths.audit)
    # Of two at once the slower one would see the log shrink.
    with exclusive(context.paths.home / "audit.lock"):
        yield Auditor(session.client, session.trust, history), history


def watch(context: Context, session: Session) -> None:
    """Check that the log only grew since it was last seen: two requests. Raises AuditError."""
    with _auditor(context, session) as (auditor, _):
        auditor.observe()


def verify(context: Context) -> Verified:
    """Check the whole log: signature, growth, entries, and all signed documents held here.

    Raises AuditError for what the coordinator cannot explain, StorageError for damaged files here.
    """
    held = held_documents(context.paths.rounds)
    told: list[Event] = []
    with (
        open_session(context, told.append) as session,
        _auditor(context, session) as (auditor, history),
    ):
        # Before the checkpoint: what is learned here is in the log that it is of.
        session.trust.learn(session.client)
        held += held_successions(session.trust)
        document, new = auditor.observe()
        digest, replaced = auditor.read(new, held)
        auditor.prove(held, digest, document, new)
        folder = history.folder
    here = {item.sha256 for item in held}
    notes = [
        f"Entry {entry.index} is an accepted update of round {entry.round} by this hospital "
        "whose receipt is not here. Was it sent from another device? If not, somebody else has "
        "its keys: tell the administrator."
        for entry in digest.receipts
        if entry.sha256 not in here
    ]
    notes += [event.text for event in told if isinstance(event, Note)]
    if replaced:
        notes.append(f"The copy of the log in {folder} was damaged and has been replaced.")
    return Verified(new.size, new.root_sha256, len(held), tuple(notes))


def entries(context: Context) -> Iterator[LogEntry]:
    """The entries that the last ``verify`` copied. Raises StorageError for a damaged copy."""
    history = History(context.paths.audit)
    for number, text in enumerate(history.entries()):
        try:
            yield LogEntry.model_validate_json(text)
        except ValidationError as error:
            raise StorageError(
                f"Entry {number} of the copy of the audit log in {history.folder} is damaged.",
                hint="`appliance audit verify` fetches it anew.",
            ) from error


def last_checkpoint(context: Context) -> tuple[SignedDocument, Checkpoint]:
    """The newest checkpoint that was verified here. Raises InputError before the first."""
    document = History(context.paths.audit).last()
    if document is None:
        raise InputError(
            "No checkpoint of the audit log was seen here yet.",
            hint="`appliance audit verify` fetches and verifies one.",
        )
    return document, open_checkpoint(document, load_trust(context.paths))


def compare(context: Context, file: Path) -> Checkpoint:
    """Prove that another hospital's checkpoint in ``file`` is of the log that this one sees.

    Raises AuditError when it is not, InputError for a file that is no checkpoint.
    """
    try:
        document = SignedDocument.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{file} is not a checkpoint: {error}.",
            hint="The other hospital writes it with `appliance audit checkpoint --out FILE`.",
        ) from error
    with open_session(context) as session, _auditor(context, session) as (auditor, _):
        return auditor.compare(document)


def accept(context: Context) -> Path | None:
    """Begin anew from what the log is now; what was seen is moved aside, to where is answered."""
    with exclusive(context.paths.home / "audit.lock"):
        return History(context.paths.audit).set_aside()
