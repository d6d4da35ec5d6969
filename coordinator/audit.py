"""The audit log's checkpoints and proofs, and whether the database still is what was logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from coordinator.context import Coordinator
from coordinator.store.documents import stored_documents
from coordinator.store.reading import stored
from coordinator.succession import former_keys, signer
from federation import merkle
from federation.errors import InputError, StorageError
from federation.log import (
    MAX_ENTRIES,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    Kind,
    LogEntries,
    LogEntry,
)
from federation.messages import PublicIdentity
from federation.signing import SignedDocument

_KEPT: frozenset[Kind] = frozenset(
    (
        "founding",
        "approval",
        "revocation",
        "rotation",
        "succession",
        "opening",
        "receipt",
        "refusal",
        "publication",
        "abort",
    )
)
"""Acts whose document stays in the database; of a round's extensions only the newest does."""

MAX_FINDINGS = 20
"""Differences that ``verify`` tells before it stops looking."""

ALTERED = "Stop the coordinator, keep the database file, and restore the newest good backup."
"""What to do about a database that was edited."""


def checkpoint(coordinator: Coordinator) -> SignedDocument:
    """A signed ``Checkpoint`` of the whole log; the same one until something happens.

    Raises StorageError, and signs nothing, when the log does not begin with what was signed last.
    """
    log = coordinator.store.log
    kept = log.last_checkpoint()
    head = log.head()
    if kept is not None:
        before = stored(Checkpoint, kept.body)
        if before.size > head.size or log.root(before.size).hex() != before.root_sha256:
            raise StorageError(
                f"The audit log has {head.size} entries, but does not begin with the "
                f"{before.size} of its last checkpoint: the database was altered.",
                hint=f"`coordinator audit verify` says more. {ALTERED}",
            )
        if before.size == head.size and _signed_by(kept, coordinator.identity.public()):
            return kept
    message = Checkpoint(
        federation=coordinator.federation,
        size=head.size,
        root_sha256=head.root.hex(),
        at=coordinator.clock(),
    )
    signed = SignedDocument.sign(message, coordinator.identity, "checkpoint")
    log.keep_checkpoint(head.size, signed)
    return signed


def _signed_by(document: SignedDocument, *keys: PublicIdentity) -> bool:
    return signer(document, "checkpoint", keys) is not None


def entries(coordinator: Coordinator, start: int, end: int) -> LogEntries:
    """Entries from ``start`` to before ``end``, no more than ``MAX_ENTRIES``."""
    if not start < end:
        raise InputError(f"There is no entry from {start} to before {end}.")
    found = coordinator.store.log.entries(start, min(end, start + MAX_ENTRIES))
    return LogEntries(start=start, entries=tuple(found))


def inclusion(coordinator: Coordinator, index: int, size: int) -> InclusionProof:
    """The proof for entry ``index`` among the first ``size``. Raises InputError."""
    _check_size(coordinator, size)
    if index >= size:
        raise InputError(f"Entry {index} is not among the first {size}.")
    path = coordinator.store.log.inclusion(index, size)
    return InclusionProof(index=index, size=size, path=tuple(h.hex() for h in path))


def consistency(coordinator: Coordinator, first: int, second: int) -> ConsistencyProof:
    """The proof that the log of ``second`` entries begins with that of ``first``."""
    _check_size(coordinator, second)
    if first > second:
        raise InputError(f"A log of {second} entries cannot begin with {first}.")
    path = coordinator.store.log.consistency(first, second)
    return ConsistencyProof(first=first, second=second, path=tuple(h.hex() for h in path))


def _check_size(coordinator: Coordinator, size: int) -> None:
    if size > (have := coordinator.store.log.head().size):
        raise InputError(f"The audit log has {have} entries, not {size}.")


@dataclass
class Examination:
    """What the stored log turned out to be; ``findings`` say where it is not what was logged."""

    size: int = 0
    root_sha256: str = merkle.EMPTY_ROOT.hex()
    documents: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """Whether there are so many findings that no more are needed."""
        return len(self.findings) >= MAX_FINDINGS


