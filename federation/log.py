"""The messages of the audit log: what the coordinator did, as an append-only Merkle tree.

A leaf of the tree is one ``LogEntry`` as canonical JSON; ``federation.merkle`` has the hashes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from federation.canonical import Message, Sha256
from federation.messages import Count, Name, PositiveCount, RoundNumber, Timestamp
from federation.signing import SignedDocument

Kind = Literal[
    "founding",  # the federation's first, empty roster
    "invite",
    "enrolment",  # a hospital's keys recorded, to be approved
    "approval",
    "revocation",
    "rotation",  # a hospital's new keys, asked for or signed in
    "succession",  # new signing keys of the coordinator
    "opening",  # a round's descriptor
    "extension",  # a round's later deadline
    "plan",  # several rounds to be opened one after the other, begun or ended
    "receipt",  # an accepted update
    "refusal",  # an update that is not accepted, with its receipt
    "finding",  # an accepted update that looks unlike the others'
    "review",  # a person's decision about an accepted update
    "exclusion",  # an accepted update that is not aggregated
    "close",
    "aggregation",
    "publication",
    "abort",
]
"""What happened."""

MAX_DETAIL = 500
"""Characters that say more about an entry; longer reasons are cut."""

MAX_ENTRIES = 500
"""Entries in one answer."""

Entry = Annotated[str, StringConstraints(max_length=8192)]
"""A ``LogEntry`` as the exact text that is hashed."""

Path = Annotated[tuple[Sha256, ...], Field(max_length=64)]
"""The hashes of a proof, in the order of RFC 9162."""


class LogEntry(Message):
    """One act. ``sha256`` is the digest of the signed document that it made, if it made one.

    That document is a roster, a succession, a descriptor, a receipt or a round's record.
    """

    v: Literal[1] = 1
    index: Count
    kind: Kind
    hospital: Name | None = None
    round: RoundNumber | None = None
    sha256: Sha256 | None = None
    at: Timestamp
    detail: str = Field("", max_length=MAX_DETAIL)


class Checkpoint(Message):
    """The root of the log's first ``size`` entries; signed by the coordinator."""

    v: Literal[1] = 1
    federation: Name
    size: PositiveCount
    root_sha256: Sha256
    at: Timestamp


class LogEntries(Message):
    """Entries of the log from number ``start`` on; as many as fit into one answer."""

    start: Count
    entries: Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)]


class InclusionProof(Message):
    """That an entry is number ``index`` of the first ``size`` (RFC 9162, section 2.1.3)."""

    index: Count
    size: PositiveCount
    path: Path


class Evidence(Message):
    """That the coordinator logged an entry; verified with its public keys alone.

    ``entry`` is a ``LogEntry`` as it was hashed, ``checkpoint`` a signed ``Checkpoint``.
    """

    entry: Entry
    proof: InclusionProof
    checkpoint: SignedDocument


class ConsistencyProof(Message):
    """That the first ``second`` entries begin with the ``first`` (RFC 9162, section 2.1.4)."""

    first: PositiveCount
    second: PositiveCount
    path: Path
