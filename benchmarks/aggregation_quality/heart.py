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

SYSTEM = "Heart disease: yes or no?"

_SHORTER = (
    (" years", ""),
    (" mm Hg", ""),
    (" mg/dl", ""),
    ("Age: ", ""),
    ("Sex: ", ""),
    ("Chest pain type: ", ""),
    ("Resting blood pressure: ", "BP "),
    ("Serum cholesterol: ", "cholesterol "),
    ("Fasting blood sugar: ", "sugar "),
    ("Resting ECG results: ", "ECG "),
    ("Max heart rate achieved: ", "pulse "),
    ("Exercise induced angina: ", "angina "),
    ("Oldpeak: ", "oldpeak "),
    ("ST Slope: ", "slope "),
)
"""Words that every record has; without them and the question it is half as long."""


@dataclass(frozen=True)
class HeartRecord:
    """One patient's findings, and whether the disease was found: yes or no."""

    findings: str
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
    (findings,) = (turn["content"] for turn in turns if turn["role"] == "user")
    for long, short in _SHORTER:
        findings = findings.replace(long, short)
    return HeartRecord(findings, {"1": "yes", "0": "no"}[str(sample["ideal"])])
