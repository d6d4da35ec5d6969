"""Training speed of our torch loop beside TRL's SFTTrainer.

    python -m benchmarks.train_speed --hospital FOLDER --base FOLDER [--steps 12] [--repeats 5]

FOLDER of the hospital is an appliance's home with imported data, such as
``demo-run/run/hospitals/neurology`` after ``make demo``; the base is
``demo-run/models/smollm2-135m-instruct``. TRL lives in an environment of its own, since it pins
what it needs (torch first, so that nothing replaces it):

    python3 -m venv ~/.cache/fedmed/trl
    ~/.cache/fedmed/trl/bin/pip install torch==2.13.0
    ~/.cache/fedmed/trl/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0

All ways train a LoRA of rank 8 on q, k, v, o on the same examples, once each, on one thread. Each
run is a process of its own; the ways take turns, beginning with another each time. Tokens are real
ones, prompts and completions, no padding; the clock starts with the first step. The held-out loss
is measured for all by our engine, on the adapter that was saved. On a shared machine the CPU
seconds say more than the clock; on a GPU speeds are compared by the clock, and memory is tensors'.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from appliance.training import load_data
from backends import choose
from backends.adapters import write_adapter
from backends.base import Example, TrainJob
from backends.batches import optimizer_steps
from backends.tokens import ChatTokenizer
from federation.adapter import initial_adapter
from federation.base_model import read_card
from federation.recipe import TrainingRecipe

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK, ALPHA = 8, 16.0
WAYS = ("ours", "trl defaults", "trl sorted", "trl packed")
TRL = Path.home() / ".cache" / "fedmed" / "trl" / "bin" / "python"


@dataclass(frozen=True)
class Run:
    """One training: seconds by the clock and of the processor, peak bytes, loss afterwards."""

    seconds: float
    cpu_seconds: float
    peak: int
    held_out: float


def write_workload(target: Path, hospital: Path, base: Path, recipe: TrainingRecipe) -> int:
    """The examples in the order of our batches, and what defines the task; their tokens."""
    data = load_data(ChatTokenizer(base), hospital / "data", recipe)
    assert recipe.steps is not None
    steps = islice(optimizer_steps(TrainJob(data.train, recipe)), recipe.steps)
    chosen = [data.train[i] for batches in steps for i in chain.from_iterable(batches)]
    work = {
        "recipe": recipe.model_dump(),
        "rank": RANK,
        "alpha": ALPHA,
        "modules": MODULES,
        "examples": [(example.tokens, example.n_prompt) for example in chosen],
        "held_out": [(example.tokens, example.n_prompt) for example in data.held_out],
    }
    target.write_text(json.dumps(work))
    return sum(len(example.tokens) for example in chosen)


def ours(workload: Path, base: Path, output: Path) -> dict[str, Any]:
    """Our training of the workload, in this process."""
    work = json.loads(workload.read_text())
    schema = read_card(base).adapter_schema(MODULES, rank=RANK, alpha=ALPHA)
    model = choose(None)[0].load(base, threads=1)
    start = output / "start.safetensors"
    write_adapter(start, dict(initial_adapter(schema, seed=1)))
    model.attach(start, schema)
    recipe = TrainingRecipe(**work["recipe"])
    examples = [Example(tuple(tokens), n) for tokens, n in work["examples"]]
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = model.train(TrainJob(examples, recipe), lambda _: None)
    after = resource.getrusage(resource.RUSAGE_SELF)
    model.save_adapter(output / "adapter_model.safetensors")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": result.seconds, "cpu_seconds": cpu, "peak": result.peak_memory_bytes}


def held_out_loss(workload: Path, base: Path, adapter: Path) -> float:
    """Mean loss in nats a completion token, by our engine whoever trained the adapter."""
    work = json.loads(workload.read_text())
    schema = read_card(base).adapter_schema(MODULES, rank=RANK, alpha=ALPHA)
    model = choose(None)[0].load(base, threads=1)
    model.attach(adapter, schema)
    losses = model.losses([Example(tuple(tokens), n) for tokens, n in work["held_out"]])
    return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)


def process(*arguments: str | Path) -> Any:  # noqa: ANN401  whatever JSON it printed
    """Run a program on one thread; the JSON of its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(way: str, workload: Path, base: Path) -> Run:
    """Train this way in a process of its own, and measure the loss in another."""
    myself = (sys.executable, "-m", "benchmarks.train_speed", "--base", base)
    with tempfile.TemporaryDirectory() as folder:
        if way == "ours":
            found = process(*myself, "--child", workload, folder)
        else:
            script = Path(__file__).with_name("train_speed_trl.py")
            found = process(TRL, script, way.split()[1], workload, base, folder)
        adapter = Path(folder) / "adapter_model.safetensors"
        loss = process(*myself, "--measure", workload, adapter)
    return Run(found["seconds"], found["cpu_seconds"], found["peak"], loss)


def show(found: dict[str, list[Run]], n_tokens: int) -> None:
    """A line for each way; speeds relative to TRL's defaults by what computes."""
    on_cpu = choose(None)[0].probe().device == "cpu"

    def speed(way: str, by_cpu: bool) -> float:
        return n_tokens / statistics.median(
            x.cpu_seconds if by_cpu else x.seconds for x in found[way]
        )

    print(f"\n{'':13} tokens/s  (least-most)  per CPU s  peak MB  held-out  relative")
    for way, runs in found.items():
        clock = sorted(n_tokens / x.seconds for x in runs)
        relative = (
            speed(way, on_cpu) / speed("trl defaults", on_cpu) if "trl defaults" in found else 1.0
        )
        print(
            f"{way:13} {statistics.median(clock):8.1f}  {clock[0]:5.1f}-{clock[-1]:<6.1f}"
            f"{speed(way, True):10.1f}  {statistics.median(x.peak for x in runs) / 1e6:7.0f}"
            f"  {statistics.median(x.held_out for x in runs):8.4f}  {relative:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--hospital", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    base = arguments.base.absolute()
    if arguments.child:
        workload, output = arguments.child
        print(json.dumps(ours(workload, base, output)))
        return
    if arguments.measure:
        workload, adapter = arguments.measure
        print(json.dumps(held_out_loss(workload, base, adapter)))
        return
    # Without a warm-up: transformers' own begins at zero, ours at one step's worth.
    recipe = TrainingRecipe(
        steps=arguments.steps,
        batch_size=8,
        learning_rate=2e-3,
        warmup_steps=0,
        max_length=256,
        eval_examples=50,
    )
    found: dict[str, list[Run]] = {way: [] for way in arguments.ways}
    with tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.json"
        n_tokens = write_workload(workload, arguments.hospital, base, recipe)
        print(f"{arguments.steps} steps of 8 examples, {n_tokens} tokens", flush=True)
        for repeat in range(arguments.repeats):
            turn = repeat % len(arguments.ways)
            for way in (*arguments.ways[turn:], *arguments.ways[:turn]):
                found[way].append(run(way, workload, base))
                last = found[way][-1]
                print(f"{repeat + 1}. {way:13} {n_tokens / last.seconds:7.1f} tokens/s", flush=True)
    show(found, n_tokens)


if __name__ == "__main__":
    main()
