"""Alternating factors (RoLoRA, arXiv 2502.01755): B on odd turns, A on even, the other frozen.

Exact, since with one factor equal everywhere the mean of Delta W is the product of the means. The
first turn must train B: while B is zero the gradient of A is exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.aggregation._mean import weighted_mean
from coordinator.aggregation._modules import parent_beside
from coordinator.aggregation._types import Combiner, Inputs, Merged
from federation.adapter import Factors


def _factors(turn: int) -> Factors:
    return "B" if turn % 2 == 1 else "A"


def _combine(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
    return Merged(parent_beside(weighted_mean(inputs, weights), inputs.parent()))


PART = Combiner(
    summary="Only B, then only A, by turns: exact, and half the upload.",
    exact="yes",
    mixed_ranks=False,
    linear=True,
    keeps_factors=True,
    factors=_factors,
    combine=_combine,
)
