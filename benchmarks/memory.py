"""Peak memory of a training: the estimate beside what was measured.

    python -m benchmarks.memory [--base FOLDER] [--repeats 3] [--quick]

Each case is a process of its own: load, attach, evaluate, two optimizer steps; its peak resident
size is what the kernel says; with CUDA and MLX, the engine's peak of tensors and the runtime that
the estimate reckons with. Cases are interleaved: all of them once, then all of them again; those
that the engine here cannot hold are left out. Every example has the full length, so that the
batches are what the case says. Takes about 15 seconds a case on one core for the default base
model, SmolLM2-135M of the demonstration.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backends import choose
from backends.adapters import write_adapter
from backends.base import Example, ForwardPlan, Quantisation, TrainJob
from backends.estimate import Estimate, estimate, pass_shapes
from backends.memory import peak_resident_bytes
from backends.model_shape import read_shape
from federation.adapter import AdapterSchema, initial_adapter
from federation.base_model import BaseModelCard, read_card
from federation.recipe import TrainingRecipe

ATTENTION = (r".*layers\.\d+\.self_attn\..*",)
ALL = (r".*layers\.\d+\.(self_attn|mlp)\..*",)


@dataclass(frozen=True)
class Case:
    """One training: a batch of ``rows`` examples of ``columns`` tokens, half of them completion."""

    rows: int
    columns: int
    quantisation: Quantisation = "none"
    modules: tuple[str, ...] = ATTENTION
    recompute: bool = False

    def schema(self, card: BaseModelCard) -> AdapterSchema:
        """Of rank 8."""
        return card.adapter_schema(self.modules, rank=8, alpha=16.0)

    def examples(self) -> list[Example]:
        """Random tokens, the same each time."""
        stream = np.random.default_rng(0)
        rows = stream.integers(5, 400, (self.rows, self.columns)).tolist()
        return [Example(tuple(row), self.columns // 2) for row in rows]

    def __str__(self) -> str:
        adapted = ", all linear layers" if self.modules == ALL else ""
        again = ", recomputed" if self.recompute else ""
        return f"{self.quantisation:5} {self.rows} x {self.columns}{adapted}{again}"


CASES = (
    Case(8, 64),
    Case(8, 128),
    Case(4, 256),
    Case(2, 512),
    Case(1, 1024),
    Case(8, 64, modules=ALL),
    Case(8, 128, recompute=True),
    Case(1, 64, "nf4"),
    Case(8, 64, "nf4"),
    Case(8, 128, "nf4"),
    Case(8, 64, "int8"),
)
GPU_CASES = (
    Case(8, 512),
    Case(8, 512, recompute=True),
    Case(8, 512, "nf4"),
    Case(8, 512, "int8"),
    Case(8, 512, "affine4"),
    Case(8, 512, "affine8"),
)
QUICK = (Case(8, 64), Case(8, 64, "nf4"))


def estimated(case: Case, base: Path) -> Estimate:
    """What is said before the training."""
    card = read_card(base)
    probe = choose(None)[0].probe()
    examples = case.examples()
    return estimate(
        read_shape(base, card, probe.device),
        case.schema(card),
        "AB",
        pass_shapes(examples, [range(case.rows)]),
        quantisation=case.quantisation,
        recompute=case.recompute,
        dropout=False,
        device=probe.device,
    )


def train(case: Case, base: Path) -> int:
    """Peak bytes of this process after two steps."""
    schema = case.schema(read_card(base))
    model = choose(None)[0].load(base, quantisation=case.quantisation, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        write_adapter(start, dict(initial_adapter(schema, seed=1)))
        model.attach(start, schema)
    examples = case.examples()
    model.losses(examples)
    recipe = TrainingRecipe(steps=2, batch_size=case.rows, max_length=case.columns)
    forward = ForwardPlan(case.rows * case.columns, recompute=case.recompute)
    result = model.train(TrainJob(examples, recipe, forward=forward), lambda _: None)
    if choose(None)[0].probe().device in ("cuda", "metal"):
        return result.peak_memory_bytes + estimated(case, base).runtime
    return max(result.peak_memory_bytes, peak_resident_bytes())


def measured(case: Case, base: Path) -> int:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--base", base, "--child"],
        input=json.dumps(asdict(case)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    models = Path("demo-run/models/smollm2-135m-instruct")
    parser.add_argument("--base", type=Path, default=models, help="folder of the base model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two cases only")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case = json.load(sys.stdin)
        print(train(Case(**{**case, "modules": tuple(case["modules"])}), arguments.base))
        return
    probe = choose(None)[0].probe()
    wanted = QUICK if arguments.quick else CASES + (GPU_CASES if probe.device != "cpu" else ())
    cases = [case for case in wanted if case.quantisation in probe.quantisations]
    found: dict[Case, list[int]] = defaultdict(list)
    for _ in range(arguments.repeats):
        for case in cases:
            found[case].append(measured(case, arguments.base))
    print(f"{'case':38} {'estimate':>9} {'measured':>9} {'spread':>7} {'ratio':>6}")
    for case, peaks in found.items():
        said, peak = estimated(case, arguments.base).total, statistics.median(peaks)
        spread = (max(peaks) - min(peaks)) / 1e6
        print(f"{case!s:38} {said / 1e6:9.0f} {peak / 1e6:9.0f} {spread:7.0f} {said / peak:6.2f}")


if __name__ == "__main__":
    main()
