"""The geometric median of the updates (RFA, Pillutla et al. 2019, arXiv 1912.13445).

The point with the least sum of distances is a weighted mean sum b_i U_i, found by smoothed
Weiszfeld steps b_i proportional to 1 / max(nu, ||U_i - z||), all in the Gram matrix:
||U_i - z||^2 = G_ii - 2 (G b)_i + b^T G b. It stays with the majority whatever fewer than half
send. With sample counts as votes one lying hospital could be that half, so each has one vote.
"""

from __future__ import annotations

import numpy as np

from coordinator.aggregation._gram import gram, norms, squared_distances
from coordinator.aggregation._types import Inputs, Robust, Shares

_STEPS = 1000
_SMOOTHING = 1e-6
"""nu as a part of the median norm: two points closer than this count as one."""
_CLOSE = 0.9
"""Of an equal share: honest hospitals differ by some hundredths of theirs."""
_CONVERGED = 1e-12
_ABSURD = 1e6
"""Farther than so many median distances from the most central point means no weight at all: in
float64 the square of such a distance would drown all others."""


def median_weights(products: np.ndarray) -> np.ndarray:
    """b (n,), non-negative with sum 1, for the Gram matrix (n, n) of the points."""
    squares = np.diag(products)
    distances = np.sqrt(squared_distances(products))
    medians = np.median(distances, axis=1)
    central = int(np.argmin(medians))
    near = distances[central] <= _ABSURD * medians[central]
    nu = max(_SMOOTHING * float(np.median(norms(products))), np.finfo(np.float64).tiny)
    b: np.ndarray = near / near.sum()
    for _ in range(_STEPS):
        inner = products @ b
        distances = np.sqrt(np.maximum(squares - 2 * inner + b @ inner, 0.0))
        closeness = near * nu / np.maximum(nu, distances)
        before, b = b, closeness / closeness.sum()
        if float(np.abs(b - before).max()) < _CONVERGED:
            break
    return b


def _adjust(inputs: Inputs, shares: Shares) -> Shares:
    weights = median_weights(gram(inputs))
    n = len(shares)

    def place(weight: float) -> str:
        return "close to" if weight * n >= _CLOSE else "far from"

    return {
        hospital: share.changed(
            float(weight), f"geometric-median: {place(weight)} the others' middle"
        )
        for (hospital, share), weight in zip(shares.items(), weights, strict=True)
    }


PART = Robust(
    summary="The middle of the updates: the nearer to it, the more weight; one vote each.",
    min_hospitals=3,
    adjust=_adjust,
    one_vote=True,
)
