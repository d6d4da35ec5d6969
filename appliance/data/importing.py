"""Imports JSONL files: check, normalise, remove duplicates, split, store all or nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from appliance.data.history import FILE_NAME, ImportEntry, SourceFile, history_for
from appliance.data.reading import JsonlFile
from appliance.data.records import Record, Refusal
from appliance.data.splits import SPLITS, Split, side, split_path, stored_lines
from appliance.locks import exclusive
from federation.errors import DataError
from federation.files import atomic_writer, make_folder, storage_errors

MAX_REFUSALS = 1000
"""Refusals kept one by one in a report; all are counted."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did; ``train`` and ``held_out`` are what the folder holds afterwards.

    ``repeated`` records occurred more than once in these files, ``known`` ones had been imported
    before. ``refusals`` are the first MAX_REFUSALS in reading order, ``reasons`` counts them all.
    """

    sources: tuple[SourceFile, ...]
    lines: int
    blank: int
    added_train: int
    added_held_out: int
    repeated: int
    known: int
    refused: int
    reasons: Mapping[str, int]
    refusals: tuple[Refusal, ...]
    train: int
    held_out: int


@dataclass
class _Reading:
    """What the files turned out to hold."""

    sources: list[SourceFile] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    valid: int = 0
    blank: int = 0

    def add(self, record: Record) -> None:
        self.valid += 1
        self.records[record.digest] = record.line

    def refuse(self, refusal: Refusal) -> None:
        self.reasons[refusal.reason] += 1
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(refusal)


def _now() -> datetime:
    return datetime.now(UTC)


def _nobody(refusal: Refusal) -> None:
    pass


def _read(paths: Iterable[Path], refused: Callable[[Refusal], None]) -> _Reading:
    reading = _Reading()
    for path in paths:
        file = JsonlFile(path)
        for line in file:
            if isinstance(line.outcome, Record):
                reading.add(line.outcome)
            else:
                refusal = Refusal(str(path), line.number, line.outcome.reason, line.outcome.detail)
                reading.refuse(refusal)
                refused(refusal)
        reading.blank += file.n_blank
        reading.sources.append(SourceFile(file=str(path), sha256=file.sha256, lines=file.n_lines))
    return reading


def _require_usable(reading: _Reading, *, strict: bool) -> None:
    refused = reading.reasons.total()
    if reading.valid and not (strict and refused):
        return
    names = ", ".join(source.file for source in reading.sources)
    hint = "One JSON object a line: messages, or question and answer."
    if not refused:
        raise DataError(f"{names}: there is no line to import.", hint=hint)
    first = reading.refusals[0]
    found = f"the first is {first.file}:{first.line}, {first.reason}: {first.detail}"
    if reading.valid:
        hint = "Correct these lines, or import without --strict to leave them out."
        raise DataError(f"{refused} lines are refused; {found}. Nothing was imported.", hint=hint)
    raise DataError(f"{names}: none of {refused} lines can be used; {found}.", hint=hint)


def _write(folder: Path, splits: Mapping[Split, Mapping[str, bytes]], history: bytes) -> None:
    """All three files are complete on the disk before the first one replaces its predecessor."""
    with ExitStack() as stack:
        files = [
            (stack.enter_context(atomic_writer(split_path(folder, split), mode=0o600)), lines)
            for split, lines in splits.items()
        ]
        log = stack.enter_context(atomic_writer(folder / FILE_NAME, mode=0o600))
        log.write(history)
        for file, lines in files:
            file.writelines(lines[digest] + b"\n" for digest in sorted(lines))
        for file in (log, *(file for file, _ in files)):
            file.flush()
            os.fsync(file.fileno())


def _merge(
    records: Mapping[str, bytes], splits: dict[Split, dict[str, bytes]], held_out_percent: int
) -> Counter[Split]:
    """Put the records that are new on their side; how many each side gained."""
    known = {digest for lines in splits.values() for digest in lines}
    added: Counter[Split] = Counter()
    for digest in records.keys() - known:
        split = side(digest, held_out_percent)
        splits[split][digest] = records[digest]
        added[split] += 1
    return added


def import_files(
    paths: Sequence[Path],
    data_folder: Path,
    held_out_percent: int,
    *,
    strict: bool = False,
    refused: Callable[[Refusal], None] = _nobody,
    clock: Callable[[], datetime] = _now,
) -> ImportReport:
    """Add the records of JSONL files to ``train.jsonl`` and ``held_out.jsonl``.

    Refused lines are left out, reported to ``refused`` as they are met, and counted. A second
    import at the same time waits for the first. Raises DataError, with nothing written, when a
    file cannot be read, no line is valid, or ``strict`` and one is refused; StorageError when the
    disk refuses.
    """
    reading = _read(paths, refused)
    _require_usable(reading, strict=strict)
    with storage_errors(data_folder):
        make_folder(data_folder, mode=0o700)
    with exclusive(data_folder / ".lock"):
        history = history_for(data_folder, held_out_percent)
        splits = {split: stored_lines(data_folder, split) for split in SPLITS}
        added = _merge(reading.records, splits, held_out_percent)
        entry = ImportEntry(
            when=clock().isoformat(timespec="seconds"),
            sources=tuple(reading.sources),
            added_train=added["train"],
            added_held_out=added["held_out"],
            duplicates=reading.valid - added.total(),
            refused=reading.reasons.total(),
        )
        grown = history.model_copy(update={"imports": (*history.imports, entry)})
        _write(data_folder, splits, grown.to_json())
    return ImportReport(
        sources=entry.sources,
        lines=sum(source.lines for source in entry.sources),
        blank=reading.blank,
        added_train=entry.added_train,
        added_held_out=entry.added_held_out,
        repeated=reading.valid - len(reading.records),
        known=len(reading.records) - added.total(),
        refused=entry.refused,
        reasons=dict(sorted(reading.reasons.items())),
        refusals=tuple(reading.refusals),
        train=len(splits["train"]),
        held_out=len(splits["held_out"]),
    )
