"""Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757): leave out the f updates that stand apart.

An update's score is the sum of its squared distances to its n - f - 2 nearest neighbours; the
n - f of lowest score stay, with the weights they have. f is the most that n >= 2f + 3 allows.
"""

from __future__ import annotations

import math

import numpy as np

from coordinator.aggregation._gram import gram, squared_distances
from coordinator.aggregation._types import Inputs, Robust, Share, Shares


def scores(distances: np.ndarray, f: int) -> np.ndarray:
    """(n,): the sum of each row's n - f - 2 smallest squared distances to others."""
    n = len(distances)
    others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    nearest: np.ndarray = np.sort(others, axis=1)[:, : n - f - 2].sum(axis=1)
    return nearest


def _adjust(inputs: Inputs, shares: Shares) -> Shares:
    n = len(shares)
    f = (n - 3) // 2
    found = scores(squared_distances(gram(inputs)), f)
    order = sorted(range(n), key=lambda i: (found[i], i))
    hospitals = list(shares)
    kept = {hospitals[i] for i in order[: n - f]}
    median = float(np.median(found))
    total = math.fsum(shares[hospital].weight for hospital in kept)
    result: dict[str, Share] = {}
    for i, (hospital, share) in enumerate(shares.items()):
        if hospital in kept:
            weight = share.weight / total if total > 0 else 0.0
            result[hospital] = share.changed(weight, f"kept by multi-krum, {n - f} of {n}")
        else:
            ratio = f"{found[i] / median:.1f} x the median" if median > 0 else "not zero"
            reason = f"left out by multi-krum: squared distance to its neighbours {ratio}"
            result[hospital] = share.changed(0.0, reason)
    return result


PART = Robust(
    summary="The updates farthest from the others, up to (n - 3) / 2 of them, are left out.",
    min_hospitals=5,
    adjust=_adjust,
)
