"""The heart-disease records of four hospitals (UCI, CC BY 4.0), as sentences.

Carried, verbalised, by the package ``evals`` 3.0.1.post1 in the order of their sources; it is
fetched when it is needed and never installed, since its dependencies are not wanted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "evals==3.0.1.post1"
SOURCE = "Heart Disease, UCI Machine Learning Repository, CC BY 4.0, as carried by " + PACKAGE
_FILE = "evals/registry/data/heart-disease/samples.jsonl"
_SOURCES: Mapping[str, tuple[int, int]] = {
    "budapest": (0, 293),
    "zurich-basel": (293, 416),
    "long-beach": (416, 615),
    "cleveland": (615, 918),
}
"""Hospital -> its rows in the file, from and up to."""


@dataclass(frozen=True)
class HeartRecord:
    """One patient's findings as a question, and whether the disease was found: yes or no."""

    question: str
    answer: str


def heart_records(cache: Path) -> dict[str, Sequence[HeartRecord]]:
    """The records by hospital."""
    file = cache / "heart-disease.jsonl"
    if not file.exists():
        _fetch(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [_parse(json.loads(line)) for line in lines]
    return {name: found[start:end] for name, (start, end) in _SOURCES.items()}


def _fetch(target: Path) -> None:
    folder = target.parent / "download"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            folder,
            PACKAGE,
        ],
        check=True,
    )
    (wheel,) = folder.glob("evals-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(_FILE))


def _parse(sample: Mapping[str, object]) -> HeartRecord:
    turns = sample["input"]
    assert isinstance(turns, list)
    findings = " ".join(turn["content"] for turn in turns if turn["role"] == "user")
    question = f"{findings}. Does this patient have heart disease? Answer yes or no."
    return HeartRecord(question, {"1": "yes", "0": "no"}[str(sample["ideal"])])
