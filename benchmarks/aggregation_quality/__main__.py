"""Measure how good the merged model is; every figure is of a model that was trained and merged.

    python -m benchmarks.aggregation_quality --task small-4 --cache CACHE --results FILE

Interrupted and run again it continues: trainings, evaluations and cells are kept in the cache, and
the finished cells are written to the results file as they come.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.aggregation_quality.attacks import ATTACKS, Attack
from benchmarks.aggregation_quality.federate import Cell, run
from benchmarks.aggregation_quality.learning import Learner, keep
from benchmarks.aggregation_quality.tasks import TASKS
from federation.canonical import canonical_json, sha256
from federation.files import write_atomically

REFERENCES = ("base", "local", "pooled")
AGGREGATORS = (
    "fedavg",
    "fedavg/detector",
    "equal",
    "equal/detector",
    "agentic",
    "agentic/detector",
    "agentic/validated",
    "agentic-original",
    "alternating",
    "fedsvd",
    "stacked",
    "agentic+stacked",
    "norm-clip",
    "equal+norm-clip",
    "agentic+norm-clip",
    "agentic+norm-clip/validated",
    "norm-clip+stacked",
    "multi-krum",
    "geometric-median",
    "geometric-median+stacked",
    "geometric-median+stacked/detector",
)
"""/detector leaves out suspicious updates; /validated has the coordinator measure every update."""


def cells(task: str, aggregators: list[str], attacks: list[Attack], seeds: int) -> Iterator[Cell]:
    """What to measure of a task, the undisturbed cells of all seeds first."""
    for attack, seed in itertools.product(attacks, range(seeds)):
        attackers = 0 if attack == "none" else 2 if task.endswith("-8") else 1
        for variant in aggregators:
            name, _, option = variant.partition("/")
            if name in REFERENCES and attack != "none":
                continue
            yield Cell(
                task,
                name,
                attack,
                attackers,
                seed,
                detector=option == "detector",
                validated=option == "validated",
            )


def main() -> None:
    """Measure the cells that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aggregation_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=tuple(TASKS), required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--smollm", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--aggregators", default=",".join((*REFERENCES, *AGGREGATORS)))
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    arguments = parser.parse_args()
    task = TASKS[arguments.task](arguments.cache, arguments.smollm)
    learner = Learner(task, arguments.cache)
    attacks: list[Attack] = [a for a in ATTACKS if a in arguments.attacks.split(",")]
    wanted = list(cells(task.name, arguments.aggregators.split(","), attacks, arguments.seeds))
    done: list[str] = []
    for number, cell in enumerate(wanted, 1):
        began = time.monotonic()
        key = sha256(canonical_json([cell.key(), task.rounds, learner.digest]))
        result = keep(arguments.cache / "cells" / f"{key}.json", partial(run, learner, cell))
        done.append(_in_short(result))
        write_atomically(arguments.results, ("[" + ",\n".join(done) + "]\n").encode())
        took = time.monotonic() - began
        print(f"{number}/{len(wanted)} {cell.label} {cell.attack} {cell.seed} {took:.1f} s")


def _in_short(result: dict[str, object]) -> str:
    """One line; five decimals are more than what is measured here means."""
    text = json.dumps(result, separators=(",", ":"))
    kept = json.loads(text, parse_float=lambda digits: round(float(digits), 5))
    return json.dumps(kept, separators=(",", ":"))


if __name__ == "__main__":
    main()
