"""What happens in a coordinator, as one JSON line an event on standard error."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Protocol


class Emit(Protocol):
    """Takes one event; its fields never hold a secret."""

    def __call__(self, event: str, **fields: str | int | float | None) -> None:
        """Note that ``event`` happened."""


def to_stderr(event: str, **fields: str | int | float | None) -> None:
    """Write the event as one JSON line."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    # In one write: print() writes the end of the line apart, and other threads come in between.
    sys.stderr.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stderr.flush()


def quiet(event: str, **fields: str | int | float | None) -> None:
    """Drop the event: a command that prints its own result has no event log."""
