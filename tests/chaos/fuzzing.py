"""``python -m tests.chaos.fuzzing PARSER RUNS SEED OUT``: atheris on one parser, in a process.

libFuzzer mutates and keeps what reaches new code; ``parsing.mutate`` gives it the structure. At
the end the corpus it kept is replayed under a tracer, which tells the lines of each file reached.
"""

from __future__ import annotations

import dis
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import atheris

with atheris.instrument_imports(include=["federation", "coordinator.config", "appliance.config"]):
    from tests.chaos.parsing import PARSERS, examine, mutate

ROOT = Path(__file__).parents[2]
_LONGEST = 20_000


class Campaign:
    """Counts what comes of the inputs, and keeps the first of each kind of crash."""

    def __init__(self, name: str, runs: int, out: Path) -> None:
        self.parser, self.runs, self.out = PARSERS[name], runs, out
        self.counts: Counter[str] = Counter()
        self.crashes: dict[str, str] = {}
        self.samples: list[bytes] = [self.parser.valid]
        self.begun = time.monotonic()

    def one(self, data: bytes) -> None:
        """One input; after the last, the results are written and the process ends."""
        self.counts["inputs"] += 1
        if self.counts["inputs"] % max(1, self.runs // 500) == 0:
            self.samples.append(data)
        try:
            self.counts["accepted"] += examine(self.parser, data)
        # What a parser must not let out is anything at all.
        except Exception as error:
            kind = f"{type(error).__name__}: {error!s:.80}"
            self.counts["crashes"] += 1
            self.crashes.setdefault(kind, repr(data[:400]))
        if self.counts["inputs"] >= self.runs:
            self.finish()

    def finish(self) -> None:
        """Write what was found, and end: libFuzzer would go on."""
        seconds = time.monotonic() - self.begun
        lines = reached(self.parser.files, self.samples, lambda d: _quietly(self.parser, d))
        result = {**self.counts, "seconds": seconds, "lines": lines, "kinds": self.crashes}
        self.out.write_text(json.dumps(result))
        os._exit(0)


def _quietly(parser: Any, data: bytes) -> None:  # noqa: ANN401
    try:
        examine(parser, data)
    except Exception:
        return


def reached(files: tuple[str, ...], samples: list[bytes], act: Any) -> dict[str, list[int]]:  # noqa: ANN401
    """For each file, lines reached and lines there are in the functions that were entered."""
    hit: dict[str, set[int]] = {file: set() for file in files}
    entered: dict[str, set[CodeType]] = {file: set() for file in files}
    by_path = {str(ROOT / file): file for file in files}

    def trace(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401
        file = by_path.get(frame.f_code.co_filename)
        if file is None:
            return None
        entered[file].add(frame.f_code)
        if event == "line":
            hit[file].add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    for sample in samples:
        act(sample)
    sys.settrace(None)
    found = {}
    for file, codes in entered.items():
        there = {line for code in codes for _, line in dis.findlinestarts(code) if line}
        there -= {code.co_firstlineno for code in codes}
        found[file] = [len(hit[file] & there), len(there)]
    return found


def main() -> None:
    """Fuzz until there were enough inputs."""
    name, runs, seed, out = sys.argv[1:]
    campaign = Campaign(name, int(runs), Path(out))

    def mutated(data: bytes, largest: int, seed_: int) -> bytes:
        chance = random.Random(seed_)
        # From the valid input as often as from what was kept: damage adds up to noise.
        return mutate(campaign.parser.valid if chance.random() < 0.5 else data, chance)[:largest]

    arguments = [sys.argv[0], f"-seed={seed}", f"-max_len={_LONGEST}", "-verbosity=0"]
    atheris.Setup(arguments, campaign.one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
