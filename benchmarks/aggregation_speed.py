"""Adapters per second and peak memory of aggregation, beside Flower, byzfl and a bare sum.

Flower pins other versions of what we use, and byzfl declares more than it needs, so each has a
place of its own:

    python3 -m venv ~/.cache/fedmed-benchmarks/flower
    ~/.cache/fedmed-benchmarks/flower/bin/pip install flwr==1.41.0
    .venv/bin/pip install --no-deps --target ~/.cache/fedmed-benchmarks/byzfl byzfl==0.0.11 scipy
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/aggregation_speed.py

Every figure is of a process of its own, on one thread; the programs take turns, three times (once
at 2,000), and the best CPU time counts, so that a busy machine disturbs all alike. An adapter has
104 tensors of 8 x 4096 (13.6 MB in float32). The n adapters are views of four different ones: only
what a program adds to its input is measured as memory. Flower and byzfl take all updates at once,
so n x 13.6 MB come on top there; ours and the bare sum read one tensor of one hospital at a time.
The files of ``fedavg_serialised`` are in memory in one piece, as Flower's records are.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import io
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

PLACE = Path.home() / ".cache" / "fedmed-benchmarks"
ROOT = Path(__file__).resolve().parent.parent
COUNTS = (3, 20, 200, 2000)
N_MODULES, RANK, WIDTH = 52, 8, 4096
DIFFERENT = 4
REPEATS = 3

Run = Callable[[], object]
Arrays = dict[str, np.ndarray]


def adapters() -> list[Arrays]:
    stream = np.random.default_rng(1)
    return [
        {
            f"base_model.model.m.{i:02d}.lora_{factor}.weight": stream.normal(size=shape).astype(
                np.float32
            )
            for i in range(N_MODULES)
            for factor, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK)))
        }
        for _ in range(DIFFERENT)
    ]


def bare_sum(n: int) -> Run:
    """The limit: read every tensor, add it to a float64 sum, and nothing else."""
    found = adapters()

    def run() -> None:
        streams = [iter(found[i % DIFFERENT].values()) for i in range(n)]
        for first in streams[0]:
            total = first.astype(np.float64)
            for stream in streams[1:]:
                total += next(stream)
            total.astype(np.float32)

    return run


def _ours(name: str, n: int, *, serialised: bool) -> Run:
    sys.path.insert(0, str(ROOT))
    from coordinator.aggregation import Inputs, Update, get
    from federation.adapter import AdapterSchema, ModuleShape
    from federation.codec import decode
    from federation.tensors import Pieces, write_tensors

    modules = tuple(
        ModuleShape(path=f"m.{i:02d}", inputs=WIDTH, outputs=WIDTH) for i in range(N_MODULES)
    )
    schema = AdapterSchema(modules=modules, rank=RANK, alpha=16.0)
    shapes = schema.shapes()
    found = adapters()
    files: list[bytes] = []
    for adapter in found if serialised else []:
        file = io.BytesIO()
        write_tensors(file, shapes, iter(adapter.items()))
        files.append(file.getvalue())

    def tensors(i: int) -> Iterator[tuple[str, np.ndarray]]:
        if not serialised:
            return iter(found[i % DIFFERENT].items())
        return decode(Pieces([files[i % DIFFERENT]]), "fp32", shapes, {})

    updates = [Update(f"h{i:04d}", RANK, 10, {}, lambda i=i: tensors(i)) for i in range(n)]
    inputs = Inputs.of(schema, lambda: iter(found[0].items()), updates)
    aggregator = get(name)

    def run() -> None:
        weights = {h: share.weight for h, share in aggregator.shares(inputs).items()}
        for _ in aggregator.merge(inputs, weights).tensors:
            pass

    return run


def fedavg(n: int) -> Run:
    return _ours("fedavg", n, serialised=False)


def fedavg_serialised(n: int) -> Run:
    return _ours("fedavg", n, serialised=True)


def stacked(n: int) -> Run:
    return _ours("stacked", n, serialised=False)


def multi_krum(n: int) -> Run:
    return _ours("multi-krum+fedavg", n, serialised=False)


def flower_fedavg(n: int) -> Run:
    """What FedAvg of flwr.serverapp does with the replies' records."""
    from flwr.app import ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    made = [ArrayRecord({k: _flower_array(v) for k, v in a.items()}) for a in adapters()]
    metric = MetricRecord({"num-examples": 10})
    replies = [RecordDict({"arrays": made[i % DIFFERENT], "metrics": metric}) for i in range(n)]
    return lambda: aggregate_arrayrecords(replies, "num-examples")


