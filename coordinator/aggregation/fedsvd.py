"""FedSVD (arXiv 2505.12805): hospitals train B; the SVD of Bbar A gives the next frozen A = V^T.

Exact, since A is equal everywhere; and with orthonormal rows (A A^T = I) the gradient of B is as
well conditioned in a later round as in the first. That one's A is still the initial one.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.aggregation._mean import finite, weighted_mean
from coordinator.aggregation._modules import parent_beside
from coordinator.aggregation._types import Combiner, Inputs, Merged, Tensors
from federation.low_rank import thin_svd


def _rotated(whole: Tensors, rank: int) -> Tensors:
    """B A of each module with A's rows orthonormal, in the order of falling singular values."""
    for (name_a, a), (name_b, b) in zip(whole, whole, strict=True):
        b_new, a_new = thin_svd(b, a).factors(rank, row_length=1.0)
        yield name_a, finite(name_a, a_new)
        yield name_b, finite(name_b, b_new)


def _combine(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
    whole = parent_beside(weighted_mean(inputs, weights), inputs.parent())
    return Merged(_rotated(whole, inputs.schema.rank))


PART = Combiner(
    summary="Only B, beside an A made orthonormal after each round: exact, and half the upload.",
    exact="yes",
    mixed_ranks=False,
    linear=True,
    keeps_factors=False,
    factors=lambda turn: "B",
    combine=_combine,
)
