"""Weights from quality: how low a hospital's loss is and how steady, bounded both ways.

    c(x) = sigmoid(-clip((x - median) / scale, -3, 3))
    scale = max(1.4826 MAD, 0.05 |median|, 1e-8)
    q_i = 0.6 c(l_i) + 0.4 c(v_i);  p_i = sqrt(min(n_i, 3 median n));  w proportional to p q
    water-filled to sum 1 with 0.1 / n <= w_i <= max(1/n, min(1/2, 2/n))

l is the reported loss, v the reported variance of the last step losses. What is missing or not
finite counts as 3 scales bad. So a hospital that lies about its figures gains at most the cap.

Where the coordinator validates, nothing a hospital reports changes any weight: l and v are of the
update's loss on the coordinator's set and over the set's folds, and

    q_i = 0.6 c(l_i) + 0.4 min(c(l_i), c(v_i)), without folds c(l_i);  p_i = 1

since an update that is bad on all folds alike is steady, which is no quality of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Rating:
    """The updates' raw weights (n,), positive, and in words how each came to its own."""

    raw: np.ndarray
    words: list[str]


def _by_reports(updates: Sequence[Update]) -> _Rating:
    losses = [u.metrics.get("loss_after") for u in updates]
    variances = [u.metrics.get("loss_variance") for u in updates]
    counts = np.array([u.n_examples for u in updates], dtype=np.float64)
    p = np.sqrt(np.minimum(counts, 3 * np.median(counts)))
    raw = p * (0.6 * _c(losses) + 0.4 * _c(variances))
    words = zip(_how_low("reported", losses), _how_steady(variances), strict=True)
    return _Rating(raw, [f"{low}, {steady}" for low, steady in words])


def _by_validation(updates: Sequence[Update]) -> _Rating:
    """A hospital that was not validated while others were has no loss: its own word is no match."""
    losses = [u.validated.loss if u.validated else None for u in updates]
    words = _how_low("validated", losses)
    if any(u.validated is not None and u.validated.variance is None for u in updates):
        return _Rating(_c(losses), words)
    variances = [u.validated.variance if u.validated else None for u in updates]
    low_loss = _c(losses)
    raw = 0.6 * low_loss + 0.4 * np.minimum(low_loss, _c(variances))
    words = [
        f"{low}, {steady} over folds"
        for low, steady in zip(words, _how_steady(variances), strict=True)
    ]
    return _Rating(raw, words)


def _c(values: Sequence[float | None]) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(scales_above_median(values)))
    return found


def _how_low(kind: str, losses: Sequence[float | None]) -> list[str]:
    def said(loss: float | None, above: float) -> str:
        if loss is None or not math.isfinite(loss):
            return f"no {kind} loss, so counted as 3 scales bad"
        if abs(above) <= _ON_PAR:
            return f"{kind} loss at the median"
        return f"{kind} loss {'better' if above < 0 else 'worse'} than the median"

    return list(map(said, losses, scales_above_median(losses)))


def _how_steady(variances: Sequence[float | None]) -> list[str]:
    def said(variance: float | None, above: float) -> str:
        if variance is None or not math.isfinite(variance):
            return "no loss variance, so counted as unsteady"
        return "steady" if above <= 1 else "unsteady"

    return list(map(said, variances, scales_above_median(variances)))


def _weights(inputs: Inputs) -> Shares:
    updates = inputs.updates
    n = len(updates)
    if n == 1:
        return {updates[0].hospital: Share(1.0, "the only update")}
    validated = any(u.validated is not None for u in updates)
    rating = _by_validation(updates) if validated else _by_reports(updates)
    low, high = 0.1 / n, max(1 / n, min(0.5, 2 / n))
    weights = water_fill(rating.raw, low, high)
    shares: dict[str, Share] = {}
    for i, update in enumerate(updates):
        words = rating.words[i]
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
