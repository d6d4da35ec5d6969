"""Trainings in processes of their own, to be killed: ``python -m ... ENGINE``.

Each line of standard input, ``FOLDER KILL_AFTER``, is one process. It writes a checkpoint after
every forward pass and dies by SIGKILL right after so many of them, as in a power cut; with 0 it
trains to the end. It is forked, since importing an engine takes longer than all of these trainings.
The answer is a line of JSON: the exit code, and for a whole training what it did.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from backends import discover
from backends.base import CheckpointPlan, EvalStep, Note, Resumed, TrainJob, TrainStep
from backends.checkpoints import Checkpoints, TrainingState
from federation.base_model import read_card
from tests.tiny import tiny_model
from tests.tiny_training import RECIPE, examples, schema_for, write_initial

RECIPE_HERE = RECIPE.model_copy(
    update={
        "steps": 3,
        "batch_size": 3,
        "accumulation": 2,
        "dropout": 0.3,
        "schedule": "cosine",
        "eval_every": 2,
    }
)
PASSES = RECIPE_HERE.accumulation


def kill_after(n_checkpoints: int) -> None:
    """Let this process die right after it has written so many."""
    whole = Checkpoints.write
    left = n_checkpoints

    def write(self: Checkpoints, state: TrainingState, tensors: Mapping[str, np.ndarray]) -> None:
        nonlocal left
        whole(self, state, tensors)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.write = write  # type: ignore[method-assign]


def train(engine: str, folder: Path, base: Path) -> dict[str, object]:
    """Train from wherever the checkpoints are to the end."""
    schema = schema_for(base)
    model = discover()[engine].load(base, threads=1)
    start = write_initial(folder / "start.safetensors", schema)
    model.attach(start, schema, dropout=RECIPE_HERE.dropout)
    batch = examples(model)
    said: list[str] = []
    resumed: list[int] = []

    def watch(event: TrainStep | EvalStep | Resumed | Note) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        elif isinstance(event, Resumed):
            resumed.append(event.step)

    plan = CheckpointPlan(folder / "checkpoints", read_card(base).sha256, seconds=0)
    job = TrainJob(batch[:7], RECIPE_HERE, held_out=batch[7:], checkpoints=plan)
    result = model.train(job, watch)
    model.save_adapter(folder / "adapter.safetensors")
    return {"losses": result.step_losses, "n_tokens": result.n_tokens} | {
        "resumed": resumed,
        "said": said,
    }


def main() -> None:
    engine, base = sys.argv[1], tiny_model()
    import_module(f"backends.{engine}.loading")  # what every child needs
    for line in sys.stdin:
        folder, kill = Path(line.split()[0]), int(line.split()[1])
        result = folder / "result.json"
        if (child := os.fork()) == 0:
            if kill:
                kill_after(kill)
            result.write_text(json.dumps(train(engine, folder, base)))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = {} if code else json.loads(result.read_text())
        print(json.dumps({"code": code, **done}), flush=True)


if __name__ == "__main__":
    main()
