"""FedAvg on LoRA factors (FedIT, arXiv 2305.05644): the means of A and of B.

Cheap and robust, but not exact: sum p_i B_i A_i - Bbar Abar = sum p_i (B_i - Bbar)(A_i - Abar).
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.aggregation._mean import weighted_mean
from coordinator.aggregation._types import Combiner, Inputs, Merged


def _combine(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
    return Merged(weighted_mean(inputs, weights))


PART = Combiner(
    summary="The means of both factors: cheap and close, but not the mean of the updates.",
    exact="no",
    mixed_ranks=False,
    linear=True,
    keeps_factors=True,
    factors=lambda turn: "AB",
    combine=_combine,
)
