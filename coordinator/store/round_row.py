"""A round as the database remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from coordinator.rounds import State
from coordinator.store.reading import stored
from federation.base_model import BaseModelCard
from federation.messages import RoundDescriptor, RoundExtension
from federation.signing import SignedDocument


@dataclass(frozen=True)
class RoundRow:
    """A round as remembered.

    ``turn`` counts the rounds that an adapter has been through, this one included: 1 for a
    fresh one. ``wrapped_seed`` is None once the round is over. ``contributions`` is JSON.
    ``examined_sha256`` is of the updates that were examined last, ``validation`` what was said of
    the validation set then, ``looks`` how often findings or decisions about updates changed.
    """

    number: int
    state: State
    document: SignedDocument
    card: BaseModelCard
    turn: int
    wrapped_seed: bytes | None
    inputs_sha256: str | None = None
    adapter_sha256: str | None = None
    contributions: str | None = None
    reason: str | None = None
    closed_at: int | None = None
    record: SignedDocument | None = None
    extension: SignedDocument | None = None
    examined_sha256: str | None = None
    validation: str | None = None
    looks: int = 0

    @property
    def descriptor(self) -> RoundDescriptor:
        """The descriptor, which the coordinator itself signed."""
        return stored(RoundDescriptor, self.document.body)

    @property
    def extended(self) -> RoundExtension | None:
        """What the newest extension says, which the coordinator itself signed."""
        if self.extension is None:
            return None
        return stored(RoundExtension, self.extension.body)

    @property
    def deadline(self) -> int:
        """The deadline that holds now, in seconds since 1970."""
        return self.extended.deadline if self.extended else self.descriptor.deadline


def round_row(found: Row[Any]) -> RoundRow:
    """The round in a row of the table. Raises StorageError where it is damaged."""
    values = dict(found._mapping)
    record, extension = values.pop("record"), values.pop("extension")
    return RoundRow(
        document=stored(SignedDocument, values.pop("descriptor")),
        card=stored(BaseModelCard, values.pop("card")),
        record=stored(SignedDocument, record) if record else None,
        extension=stored(SignedDocument, extension) if extension else None,
        state=State(values.pop("state")),
        **values,
    )
