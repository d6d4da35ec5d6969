"""Trainings and evaluations that really run out of memory: the kernel refuses what is too much.

Each is a process of its own, forked: one without a limit, some with less and less of what that took
until the first runs out, one with nothing. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

import backends.cuda.loading  # noqa: F401  what every child needs
from backends import evaluation
from backends.base import (
    CheckpointPlan,
    EvalStep,
    Example,
    ForwardPlan,
    LoadedModel,
    Note,
    Progress,
    Resumed,
    TrainJob,
    TrainStep,
)
from backends.cuda import BACKEND
from federation.errors import OutOfMemory
from tests.tiny import tiny_model
from tests.tiny_training import RECIPE, schema_for, write_random

ROWS, COLUMNS = 8, 1000
EXAMPLES = [Example(tuple((7 * i + k) % 400 + 5 for k in range(COLUMNS)), 2) for i in range(ROWS)]
WIDE = ROWS * COLUMNS
COPIES = 3
"""An evaluation keeps less of each token than a training."""
Watched = TrainStep | EvalStep | Resumed | Note
Work = Callable[[LoadedModel, Path, Progress], list[float]]


def size() -> int:
    """Bytes of address space, which is what the limit counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmPeak:")[1].split()[0]) * 1024


def child(folder: Path, work: Work, room: int | None) -> dict[str, Any]:
    """Do it in a forked process that may take ``room`` more bytes; what happened."""
    result = folder / "result.json"
    if (pid := os.fork()) == 0:
        result.write_text(json.dumps(watched(folder, work, room)))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def watched(folder: Path, work: Work, room: int | None) -> dict[str, Any]:
    schema = schema_for(tiny_model())
    model = BACKEND.load(tiny_model(), threads=1)
    model.attach(write_random(folder / "start.safetensors", schema), schema)
    said: list[str] = []
    steps: list[int] = []

    def watch(event: Watched) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        elif isinstance(event, TrainStep):
            steps.append(event.step)

    before = size()
    if room is not None:
        resource.setrlimit(resource.RLIMIT_AS, (before + room, before + room))
    error = ""
    losses: list[float] = []
    try:
        losses = work(model, folder, watch)
    except OutOfMemory as problem:
        error = str(problem)
    model.save_adapter(folder / "end.safetensors")
    found = {"took": peak() - before, "said": said, "steps": steps, "losses": losses}
    return {**found, "error": error}


def train(model: LoadedModel, folder: Path, watch: Progress) -> list[float]:
    """One step, all examples in one pass; its loss."""
    recipe = RECIPE.model_copy(update={"steps": 1, "batch_size": ROWS})
    checkpoints = CheckpointPlan(folder / "checkpoints", "0" * 64, seconds=0)
    job = TrainJob(EXAMPLES, recipe, forward=ForwardPlan(WIDE), checkpoints=checkpoints)
    return list(model.train(job, watch).step_losses)


def evaluate(model: LoadedModel, _: Path, watch: Progress) -> list[float]:
    """Twice, everything in one pass; the losses of the second time."""
    for _ in range(2):
        losses = model.losses(EXAMPLES * COPIES, watch)
    return [loss.loss for loss in losses]


def main() -> None:
    # So wide that half of it is still more than what the heap has by chance.
    evaluation.EVALUATION_TOKENS = WIDE * COPIES
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)

        def run(name: str, work: Work, room: int | None) -> dict[str, Any]:
            folder = Path(tempfile.mkdtemp(dir=root))
            done = found[f"{work.__name__} {name}"] = child(folder, work, room)
            tensors = load_file(folder / "end.safetensors")
            done["tensors"] = {k: v.tolist() for k, v in tensors.items()}
            return done

        for work in (train, evaluate):
            took = run("unlimited", work, None)["took"]
            # How much of what was measured lies in the heap already differs from run to run.
            for percent in (75, 66, 58, 50, 42, 34):
                if run("limited", work, took * percent // 100)["said"]:
                    break
            run("starved", work, 0)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
