"""A mixture of two adapters of one base: exact, by stacking their factors.

(1 - t) s_1 B_1 A_1 + t s_2 B_2 A_2 = [(1 - t) s_1 B_1, t s_2 B_2] [A_1; A_2]

Averaging factors instead would not give the average of the updates unless both had one A. The
stacked adapter has the rank of both together, and a scale of 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from appliance.adapters import StoredAdapter
from federation.adapter import AdapterSchema
from federation.files import atomic_writer
from federation.tensors import read_header, read_tensors, write_tensors


def mixed_schema(first: AdapterSchema, second: AdapterSchema) -> AdapterSchema:
    """The schema of a mixture: both ranks together, alpha equal to it."""
    rank = first.rank + second.rank
    return AdapterSchema(modules=first.modules, rank=rank, alpha=float(rank))


def write_mixture(
    target: Path, first: StoredAdapter, second: StoredAdapter, second_part: float
) -> None:
    """Write the mixture with ``second_part`` of the second, 0 to 1, and the rest of the first.

    Both have adapters in the same layers (``AdapterSchema.modules``).
    """
    one, two = first.card.adapter_schema, second.card.adapter_schema
    schema = mixed_schema(one, two)
    scales = (
        (1 - second_part) * one.alpha / one.rank,
        second_part * two.alpha / two.rank,
    )
    with atomic_writer(target) as file:
        write_tensors(file, schema.shapes(), _stacked(first, second, scales))


def _stacked(
    first: StoredAdapter, second: StoredAdapter, scales: tuple[float, float]
) -> Iterator[tuple[str, np.ndarray]]:
    pairs = zip(_tensors(first.weights), _tensors(second.weights), strict=True)
    for (name, one), (_, two) in pairs:
        if ".lora_B." in name:
            parts = [np.float32(s) * t for s, t in zip(scales, (one, two), strict=True)]
            yield name, np.concatenate(parts, axis=1)
        else:
            yield name, np.concatenate([one, two])


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with path.open("rb") as file:
        yield from read_tensors(file, read_header(file))
