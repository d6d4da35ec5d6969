"""Comparing the coordinator's audit log with what it said before and with what is held here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

from pydantic import ValidationError

from appliance.audit.held import Held
from appliance.audit.history import History, check_federation, open_checkpoint
from appliance.client import CoordinatorClient
from appliance.trust import Trust
from federation import merkle
from federation.errors import AuditError, FedMedError, InputError
from federation.log import Checkpoint, Evidence, LogEntry
from federation.signing import SignedDocument

_WHAT_TO_DO = (
    "Ask the administrator by phone, and other hospitals for their checkpoints (`appliance audit "
    "compare`). Only if the coordinator was restored from a backup: `appliance audit accept`."
)


_LONGEST_WAIT = 120.0
_T = TypeVar("_T")


@dataclass
class Digest:
    """What the whole log says about this hospital."""

    held: dict[str, str] = field(default_factory=dict)
    """Digest of a document that is held here -> the entry that names it."""
    receipts: list[LogEntry] = field(default_factory=list)
    """Accepted updates of this hospital, held here or not."""


class Auditor:
    """One hospital's view of the log; all methods raise AuditError where it contradicts itself."""

    def __init__(
        self,
        client: CoordinatorClient,
        trust: Trust,
        history: History,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._trust = trust
        self._history = history
        self._sleep = sleep

    def observe(self) -> tuple[SignedDocument, Checkpoint]:
        """Fetch the newest checkpoint and prove that it continues the last one seen here."""
        document, new = self._trust.fetch(
            self._client, self._client.log_checkpoint, Checkpoint, "checkpoint"
        )
        check_federation(new, self._trust)
        if (last := self._history.last()) is not None:
            # Its signature was verified when it came.
            old = Checkpoint.model_validate_json(last.body)
            if (problem := self._contradiction(old, new)) is not None:
                raise self._accused(problem, document, new)
        self._history.keep(document)
        return document, new

    def compare(self, document: SignedDocument) -> Checkpoint:
        """Prove that another hospital's checkpoint is of the same log as this hospital's."""
        # First what is here: the other hospital may have followed to newer keys.
        _, ours = self.observe()
        theirs = open_checkpoint(document, self._trust)
        smaller, larger = sorted((theirs, ours), key=lambda checkpoint: checkpoint.size)
        if (problem := self._contradiction(smaller, larger)) is not None:
            raise self._accused(f"the other hospital was shown another log: {problem}", document)
        return theirs

    def _contradiction(self, old: Checkpoint, new: Checkpoint) -> str | None:
        """Why the log of ``new`` does not begin with that of ``old``; None if it is proven to."""
        if new.size < old.size:
            return f"it shrank from {old.size} to {new.size} entries"
        roots = bytes.fromhex(old.root_sha256), bytes.fromhex(new.root_sha256)
        if new.size == old.size:
            same = roots[0] == roots[1]
            return None if same else f"there are two signed roots of {new.size} entries"
        try:
            proof = self._patiently(lambda: self._client.log_consistency(old.size, new.size))
        except InputError as error:
            return f"no proof leads from {old.size} to {new.size} entries ({error})"
        path = [bytes.fromhex(h) for h in proof.path]
        if merkle.verify_consistency(old.size, new.size, *roots, path):
            return None
        return f"its first {old.size} entries are not those that were signed before"

    def _accused(
        self, problem: str, document: SignedDocument, new: Checkpoint | None = None
    ) -> AuditError:
        path = self._history.keep_evidence("contradiction", document)
        where = "" if new is None else self._first_difference(new)
        return AuditError(
            f"The coordinator's audit log was rewritten: {problem}.{where}",
            hint=f"Both checkpoints are kept as evidence: {path} contradicts "
            f"{self._history.folder / 'checkpoint.json'}. {_WHAT_TO_DO}",
        )

    def _first_difference(self, new: Checkpoint) -> str:
        """Which entry of the copy here reads otherwise there, as a sentence; best effort."""
        try:
            pairs = zip(self._history.entries(), self._fetch(0, new.size), strict=False)
            for index, (here, there) in enumerate(pairs):
                if here != there:
                    return f" Entry {index} was {here} and is now {there}."
        except FedMedError:
            pass
        return ""

    def read(self, new: Checkpoint, held: Sequence[Held]) -> tuple[Digest, bool]:
        """Complete the copy of the entries and verify that they make the checkpoint's root.

        True says that the copy here was damaged and has been replaced.
        """
        wanted = frozenset(item.sha256 for item in held)
        have = sum(1 for _ in self._history.entries())
        if have <= new.size:
            continued = chain(self._history.entries(), self._fetch(have, new.size))
            if (digest := self._keep(continued, new, wanted)) is not None:
                return digest, False
        if (digest := self._keep(self._fetch(0, new.size), new, wanted)) is not None:
            return digest, have > 0
        raise AuditError(
            f"The {new.size} entries that the coordinator sends are not those of its signed "
            "checkpoint.",
            hint=f"The checkpoint is kept in {self._history.folder}. {_WHAT_TO_DO}",
        )

    def _keep(self, texts: Iterator[str], new: Checkpoint, wanted: frozenset[str]) -> Digest | None:
        digest = Digest()
        try:
            self._history.keep_entries(self._digested(texts, digest, new, wanted))
        except _OtherRoot:
            return None
        return digest

    def _digested(
        self, texts: Iterator[str], digest: Digest, new: Checkpoint, wanted: frozenset[str]
    ) -> Iterator[str]:
        tree = merkle.Tree()
        for text in texts:
            try:
                entry = LogEntry.model_validate_json(text)
            except ValidationError as error:
                raise _OtherRoot from error
            if entry.index != tree.size:
                raise _OtherRoot
            tree.append(merkle.leaf_hash(text.encode()))
            if entry.sha256 in wanted:
                digest.held[entry.sha256] = text
            if entry.kind == "receipt" and entry.hospital == self._trust.enrolment.hospital:
                digest.receipts.append(entry)
            yield text
        if (tree.size, tree.root().hex()) != (new.size, new.root_sha256):
            raise _OtherRoot

    def _fetch(self, start: int, end: int) -> Iterator[str]:
        while start < end:
            page = self._patiently(partial(self._client.log_entries, start, end))
            if page.start != start or not 0 < len(page.entries) <= end - start:
                raise AuditError(
                    f"The coordinator signed a log of {end} entries, but does not send those "
                    f"from {start} on.",
                    hint=_WHAT_TO_DO,
                )
            yield from page.entries
            start += len(page.entries)

    def prove(
        self, held: Sequence[Held], digest: Digest, document: SignedDocument, new: Checkpoint
    ) -> None:
        """Check that the log holds every document, and keep a proof of each that stands alone."""
        missing = [item for item in held if item.sha256 not in digest.held]
        if missing:
            raise AuditError(
                f"The coordinator's audit log does not hold {len(missing)} of the {len(held)} "
                f"signed documents that are here: {', '.join(str(m.path) for m in missing[:5])}.",
                hint=f"Keep these files and {self._history.folder}: they are evidence. "
                f"{_WHAT_TO_DO}",
            )
        for item in held:
            if not self._history.has_proof(item.sha256):
                evidence = self._evidence(digest.held[item.sha256], document, new)
                self._history.keep_proof(item.sha256, evidence)

    def _evidence(self, text: str, document: SignedDocument, new: Checkpoint) -> Evidence:
        index = LogEntry.model_validate_json(text).index
        proof = self._patiently(lambda: self._client.log_inclusion(index, new.size))
        path = [bytes.fromhex(h) for h in proof.path]
        leaf, root = merkle.leaf_hash(text.encode()), bytes.fromhex(new.root_sha256)
        if not merkle.verify_inclusion(leaf, index, new.size, path, root):
            raise self._accused(f"entry {index} is not proven to be in it", document)
        return Evidence(entry=text, proof=proof, checkpoint=document)

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """The call's result, asked for again where the coordinator only wants it later."""
        waited = 0.0
        while True:
            try:
                return call()
            except FedMedError as error:
                waited += error.retry_after
                if not error.retry_after or waited > _LONGEST_WAIT:
                    raise
                self._sleep(error.retry_after)


class _OtherRoot(Exception):
    """These entries are not the checkpoint's."""
