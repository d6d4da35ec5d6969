"""Norm clipping (Sun et al. 2019, arXiv 1911.07963) to the median norm of what hospitals changed.

An update of twice the median norm counts half, and the parent adapter fills in what is missing:
sum p_i min(1, median / ||U_i||) U_i. A boosted update gains nothing by its size; its direction is
not looked at.
"""

from __future__ import annotations

import numpy as np

from coordinator.aggregation._gram import gram, norms
from coordinator.aggregation._types import Inputs, Robust, Share, Shares


def _adjust(inputs: Inputs, shares: Shares) -> Shares:
    sizes = norms(gram(inputs))
    limit = float(np.median(sizes))
    found: dict[str, Share] = {}
    for (hospital, share), size in zip(shares.items(), sizes, strict=True):
        if size <= limit:
            found[hospital] = share
            continue
        factor = limit / float(size)
        reason = f"clipped: its change is {_times(float(size), limit)} the median one"
        found[hospital] = share.changed(share.weight * factor, reason)
    return found


def _times(size: float, limit: float) -> str:
    return f"{size / limit:.1f} x" if limit > 0 else "not zero as"


PART = Robust(
    summary="A change larger than the median one is scaled down to it.",
    min_hospitals=3,
    adjust=_adjust,
)
