"""Checkpoints on disk: whole, checked, two at a time, and never another training's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from backends.base import CheckpointPlan, Example, ForwardPlan, TrainJob
from backends.checkpoints import Checkpoints, TrainingState, job_identity, remove_checkpoints
from federation.recipe import TrainingRecipe

JOB = {"recipe": "r", "examples": "e"}
TENSORS = {
    "factor.a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "factor.half": np.arange(4).astype(ml_dtypes.bfloat16),
    "step": np.array(7, dtype=np.uint64),
    "random": np.frombuffer(b"\x00\xff\x07", dtype=np.uint8),
}


def state(steps: int, passes: int = 0, job: dict[str, str] | None = None) -> TrainingState:
    return TrainingState(
        job=job or JOB,
        steps=steps,
        passes=passes,
        partial_loss=0.1,
        step_losses=(1.0 / 3.0,) * steps,
        n_tokens=100 * steps,
        seconds=1.5,
        forward=ForwardPlan(1024, recompute=True),
        threads=1,
    )


class Store:
    """Checkpoints in a folder, with a clock that passes when told to."""

    def __init__(self, folder: Path, job: dict[str, str] | None = None) -> None:
        self.now = 0.0
        self.said: list[str] = []
        plan = CheckpointPlan(folder, "0" * 64, seconds=10)
        self.store = Checkpoints(plan, job or JOB, self.said.append, clock=lambda: self.now)

    def steps(self) -> int | None:
        """Of the newest usable one."""
        found = self.store.newest()
        return None if found is None else found[0].state.steps


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    Store(tmp_path).store.write(state(3, 2), TENSORS)
    found = Store(tmp_path).store.newest()
    assert found is not None
    checkpoint, path = found
    assert path.parent == tmp_path
    assert checkpoint.state == state(3, 2)
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert checkpoint.tensors[name].shape == tensor.shape
        assert checkpoint.tensors[name].tobytes() == tensor.tobytes()


def test_two_are_kept_the_newest_first(tmp_path: Path) -> None:
    writing = Store(tmp_path)
    for steps, passes in ((8, 0), (9, 1), (9, 3), (10, 0)):
        writing.store.write(state(steps, passes), TENSORS)
    assert len(list(tmp_path.iterdir())) == 2
    assert Store(tmp_path).steps() == 10
    remove_checkpoints(tmp_path)
    assert not tmp_path.exists()


def test_it_is_due_by_the_clock(tmp_path: Path) -> None:
    timed = Store(tmp_path)
    assert not timed.store.due()
    timed.now = 10
    assert timed.store.due()
    timed.store.write(state(1), TENSORS)
    assert not timed.store.due()


@pytest.mark.parametrize("place", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_one_is_set_aside_and_the_older_serves(
    tmp_path: Path, damage: str, place: float
) -> None:
    writing = Store(tmp_path)
    writing.store.write(state(1), TENSORS)
    writing.store.write(state(2), TENSORS)
    newest = max(tmp_path.glob("step-*"))
    data = bytearray(newest.read_bytes())
    where = int(len(data) * place)
    if damage == "cut":
        del data[where:]
    else:
        data[where] ^= 1
    newest.write_bytes(data)
    reading = Store(tmp_path)
    assert reading.steps() == 1
    assert len(reading.said) == 1
    assert str(newest) in reading.said[0]
    assert "damaged" in reading.said[0]
    assert (tmp_path / "damaged.safetensors").read_bytes() == data
    assert Store(tmp_path).said == []


def test_a_file_that_says_nothing_of_a_training_is_damaged(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "step-0000001-00000.safetensors")
    reading = Store(tmp_path)
    assert reading.steps() is None
    assert "states nothing" in reading.said[0]


def test_one_of_another_training_is_named_and_left_until_this_one_writes(tmp_path: Path) -> None:
    Store(tmp_path).store.write(state(5), TENSORS)
    other = Store(tmp_path, {**JOB, "recipe": "another"})
    assert other.steps() is None
    assert "recipe changed" in other.said[0]
    assert "examples" not in other.said[0]
    assert Store(tmp_path).steps() == 5
    other.store.write(state(1, job={**JOB, "recipe": "another"}), TENSORS)
    assert Store(tmp_path).steps() is None
    assert len(list(tmp_path.iterdir())) == 1


_FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from tests.unit.backends.test_checkpoints import Store, TENSORS, state
writing = Store(Path(sys.argv[1]))
writing.store.write(state(1), TENSORS)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for steps in (2, 3):
    writing.store.write(state(steps), {**TENSORS, "large": np.zeros(5000)})
print(len(writing.said), writing.said[0])
"""


def test_a_disk_that_takes_no_more_costs_the_checkpoint_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 No checkpoint could be written")
    assert Store(tmp_path).steps() == 1
    assert len(list(tmp_path.iterdir())) == 1


EXAMPLES = [Example((1, 2, 3), 1), Example((4, 5), 1)]
PLAN = CheckpointPlan(Path("x"), "0" * 64)
JOB_OF_ALL = TrainJob(EXAMPLES, TrainingRecipe(), checkpoints=PLAN)
ENGINE = {"engine": "torch", "quantisation": "none", "parent": "p"}


def other_examples(*examples: Example) -> TrainJob:
    return replace(JOB_OF_ALL, examples=examples)


@pytest.mark.parametrize(
    ("name", "job", "engine"),
    [
        ("examples", other_examples(*EXAMPLES[::-1]), {}),
        ("examples", other_examples(Example((1, 2, 3), 2), EXAMPLES[1]), {}),
        ("examples", other_examples(Example((1, 2), 1), Example((3, 4, 5), 1)), {}),
        ("recipe", replace(JOB_OF_ALL, recipe=TrainingRecipe(seed=8)), {}),
        ("factors", replace(JOB_OF_ALL, factors="A"), {}),
        ("start in the data", replace(JOB_OF_ALL, start_step=1), {}),
        ("base model", replace(JOB_OF_ALL, checkpoints=replace(PLAN, base_sha256="1" * 64)), {}),
        ("engine", JOB_OF_ALL, {"engine": "mlx"}),
        ("quantisation", JOB_OF_ALL, {"quantisation": "nf4"}),
        ("parent adapter", JOB_OF_ALL, {"parent": "q"}),
    ],
)
def test_whatever_decides_the_result_is_part_of_the_identity(
    name: str, job: TrainJob, engine: dict[str, str]
) -> None:
    same = replace(JOB_OF_ALL, examples=list(EXAMPLES), forward=ForwardPlan(99))
    first, other = job_identity(same, **ENGINE), job_identity(job, **{**ENGINE, **engine})
    assert first == job_identity(JOB_OF_ALL, **ENGINE)
    assert [field for field, value in first.items() if other[field] != value] == [name]
