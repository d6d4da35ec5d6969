"""w_i = 1 / n: every hospital counts the same, whatever it says about itself."""

from __future__ import annotations

from coordinator.aggregation._types import Inputs, Share, Shares, Weighting


def _weights(inputs: Inputs) -> Shares:
    n = len(inputs.updates)
    return {u.hospital: Share(1 / n, f"one of {n} equal votes") for u in inputs.updates}


PART = Weighting(summary="Every hospital counts the same.", weights=_weights)
