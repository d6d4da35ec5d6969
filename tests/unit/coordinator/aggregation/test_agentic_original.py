"""The original formula to the last digit that was handed down, and where it had no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.aggregation import get
from tests.aggregating import Made, inputs_of, trained

ORIGINAL = get("agentic-original")


def reporting(before: list[float], after: list[float], n: list[int]) -> list[Made]:
    return [
        replace(trained(i, 1), n_examples=k, metrics={"loss_before": b, "loss_after": a})
        for i, (b, a, k) in enumerate(zip(before, after, n, strict=True))
    ]


def weights(made: list[Made]) -> list[float]:
    return [share.weight for share in ORIGINAL.shares(inputs_of(made)).values()]


def test_the_regression_vector() -> None:
    made = reporting([0.0375, 0.2991, 14.3051], [0.3217, 0.0416, 0.2043], [4520, 2521, 2959])
    assert weights(made) == pytest.approx([0.22749300, 0.54733798, 0.22516902], abs=5e-9)


def test_without_spread_the_examples_decide() -> None:
    made = reporting([1.0] * 2, [0.5] * 2, [100, 300])
    raw = [0.7 + 0.3 * 0.25, 0.7 + 0.3 * 0.75]
    assert weights(made) == pytest.approx([r / sum(raw) for r in raw])


def test_one_hospital_is_all_and_a_silent_one_gets_the_lowest_quality() -> None:
    made = reporting([1.0] * 3, [0.5] * 3, [100] * 3)
    assert weights(made[:1]) == [1.0]
    silent = replace(made[2], metrics={"loss_after": 0.0})
    shares = ORIGINAL.shares(inputs_of([*made[:2], silent]))
    raw = [0.7 + 0.1, 0.7 + 0.1, 0.7 * 0.1 + 0.1]
    assert [s.weight for s in shares.values()] == pytest.approx([r / sum(raw) for r in raw])
    assert "no losses reported" in shares["h02"].explanation
    assert weights([replace(m, metrics={}) for m in made]) == pytest.approx([1 / 3] * 3)


def test_an_improvement_far_from_the_mean_counts_half() -> None:
    """Improvements 16, 14, 0, 0: their mean is 7.5, all are more than 5 away, the second least."""
    made = reporting([17.0, 15.0, 1.0, 1.0], [1.0] * 4, [100] * 4)
    typical = [0.0, (1 - 6.5 / 8.5) / 2, (1 - 7.5 / 8.5) / 2, (1 - 7.5 / 8.5) / 2]
    raw = [0.7 * (0.6 + 0.4 * v) + 0.3 / 4 for v in typical]
    assert weights(made) == pytest.approx([r / sum(raw) for r in raw])
