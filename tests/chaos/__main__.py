"""``python -m tests.chaos``: the long versions of the reliability tests, row by row."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.chaos import rows

_MEMORY = Path("/dev/shm")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=rows.FULL, help="other rows scale with it")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--only", metavar="ROW", action="append", choices=rows.names())
    parser.add_argument("--json", type=Path, default=Path("chaos.json"), help="where results go")
    return parser.parse_args()


def _table(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _run(name: str, options: rows.Options) -> dict[str, object]:
    row = rows.load(name)
    print(f"\n{name}: {row.WHAT}", flush=True)
    begun = time.monotonic()
    result: rows.Result = row.run(options)
    seconds = round(time.monotonic() - begun, 1)
    for figure, value in result.figures.items():
        print(f"  {figure}: {value}")
    if result.coverage:
        print(_table(result.coverage))
    for failure in result.failures:
        print(f"  BROKEN {failure}")
    print(f"  {seconds:.0f} s, {len(result.failures)} broken", flush=True)
    return {"what": row.WHAT, "seconds": seconds, **asdict(result)}


def main() -> int:
    """Run the rows; 1 when a promise was broken."""
    given = _arguments()
    print(f"seed {given.seed}, kills {given.kills}", flush=True)
    results: dict[str, object] = {"seed": given.seed, "kills": given.kills}
    broken = 0
    for name in given.only or rows.names():
        memory = _MEMORY if _MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(dir=memory, prefix="fedmed-chaos-") as folder:
            say = lambda text: print(f"  ... {text}", flush=True)  # noqa: E731
            done = _run(name, rows.Options(given.kills, given.seed, Path(folder), say))
        results[name] = done
        broken += bool(done["failures"])
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
