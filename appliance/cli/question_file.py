"""``appliance ask --file``: many questions in, as many answers out, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.errors import DataError

if TYPE_CHECKING:
    from appliance.safety import GuardEvent

_OURS = {"answer", "confidence", "notices", "verdicts"}


def read_questions(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, each with a ``question``. Raises DataError naming the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    rows = [_row(f"{file}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{file} holds no questions.", hint='A line: {"question": "What is ...?"}')
    return rows


def _row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}.") from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise DataError(f'{place}: not an object with "question".')
    if not row["question"].strip():
        raise DataError(f"{place}: the question is empty.")
    if taken := sorted(_OURS & row.keys()):
        raise DataError(f"{place}: {taken[0]!r} is what the answer adds; rename that field.")
    return row


def show_rows(rows: Sequence[dict[str, Any]], answers: Iterable[list[GuardEvent]]) -> None:
    """Print each row with what was answered, as soon as it is known."""
    from appliance.safety import Finished, Notice

    for row, events in zip(rows, answers, strict=True):
        finished = events[-1]
        assert isinstance(finished, Finished)
        added = {
            "answer": finished.answer,
            "confidence": finished.confidence,
            "notices": [event.text for event in events if isinstance(event, Notice)],
            "verdicts": [asdict(verdict) for verdict in finished.verdicts],
        }
        print(json.dumps(row | added, ensure_ascii=False), flush=True)
