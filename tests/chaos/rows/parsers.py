"""Everything that reads bytes of others, under mutated valid inputs, guided by coverage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chaos.parsing import PARSERS
from tests.chaos.rows import Options, Result

WHAT = "parsers: atheris with structural mutations of valid inputs"

_INPUTS = 100_000
_ROOT = Path(__file__).parents[3]


def run(options: Options) -> Result:
    """``_INPUTS`` inputs of each parser in a full run."""
    lines: list[tuple[str, ...]] = [("parser", "inputs", "a second", "accepted as meant", "lines")]
    failures: list[str] = []
    total = 0
    for name in PARSERS:
        found = _fuzz(name, options)
        covered = ", ".join(
            f"{file.rpartition('/')[2]} {hit}/{there}"
            for file, (hit, there) in found["lines"].items()
        )
        rate = round(found["inputs"] / found["seconds"])
        total += found["inputs"]
        lines.append(
            (name, str(found["inputs"]), str(rate), str(found.get("accepted", 0)), covered)
        )
        failures += [f"{name}: {kind} on {data}" for kind, data in found["kinds"].items()]
        options.say(f"{name}: {rate} a second")
    return Result({"parsers": len(PARSERS), "inputs": total}, lines, failures)


def _fuzz(name: str, options: Options) -> dict[str, Any]:
    out = options.folder / f"{name.replace(' ', '-')}.json"
    arguments = [name, str(options.share(_INPUTS)), str(options.seed % (1 << 31) or 1), str(out)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzzing", *arguments],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not out.exists():
        raise RuntimeError(f"the fuzzer of {name} ended with {ended.returncode}: {ended.stderr}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found