def _flower_array(array: np.ndarray) -> object:
    from flwr.app import Array

    return Array(array)


def flower_fedavg_in_place(n: int) -> Run:
    """What FedAvg of flwr.server, the older interface, does by default."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
    from flwr.server.strategy.aggregate import aggregate_inplace

    made = [ndarrays_to_parameters(list(a.values())) for a in adapters()]
    status = Status(Code.OK, "")
    results = [(None, FitRes(status, made[i % DIFFERENT], 10, {})) for i in range(n)]
    return lambda: aggregate_inplace(results)  # type: ignore[arg-type]


def flower_aggregate(n: int) -> Run:
    """The mean alone, of arrays, as FedAvg of flwr.server computes it without ``inplace``."""
    from flwr.server.strategy.aggregate import aggregate

    found = adapters()
    results = [(list(found[i % DIFFERENT].values()), 10) for i in range(n)]
    return lambda: aggregate(results)


def _byzfl(rule: str, n: int, **options: int) -> Run:
    # Its package imports torchvision and more; its aggregators need none of that.
    sys.path.insert(0, str(PLACE / "byzfl"))
    package = types.ModuleType("byzfl")
    package.__path__ = [str(PLACE / "byzfl" / "byzfl")]
    sys.modules["byzfl"] = package
    aggregator = getattr(importlib.import_module("byzfl.aggregators.aggregators"), rule)(**options)
    flat = [np.concatenate([t.ravel() for t in a.values()]) for a in adapters()]
    vectors = [flat[i % DIFFERENT] for i in range(n)]
    return lambda: aggregator(vectors)


def byzfl_average(n: int) -> Run:
    return _byzfl("Average", n)


def byzfl_multi_krum(n: int) -> Run:
    return _byzfl("MultiKrum", n, f=max((n - 3) // 2, 0))


LEAST = {"multi_krum": 5, "byzfl_multi_krum": 5}
MOST = {
    **dict.fromkeys(("flower_aggregate", "byzfl_average"), 200),
    **dict.fromkeys(("stacked", "multi_krum", "byzfl_multi_krum"), 20),
}
"""Beyond so many adapters a program would copy more than this machine's memory, or take minutes."""

PROGRAMS: dict[str, Callable[[int], Run]] = {
    f.__name__: f
    for f in (
        *(bare_sum, fedavg, flower_aggregate, byzfl_average),
        *(fedavg_serialised, flower_fedavg, flower_fedavg_in_place),
        *(stacked, multi_krum, byzfl_multi_krum),
    )
}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure(program: str, n: int) -> None:
    """Set one program up, let it run once, and print what that took, as JSON."""
    run = PROGRAMS[program](n)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    started = time.process_time()
    run()
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "bytes": max(_status("VmHWM") - before, 0)}))


def outcome(program: str, n: int) -> dict[str, float] | None:
    flower = PLACE / "flower" / "bin" / "python"
    python = str(flower) if program.startswith("flower") else sys.executable
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, __file__, "--measure", program, str(n)],
        env={**os.environ, **one, "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{program}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--measure", nargs=2, metavar=("PROGRAM", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], int(arguments.measure[1]))
        return
    size = 4 * sum(t.size for t in adapters()[0].values())
    best: dict[str, dict[int, dict[str, float]]] = {program: {} for program in PROGRAMS}
    for n in arguments.counts:
        for _ in range(REPEATS if n < 1000 else 1):
            for program, figures in best.items():
                if not LEAST.get(program, 1) <= n <= MOST.get(program, n):
                    continue
                new = outcome(program, n)
                if new and (n not in figures or new["seconds"] < figures[n]["seconds"]):
                    figures[n] = new
    print(f"| {size / 1e6:.1f} MB adapters: per CPU second (MB added) | ", end="")
    print(" | ".join(f"n = {n}" for n in arguments.counts), "|")
    print("|---|" + "---|" * len(arguments.counts))
    for program, figures in best.items():
        cells = [
            f"{n / figures[n]['seconds']:.0f} ({figures[n]['bytes'] / 1e6:.0f})"
            if n in figures
            else "–"
            for n in arguments.counts
        ]
        print(f"| {program} | " + " | ".join(cells) + " |")
    if arguments.out:
        arguments.out.write_text(json.dumps(best, indent=2) + "\n")


if __name__ == "__main__":
    main()
