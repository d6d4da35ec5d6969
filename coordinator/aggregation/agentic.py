"""Weights from quality: how low a hospital's loss is and how steady, bounded both ways.

    c(x) = sigmoid(-clip((x - median) / scale, -3, 3))
    scale = max(1.4826 MAD, 0.05 |median|, 1e-8)
    q_i = 0.6 c(l_i) + 0.4 c(v_i);  p_i = sqrt(min(n_i, 3 median n));  w proportional to p q
    water-filled to sum 1 with 0.1 / n <= w_i <= max(1/n, min(1/2, 2/n))

l is the coordinator's own validated loss where it has one of any update, else the reported loss;
v the reported variance of the last step losses. What is missing or not finite counts as 3 scales
bad. So a hospital that lies about its figures gains at most the cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coordinator.aggregation._types import Inputs, Share, Shares, Update, Weighting

_WORST = 3.0
_ON_PAR = 0.25
"""Scales around the median within which a loss is called on a par with the others."""


def scales_above_median(values: Sequence[float | None]) -> np.ndarray:
    """(x - median) / scale, clipped to +-3; None and what is not finite is 3 scales bad.

    Equal values are all 0, those of a single hospital too.
    """
    known = np.array([v for v in values if v is not None and math.isfinite(v)])
    found = np.full(len(values), _WORST)
    if not len(known):
        return found
    median = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - median)))
    scale = max(spread, 0.05 * abs(median), 1e-8)
    for i, value in enumerate(values):
        if value is not None and math.isfinite(value):
            found[i] = np.clip((value - median) / scale, -_WORST, _WORST)
    return found


def water_fill(raw: np.ndarray, low: float, high: float) -> np.ndarray:
    """clip(t * raw, low, high) with the t for which it sums to 1; ``raw`` (n,) positive.

    Needs n * low <= 1 <= n * high. The sum is piecewise linear in t with its corners where one
    weight reaches a bound, so that t lies between two corners, exactly.
    """
    corners = np.sort(np.concatenate([low / raw, high / raw]))
    sums = [float(np.clip(t * raw, low, high).sum()) for t in corners]
    weights: np.ndarray = np.clip(np.interp(1.0, sums, corners) * raw, low, high)
    return weights


def _losses(updates: Sequence[Update]) -> tuple[list[float | None], str]:
    """All validated or all reported: one hospital's data says nothing about another's loss."""
    if any(u.validated_loss is not None for u in updates):
        return [u.validated_loss for u in updates], "validated"
    return [u.metrics.get("loss_after") for u in updates], "reported"


def _in_words(kind: str, loss: float | None, above: float, variance: float | None, v: float) -> str:
    if loss is None or not math.isfinite(loss):
        first = f"no {kind} loss, so counted as 3 scales bad"
    elif abs(above) <= _ON_PAR:
        first = f"{kind} loss at the median"
    else:
        first = f"{kind} loss {'better' if above < 0 else 'worse'} than the median"
    if variance is None or not math.isfinite(variance):
        return f"{first}, no loss variance, so counted as unsteady"
    return f"{first}, {'steady' if v <= 1 else 'unsteady'}"


def _weights(inputs: Inputs) -> Shares:
    updates = inputs.updates
    n = len(updates)
    if n == 1:
        return {updates[0].hospital: Share(1.0, "the only update")}
    losses, kind = _losses(updates)
    variances = [u.metrics.get("loss_variance") for u in updates]
    above_loss, above_variance = scales_above_median(losses), scales_above_median(variances)
    quality = 0.6 / (1 + np.exp(above_loss)) + 0.4 / (1 + np.exp(above_variance))
    counts = np.array([u.n_examples for u in updates], dtype=np.float64)
    raw = np.sqrt(np.minimum(counts, 3 * np.median(counts))) * quality
    low, high = 0.1 / n, max(1 / n, min(0.5, 2 / n))
    weights = water_fill(raw, low, high)
    shares: dict[str, Share] = {}
    for i, update in enumerate(updates):
        words = _in_words(kind, losses[i], above_loss[i], variances[i], above_variance[i])
        if n == 2:
            words += "; two hospitals count the same"
        elif weights[i] >= high:
            words += f"; capped at {high:.2f}"
        elif weights[i] <= low:
            words += f"; raised to the least, {low:.3f}"
        shares[update.hospital] = Share(float(weights[i]), words)
    return shares


PART = Weighting(
    summary="By how low and steady each hospital's loss is, within bounds.",
    weights=_weights,
    metrics=("loss_after", "loss_variance"),
)
