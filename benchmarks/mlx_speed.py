"""Our MLX engine beside mlx-lm on a Mac: training and answers.

    python -m benchmarks.mlx_speed --base FOLDER [--hospital FOLDER] [--quantisation affine4]
    OMP_NUM_THREADS=1 python -m benchmarks.mlx_speed     # anywhere, with a tiny model

The base is an installed one, such as ``demo-run/models/smollm2-135m-instruct`` after ``make demo``,
the hospital an appliance's home with imported data, such as ``demo-run/run/hospitals/neurology``;
without it both learn a made-up language. Without Metal this only shows that it works.

Training: ``benchmarks/mlx_trainers.py`` says what both get. The trainings take turns, each begins
with a base newly loaded, and what MLX compiles for each size of batch is a part of it; the second
half of the steps tells how it goes on. Tokens are real ones, no padding.

Answers: the same conversation of five turns with the same adapter, put to all in turns. mlx-lm is
asked twice: as its README shows, with the whole conversation each time and an adapter swapped by
``remove_lora_layers`` and ``load_adapters``; and as its server does it, with ``LRUPromptCache``,
the adapter's tensors swapped by ``load_weights``. A cold start is a process of its own up to its
first token. Of a quantised base mlx-lm also quantises embedding and output head, ours does not.

Imports are inside the functions that need them: one engine's cold start has not the other's.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from backends.base import Example, Quantisation
from backends.mlx import BACKEND
from backends.mlx.probe import QUANTISATIONS
from backends.peft_folder import write_peft
from benchmarks.conversation import (
    QUESTIONS,
    Engine,
    Figures,
    Ours,
    answer_once,
    converse,
    make_adapters,
    new_figures,
    show,
    start_cold,
    swap,
)

BATCH, RATE, HELD_OUT = 8, 2e-3, 50
NO_METAL = (
    "There is no Metal here: this run shows that the benchmark works. Its times mean nothing: the "
    "processor build of MLX has no fast matrix product, and nothing is compiled."
)


def ours(base: Path, quantisation: Quantisation) -> Ours:
    """Our MLX engine."""
    return Ours(BACKEND.load(base, quantisation=quantisation), time.perf_counter)


def stock(base: Path, quantisation: Quantisation) -> Engine:
    """mlx-lm as its README shows it."""
    from benchmarks.mlx_stock import Stock

    return Stock(base, quantisation)


def cached(base: Path, quantisation: Quantisation) -> Engine:
    """mlx-lm as its server uses it."""
    from benchmarks.mlx_stock import Cached

    return Cached(base, quantisation)


ENGINES: dict[str, Callable[[Path, Quantisation], Engine]] = {
    "ours": ours,
    "mlx-lm": stock,
    "mlx-lm, cached": cached,
}


def workload(base: Path, hospital: Path | None, n: int) -> tuple[list[Example], list[Example]]:
    """``n`` examples to learn, and the held-out ones."""
    from appliance.training import load_data
    from backends.tokens import ChatTokenizer
    from benchmarks.mlx_trainers import made_up
    from federation.recipe import TrainingRecipe

    if hospital is None:
        return made_up(n, 1, sigma=0.8), made_up(HELD_OUT, 2, sigma=0.8)
    recipe = TrainingRecipe(max_length=512, eval_examples=HELD_OUT)
    data = load_data(ChatTokenizer(base), hospital / "data", recipe)
    if len(data.train) < n:
        sys.exit(f"{hospital} has {len(data.train)} examples, {n} are needed: fewer --steps.")
    chosen = np.random.default_rng(1).permutation(len(data.train))[:n]
    return [data.train[i] for i in chosen], data.held_out


def training(given: argparse.Namespace, base: Path, figures: Figures) -> None:
    """Trainings in turns; a model is gone before the next is loaded, so peaks are of one."""
    from benchmarks.mlx_trainers import PROGRAMS, Task, mean_loss

    data, held_out = workload(base, given.hospital, given.steps * BATCH)
    for repeat in range(given.repeats):
        task = Task(base, data, given.steps, BATCH, RATE, repeat, given.quantisation)
        for name, train in PROGRAMS.items():
            found = train(task)
            for row, figure in (
                ("training, real tokens/s", found.speed),
                ("  in the second half", found.late_speed),
                ("  peak of MLX's arrays, MB", found.peak / 1e6),
                ("  processed over real tokens", found.processed / task.n_tokens),
                ("  held-out loss", mean_loss(found.model, held_out)),
            ):
                figures[row][name].append(figure)
            del found
            gc.collect()
            mx.clear_cache()


def answers(given: argparse.Namespace, base: Path, figures: Figures) -> int:
    """Cold starts, then conversations; counts turns whose texts differ."""
    from benchmarks.mlx_stock import write_folder

    child = ["-m", "benchmarks.mlx_speed", "--base", str(base), "--quantisation"]
    for _ in range(given.repeats):
        for name in ENGINES:
            command = [*child, given.quantisation, "--first", name]
            figures["cold start, s"][name].append(start_cold(command, time.perf_counter))
    engines = {name: load(base, given.quantisation) for name, load in ENGINES.items()}
    differ = 0
    with tempfile.TemporaryDirectory() as room:
        adapters = make_adapters(base, Path(room), write_peft)
        for adapter, folder in adapters:
            write_folder(folder, adapter, base.name)
        for engine in engines.values():
            engine.use(*adapters[1])
        for _ in range(given.repeats):
            swap(engines, adapters, time.perf_counter, figures)
            differ += converse(engines, given.tokens, figures)
    return differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, help="folder of the base model (default: a tiny one)")
    parser.add_argument("--hospital", type=Path, help="home with imported data")
    parser.add_argument("--quantisation", choices=QUANTISATIONS, default="none")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    metal = mx.metal.is_available()
    if not metal:
        # It would compile each size of batch with the system's C++ compiler.
        mx.disable_compile()
    if given.first:
        answer_once(ENGINES[given.first](given.base, given.quantisation))
        return
    if not metal:
        print(NO_METAL, flush=True)
    if given.base is None:
        from tests.tiny import tiny_model
    base = tiny_model() if given.base is None else given.base.absolute()
    figures = new_figures()
    training(given, base, figures)
    differ = answers(given, base, figures)
    show(figures)
    print(f"turns whose texts differ: {differ} of {given.repeats * len(QUESTIONS)}")
    if not metal:
        print(NO_METAL)


if __name__ == "__main__":
    main()
