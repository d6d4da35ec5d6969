"""The same bytes whatever number of threads the machine's linear algebra would take."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from coordinator.aggregation import get, gram
from federation.adapter import AdapterSchema, ModuleShape
from federation.low_rank import thin_svd
from tests.aggregating import inputs_of, trained

NAMES = ("fedavg", "fedsvd", "norm-clip+stacked", "geometric-median+stacked")
# Five hospitals' factors side by side are wide enough for a library to share the work.
SCHEMA = AdapterSchema(
    modules=(ModuleShape(path="m", inputs=340, outputs=300),), rank=64, alpha=64.0
)


def digest(arrays: Iterable[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@cache
def digests() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in NAMES:
        aggregator = get(name)
        factors = aggregator.combiner.factors(2)
        made = [
            trained(i, i, factors=factors, turn=2, rank=64, schema=SCHEMA, noise=0.05 + 0.01 * i)
            for i in range(5)
        ]
        inputs = inputs_of(made, 2, SCHEMA)
        weights = {h: share.weight for h, share in aggregator.shares(inputs).items()}
        merged = aggregator.merge(inputs, weights)
        found[name] = digest(tensor for _, tensor in merged.tensors)
        found[f"{name}, what changed"] = digest([gram(inputs)])
    # An adapter is float32, which would hide most differences: so the float64 inside as well.
    stream = np.random.default_rng(1)
    svd = thin_svd(stream.normal(size=(300, 320)), stream.normal(size=(320, 340)))
    found["thin_svd"] = digest([svd.u, svd.sigma, svd.vt])
    return found


@pytest.mark.parametrize("threads", ["1", "4"])
def test_threads_do_not_change_a_byte(threads: str) -> None:
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, **dict.fromkeys(variables, threads), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(digests())


if __name__ == "__main__":
    print(digests())
