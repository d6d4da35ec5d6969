"""Processed over real tokens, and the loss after equal examples: our MLX loop and mlx-lm's trainer.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mlx_tokens.py

A tiny Llama (two layers of width 64) learns a made-up language whose answers have lognormal
lengths. Both programs get the same conversations as tokens, the same initial adapter, as many steps
of as many examples, and the same AdamW; mlx-lm's trainer is called as ``mlx_lm.lora`` calls it
(``CacheDataset``, prompts masked). Losses are ours, of the resulting adapters, on held-out
examples. The order of the data alone moves a short training's loss, so several are run.
Speed is not compared: MLX's processor build has no fast product.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches
from mlx_lm.tuner.trainer import train as train_by_mlx_lm

from backends.base import Example, ForwardPlan, TrainJob
from backends.batches import forward_passes, optimizer_steps
from backends.mlx import BACKEND
from backends.mlx.forward import make_batch
from backends.mlx.model import MlxModel
from federation.recipe import TrainingRecipe
from tests.tiny import tiny_model
from tests.tiny_training import schema_for, write_initial

BATCH, RATE = 8, 1e-2
PLAN = ForwardPlan(tokens=4096)


def examples(n: int, seed: int, sigma: float) -> list[Example]:
    """A language of few words, which is what there is to learn; answers repeat the question's."""
    stream = np.random.default_rng(seed)
    found = []
    for length in stream.lognormal(3.6, sigma, n).clip(12, 400).astype(int).tolist():
        prompt = stream.integers(40, 72, max(4, length // 4)).tolist()
        answer = (prompt * (length // len(prompt) + 1))[: length - len(prompt)]
        found.append(Example((*prompt, *answer), len(prompt)))
    return found


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
    """Batches of mlx-lm's trainer, with the tokens that go through the model counted."""

    def __init__(self) -> None:
        self.processed = 0

    def __call__(self, **given: object) -> Iterator[tuple[mx.array, mx.array]]:
        """As mlx-lm's own ``iterate_batches``."""
        for batch, lengths in iterate_batches(**given):  # type: ignore[arg-type]
            # It predicts the next token: the last of each row is not an input.
            self.processed += batch[:, :-1].size
            yield batch, lengths


def fresh(folder: Path) -> MlxModel:
    model = BACKEND.load(tiny_model())
    schema = schema_for(tiny_model(), rank=8)
    model.attach(write_initial(folder / "start.safetensors", schema), schema)
    assert isinstance(model, MlxModel)
    return model


def ours(folder: Path, data: list[Example], steps: int, seed: int) -> tuple[MlxModel, int]:
    """The trained model, and the padded tokens that went through it."""
    model = fresh(folder)
    recipe = TrainingRecipe(
        steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        warmup_steps=0,
        max_grad_norm=1e9,
        seed=seed,
    )
    job = TrainJob(data, recipe, forward=PLAN)
    model.train(job, lambda _: None)
    passes = [
        indices
        for batches in islice(optimizer_steps(job), steps)
        for indices in forward_passes(data, batches, PLAN)
    ]
    return model, sum(make_batch([data[i] for i in indices]).ids.size for indices in passes)


def stock(folder: Path, data: list[Example], steps: int, seed: int) -> tuple[MlxModel, int]:
    """The same with mlx-lm's own loop."""
    model = fresh(folder)
    assert model._lora is not None
    for layer in {id(x): x for x, _ in model._lora._places.values()}.values():
        layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
    counted = Counted()
    np.random.seed(seed)  # its trainer draws the order from numpy's global generator
    with contextlib.redirect_stdout(io.StringIO()):
        train_by_mlx_lm(
            model=model._model,
            optimizer=optim.AdamW(RATE, weight_decay=0.01, bias_correction=True),
            train_dataset=CacheDataset(Tokenised(data)),
            args=TrainingArgs(
                batch_size=BATCH,
                iters=steps,
                steps_per_report=steps,
                steps_per_save=10 * steps,
                adapter_file=str(folder / "stock.safetensors"),
            ),
            iterate_batches=counted,
        )
    return model, counted.processed


def mean_loss(model: MlxModel, data: list[Example]) -> float:
    """Nats a completion token."""
    found = model.losses(data)
    return float(np.average([x.loss for x in found], weights=[x.n_tokens for x in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sigma", type=float, default=0.8, help="of the lengths' logarithm")
    chosen = parser.parse_args()
    # mlx-lm compiles each size with the system's C++ compiler; that is not what is measured.
    mx.disable_compile()
    held_out = examples(64, 1000, chosen.sigma)
    losses: dict[str, list[float]] = {"ours": [], "mlx-lm": []}
    ratios: dict[str, list[float]] = {"ours": [], "mlx-lm": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"before  held-out loss {mean_loss(fresh(folder), held_out):.3f}", flush=True)
        for seed in range(chosen.seeds):
            data = examples(chosen.steps * BATCH, seed, chosen.sigma)
            real = sum(len(example.tokens) for example in data)
            for title, program in (("ours", ours), ("mlx-lm", stock)):
                model, processed = program(folder, data, chosen.steps, seed)
                losses[title].append(mean_loss(model, held_out))
                ratios[title].append(processed / real)
    for title in losses:
        print(
            f"{title:7} held-out loss {np.mean(losses[title]):.3f} "
            f"({min(losses[title]):.3f} to {max(losses[title]):.3f}), "
            f"processed over real tokens {np.mean(ratios[title]):.2f}"
        )


if __name__ == "__main__":
    main()
