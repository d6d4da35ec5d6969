"""JSON texts of the database as messages again."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from federation.errors import StorageError

_M = TypeVar("_M", bound=BaseModel)


def stored(model: type[_M], text: str, *, strict: bool | None = None) -> _M:
    """The message that the coordinator wrote. Raises StorageError for a text that is none now."""
    try:
        return model.model_validate_json(text, strict=strict)
    except ValidationError as error:
        raise StorageError(
            f"The database holds a damaged {model.__name__}.",
            hint="Restore the newest good backup; `coordinator audit verify` says what differs.",
        ) from error
