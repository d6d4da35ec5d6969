"""Canonical JSON and digests: one value, one sequence of bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest as 64 lower-case hexadecimal digits."""

_CHUNK = 1 << 20


def canonical_json(value: object) -> bytes:
    """Sorted keys, no white space, UTF-8, no NaN: the same bytes for the same value."""
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode()


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` as lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_chunks(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """The bytes of a file, ``size`` at a time."""
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Message(BaseModel):
    """Base of everything that crosses the network: strict, frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_json(self) -> bytes:
        """Canonical JSON of this message."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256(self.to_json())
