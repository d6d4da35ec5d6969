"""Processed over real tokens, and the loss after equal examples: our MLX loop and mlx-lm's trainer.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.mlx_tokens

A tiny Llama (two layers of width 64) learns a made-up language whose answers have lognormal
lengths; ``benchmarks/mlx_trainers.py`` says what both programs get. Losses are ours, of the
resulting adapters, on held-out examples. The order of the data alone moves a short training's
loss, so several are run. Speed is not compared: MLX's processor build has no fast product.
"""

from __future__ import annotations

import argparse

import mlx.core as mx
import numpy as np

from benchmarks.mlx_trainers import PROGRAMS, Task, fresh, made_up, mean_loss
from tests.tiny import tiny_model

BATCH, RATE = 8, 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sigma", type=float, default=0.8, help="of the lengths' logarithm")
    chosen = parser.parse_args()
    # mlx-lm compiles each size with the system's C++ compiler; that is not what is measured.
    mx.disable_compile()
    held_out = made_up(64, 1000, chosen.sigma)
    losses: dict[str, list[float]] = {title: [] for title in PROGRAMS}
    ratios: dict[str, list[float]] = {title: [] for title in PROGRAMS}
    for seed in range(chosen.seeds):
        data = made_up(chosen.steps * BATCH, seed, chosen.sigma)
        task = Task(tiny_model(), data, chosen.steps, BATCH, RATE, seed)
        if seed == 0:
            print(f"before  held-out loss {mean_loss(fresh(task), held_out):.3f}", flush=True)
        for title, train in PROGRAMS.items():
            found = train(task)
            losses[title].append(mean_loss(found.model, held_out))
            ratios[title].append(found.processed / task.n_tokens)
    for title in losses:
        print(
            f"{title:7} held-out loss {np.mean(losses[title]):.3f} "
            f"({min(losses[title]):.3f} to {max(losses[title]):.3f}), "
            f"processed over real tokens {np.mean(ratios[title]):.2f}"
        )


if __name__ == "__main__":
    main()
