"""p_i = n_i / sum(n): every training example counts the same (McMahan et al. 2017)."""

from __future__ import annotations

from coordinator.aggregation._types import Inputs, Share, Shares, Weighting


def _weights(inputs: Inputs) -> Shares:
    total = sum(update.n_examples for update in inputs.updates)
    return {
        u.hospital: Share(u.n_examples / total, f"{u.n_examples:,} of {total:,} training examples")
        for u in inputs.updates
    }


PART = Weighting(summary="Every training example counts the same (the default).", weights=_weights)