def export(coordinator: Coordinator) -> Iterator[str]:
    """Every entry's text, in order and verified, and last the signed checkpoint that they make.

    Raises StorageError at the first difference, so that no altered log ends with a checkpoint.
    """
    document = checkpoint(coordinator)
    signed = stored(Checkpoint, document.body)
    found, tree = Examination(), merkle.Tree()
    for text in _walk(coordinator, found, tree, signed.size):
        _raise(found)
        yield text
    _check_root(found, tree, signed)
    _raise(found)
    yield document.to_json().decode()


def _raise(found: Examination) -> None:
    if found.findings:
        raise StorageError(f"The audit log was altered: {found.findings[0]}.", hint=ALTERED)


def verify(coordinator: Coordinator) -> Examination:
    """Compare entries, stored hashes, the last checkpoint and the documents kept beside them."""
    found = Examination()
    log = coordinator.store.log
    # What happens meanwhile must not look like a difference: documents are read in between.
    before = log.head().size
    documents = stored_documents(coordinator.store.database)
    size = log.head().size
    tree = merkle.Tree()
    document = log.last_checkpoint()
    signed = stored(Checkpoint, document.body) if document else None
    if document is not None and not _signed_by(document, *_own_keys(coordinator, found)):
        found.findings.append("the last checkpoint is not signed by this coordinator's keys")
    if signed is not None and signed.size > size:
        found.findings.append(f"{size} entries are left of the {signed.size} that were signed")
    names = {d.sha256: d.name for d in documents if d.sha256 is not None}
    found.findings += [f"the {d.name} cannot be read" for d in documents if d.sha256 is None]
    logged: set[str] = set()
    for text in _walk(coordinator, found, tree, size):
        entry = LogEntry.model_validate_json(text)
        if entry.sha256 is not None:
            logged.add(entry.sha256)
            if entry.index < before and entry.kind in _KEPT and entry.sha256 not in names:
                found.findings.append(f"the document of entry {_shown(entry)} is gone or changed")
        if signed is not None and tree.size == signed.size:
            _check_root(found, tree, signed)
        if found.enough:
            break
    found.size, found.root_sha256, found.documents = tree.size, tree.root().hex(), len(documents)
    if tree.size == size:
        absent = [name for sha256, name in names.items() if sha256 not in logged]
        found.findings += [f"the {name} is not in the log" for name in absent[:MAX_FINDINGS]]
    return found


def _own_keys(coordinator: Coordinator, found: Examination) -> tuple[PublicIdentity, ...]:
    try:
        former = former_keys(coordinator)
    except StorageError as error:
        found.findings.append(str(error))
        former = ()
    return (*former, coordinator.identity.public())


def _check_root(found: Examination, tree: merkle.Tree, signed: Checkpoint) -> None:
    if tree.root().hex() != signed.root_sha256:
        found.findings.append(f"the first {signed.size} entries are not those that were signed")


def _shown(entry: LogEntry) -> str:
    parts = (entry.kind, entry.hospital, f"round {entry.round}" if entry.round else None)
    return f"{entry.index} ({', '.join(part for part in parts if part)})"


def _walk(
    coordinator: Coordinator, found: Examination, tree: merkle.Tree, size: int
) -> Iterator[str]:
    """The entries, each after its text and hashes were compared with what is stored."""
    for start in range(0, size, MAX_ENTRIES):
        end = min(size, start + MAX_ENTRIES)
        texts = coordinator.store.log.entries(start, end)
        stored = coordinator.store.log.nodes(start, end)
        for index, text in enumerate(texts, start):
            try:
                right_place = LogEntry.model_validate_json(text).index == index
            except ValidationError:
                right_place = False
            if not right_place:
                found.findings.append(f"entry {index} is not an entry of that number")
                return
            nodes = tree.append(merkle.leaf_hash(text.encode()))
            if any(stored.get((level, position)) != value for level, position, value in nodes):
                found.findings.append(f"entry {index} has another hash than when it was written")
            yield text
        if len(texts) != end - start:
            found.findings.append(f"an entry between {start} and {end} is gone")
            return
