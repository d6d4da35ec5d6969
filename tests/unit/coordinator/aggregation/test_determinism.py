"""The same bytes whatever number of threads the machine's linear algebra would take."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from coordinator.aggregation import get
from federation.adapter import AdapterSchema, ModuleShape
from tests.aggregating import inputs_of, trained

NAMES = ("fedavg", "fedsvd", "norm-clip+stacked", "geometric-median+stacked")
# Wide enough for a library to share the work among threads.
SCHEMA = AdapterSchema(
    modules=tuple(ModuleShape(path=f"m.{i}", inputs=1536, outputs=1024) for i in range(2)),
    rank=16,
    alpha=16.0,
)


@cache
def digests() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in NAMES:
        aggregator = get(name)
        factors = aggregator.combiner.factors(2)
        made = [
            trained(i, i, factors=factors, turn=2, rank=16, schema=SCHEMA, noise=0.05 + 0.01 * i)
            for i in range(5)
        ]
        inputs = inputs_of(made, 2, SCHEMA)
        weights = {h: share.weight for h, share in aggregator.shares(inputs).items()}
        digest = hashlib.sha256()
        for _, tensor in aggregator.merge(inputs, weights).tensors:
            digest.update(tensor.tobytes())
        found[name] = digest.hexdigest()
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
