"""Stacking (FLoRA, arXiv 2409.05976) and a thin SVD back to the schema's rank.

    sum p_i s_i B_i A_i = [p_1 s_1 B_1 .. p_n s_n B_n] [A_1; ..; A_n]

is exact at any ranks; its best approximation at the federation's rank comes from QR of both sides
and an SVD between them, without ever forming Delta W. What the cut loses is reported by module.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coordinator.aggregation._mean import finite, parent_weight
from coordinator.aggregation._modules import Module, Pair, modules, only
from coordinator.aggregation._types import Combiner, Inputs, Merged, Tensors
from federation.adapter import tensor_name
from federation.low_rank import ROW_LENGTH, thin_svd


def _stack(
    module: Module, weights: Mapping[str, float], rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides in float64. The parent comes last, with what the weights leave it.

    It comes with weight 0 too where the hospitals' ranks do not fill the schema's: so its rows of
    A stay directions that can be trained.
    """
    members: list[tuple[float, Pair]] = [(weights[h], pair) for h, pair in module.updates.items()]
    left = parent_weight(weights)
    if left or sum(len(pair.a) for _, pair in members) < rank:
        members.append((left, module.parent))
    b = [(weight * pair.scale) * pair.b.astype(np.float64) for weight, pair in members]
    a = [pair.a.astype(np.float64) for _, pair in members]
    return np.concatenate(b, axis=1), np.concatenate(a)


def _combine(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
    rank, scale = inputs.schema.rank, inputs.schema.alpha / inputs.schema.rank
    discarded: dict[str, float] = {}

    def stream() -> Tensors:
        for module in modules(only(inputs, weights)):
            svd = thin_svd(*_stack(module, weights, rank))
            discarded[module.path] = svd.discarded(rank)
            b, a = svd.factors(rank, ROW_LENGTH)
            name_a, name_b = tensor_name(module.path, "A"), tensor_name(module.path, "B")
            yield name_a, finite(name_a, a)
            yield name_b, finite(name_b, b / scale)

    return Merged(stream(), discarded)


PART = Combiner(
    summary="All updates stacked and cut back to the rank: exact but for the cut, any ranks.",
    exact="up to rank",
    mixed_ranks=True,
    linear=False,
    keeps_factors=False,
    factors=lambda turn: "AB",
    combine=_combine,
)
