"""One training by our MLX loop and by mlx-lm's trainer, measured in the same way.

Both get the same examples as tokens, the same initial adapter on the same layers, as many steps of
as many examples, and the same AdamW. mlx-lm's trainer is called as ``mlx_lm.lora`` calls it
(``CacheDataset``, prompts masked), with AdamW's bias correction, which it would leave out.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches
from mlx_lm.tuner.trainer import train as train_by_mlx_lm

from backends.adapters import write_adapter
from backends.base import Example, ForwardPlan, Quantisation, TrainJob, TrainStep
from backends.batches import forward_passes, optimizer_steps
from backends.mlx import BACKEND
from backends.mlx.forward import make_batch
from backends.mlx.model import MlxModel
from backends.mlx.probe import FORWARD_TOKENS
from federation.adapter import initial_adapter
from federation.base_model import read_card
from federation.recipe import TrainingRecipe

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
PLAN = ForwardPlan(FORWARD_TOKENS["metal"])


@dataclass(frozen=True)
class Task:
    """One training of a LoRA of rank 8: ``steps`` of ``batch`` examples, each example once."""

    base: Path
    examples: list[Example]
    steps: int
    batch: int
    rate: float
    seed: int
    quantisation: Quantisation = "none"

    @property
    def n_tokens(self) -> int:
        """Prompts and completions, no padding."""
        return sum(len(example.tokens) for example in self.examples)


@dataclass(frozen=True)
class Trained:
    """The model afterwards, the padded tokens that went through it, and what that took.

    Speeds are real tokens a second: of all, and of the second half of the steps, by when most
    sizes of batch have been compiled. ``peak`` is in bytes of MLX's arrays, the base among them.
    """

    model: MlxModel
    processed: int
    speed: float
    late_speed: float
    peak: int


class Pace:
    """Notes when each step has ended and how many real tokens it had."""

    def __init__(self) -> None:
        self._seconds = [time.perf_counter()]
        self._tokens = [0]

    def step(self, n_tokens: int) -> None:
        """A step has ended now."""
        self._seconds.append(time.perf_counter())
        self._tokens.append(self._tokens[-1] + n_tokens)

    def speed(self, first: int = 0) -> float:
        """Real tokens a second of the steps from ``first`` on."""
        seconds = self._seconds[-1] - self._seconds[first]
        return (self._tokens[-1] - self._tokens[first]) / seconds


def made_up(n: int, seed: int, sigma: float) -> list[Example]:
    """A language of few words, which is what there is to learn; answers repeat the question's.

    Lengths are lognormal, ``sigma`` is that of their logarithm.
    """
    stream = np.random.default_rng(seed)
    found = []
    for length in stream.lognormal(3.6, sigma, n).clip(12, 400).astype(int).tolist():
        prompt = stream.integers(40, 72, max(4, length // 4)).tolist()
        answer = (prompt * (length // len(prompt) + 1))[: length - len(prompt)]
        found.append(Example((*prompt, *answer), len(prompt)))
    return found


def fresh(task: Task) -> MlxModel:
    """The base with the initial adapter."""
    model = BACKEND.load(task.base, quantisation=task.quantisation)
    schema = read_card(task.base).adapter_schema(MODULES, rank=8, alpha=16.0)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        write_adapter(start, dict(initial_adapter(schema, seed=1)))
        model.attach(start, schema)
    assert isinstance(model, MlxModel)
    return model


def ours(task: Task) -> Trained:
    """By our loop, with passes as wide as it takes them on Metal."""
    model, pace = fresh(task), Pace()

    def progress(event: object) -> None:
        if isinstance(event, TrainStep):
            pace.step(event.n_tokens)

    job = _job(task)
    result = model.train(job, progress)
    passes = [
        indices
        for batches in islice(optimizer_steps(job), task.steps)
        for indices in forward_passes(task.examples, batches, PLAN)
    ]
    processed = sum(make_batch([task.examples[i] for i in one]).ids.size for one in passes)
    return _trained(task, model, pace, processed, result.peak_memory_bytes)


def stock(task: Task) -> Trained:
    """By mlx-lm's own loop; that it writes the adapter at the end is not timed."""
    model = fresh(task)
    assert model._lora is not None
    for layer in {id(x): x for x, _ in model._lora._places.values()}.values():
        layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
    np.random.seed(task.seed)  # its trainer draws the order from numpy's global generator
    mx.reset_peak_memory()
    counted = Counted()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train_by_mlx_lm(
            model=model._model,
            optimizer=optim.AdamW(task.rate, weight_decay=0.01, bias_correction=True),
            train_dataset=CacheDataset(Tokenised(task.examples)),
            args=TrainingArgs(
                batch_size=task.batch,
                iters=task.steps,
                steps_per_report=task.steps,
                steps_per_save=10 * task.steps,
                adapter_file=str(Path(folder) / "stock.safetensors"),
            ),
            iterate_batches=counted,
        )
    return _trained(task, model, counted.pace, counted.processed, mx.get_peak_memory())


PROGRAMS: dict[str, Callable[[Task], Trained]] = {"ours": ours, "mlx-lm": stock}


class Tokenised:
    """Conversations as mlx-lm's data sets are: a record each, made into tokens by ``process``."""

    def __init__(self, data: list[Example]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Example]:
        return {"example": self._data[index]}

    def process(self, record: dict[str, Example]) -> tuple[list[int], int]:
        """Tokens, and where the answer begins."""
        return list(record["example"].tokens), record["example"].n_prompt


class Counted:
    """Batches of mlx-lm's trainer: the tokens that go through the model, and when."""

    def __init__(self) -> None:
        self.processed = 0
        self.pace = Pace()

    def __call__(self, **given: object) -> Iterator[tuple[mx.array, mx.array]]:
        """As mlx-lm's own ``iterate_batches``."""
        for batch, lengths in iterate_batches(**given):  # type: ignore[arg-type]
            # It predicts the next token: the last of each row is not an input.
            self.processed += batch[:, :-1].size
            yield batch, lengths
            # The trainer has evaluated the step by the time it asks for the next batch. After the
            # last it does not ask, so that step is not counted.
            self.pace.step(int(lengths[:, 1].sum()))


def mean_loss(model: MlxModel, data: list[Example]) -> float:
    """Nats a completion token, by our engine whoever trained the adapter."""
    found = model.losses(data)
    return float(np.average([x.loss for x in found], weights=[x.n_tokens for x in found]))


def _job(task: Task) -> TrainJob:
    recipe = TrainingRecipe(
        steps=task.steps,
        batch_size=task.batch,
        learning_rate=task.rate,
        warmup_steps=0,
        max_grad_norm=1e9,
        seed=task.seed,
    )
    return TrainJob(task.examples, recipe, forward=PLAN)


def _trained(task: Task, model: MlxModel, pace: Pace, processed: int, peak: int) -> Trained:
    return Trained(model, processed, pace.speed(), pace.speed(task.steps // 2), peak)
