"""The formula this product set out from, kept to compare with; not to be preferred.

    imp = before - after;  dev = |imp - mean(imp)|
    L = 1 - minmax(after);  V = 1 - dev / max(dev), halved where dev > 5
    q = max(0.6 L + 0.4 V, 0.1);  w proportional to 0.7 q + 0.3 n_i / sum(n)

Zero spread gives 1 for L or V. A hospital that does not report both losses gets L = V = 0.
"""

from __future__ import annotations

import math

import numpy as np

from coordinator.aggregation._types import Inputs, Share, Shares, Update, Weighting

_FAR = 5.0
_FLOOR = 0.1


def _losses(update: Update) -> tuple[float, float] | None:
    before, after = update.metrics.get("loss_before"), update.metrics.get("loss_after")
    if before is None or after is None or not math.isfinite(before) or not math.isfinite(after):
        return None
    return before, after


def _quality(losses: list[tuple[float, float]]) -> np.ndarray:
    """q of the hospitals that reported, as the formula gives it."""
    before, after = np.array(losses).T
    improvement = before - after
    deviation = np.abs(improvement - improvement.mean())
    spread = np.ptp(after)
    low = 1 - (after - after.min()) / spread if spread > 0 else np.ones(len(after))
    widest = deviation.max()
    typical = 1 - deviation / widest if widest > 0 else np.ones(len(after))
    typical = np.where(deviation > _FAR, typical / 2, typical)
    return np.maximum(0.6 * low + 0.4 * typical, _FLOOR)


def _weights(inputs: Inputs) -> Shares:
    if len(inputs.updates) == 1:
        return {inputs.updates[0].hospital: Share(1.0, "the only update")}
    reported = {u.hospital: losses for u in inputs.updates if (losses := _losses(u))}
    quality = (
        dict(zip(reported, _quality(list(reported.values())), strict=True)) if reported else {}
    )
    total = sum(u.n_examples for u in inputs.updates)
    raw = {
        u.hospital: 0.7 * float(quality.get(u.hospital, _FLOOR)) + 0.3 * u.n_examples / total
        for u in inputs.updates
    }
    whole = math.fsum(raw.values())
    return {
        u.hospital: Share(
            raw[u.hospital] / whole,
            f"quality {quality[u.hospital]:.2f} by its reported losses, {u.n_examples:,} examples"
            if u.hospital in quality
            else f"no losses reported, so the lowest quality; {u.n_examples:,} examples",
        )
        for u in inputs.updates
    }


PART = Weighting(
    summary="The original quality formula over reported losses, for comparison.",
    weights=_weights,
    metrics=("loss_before", "loss_after"),
)
