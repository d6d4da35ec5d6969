"""Agentic weights: the formula in plain Python, every edge case, and what people are told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import Share, ValidatedLoss, get
from federation.messages import Metric
from tests.aggregating import Made, hospital, inputs_of, trained

AGENTIC = get("agentic")
losses = st.floats(0, 20, allow_nan=False)
counts = st.integers(1, 10**6)


def reporting(
    loss: Sequence[float | None],
    variance: Sequence[float | None] | None = None,
    n: Sequence[int] | None = None,
) -> list[Made]:
    made: list[Made] = []
    for i, value in enumerate(loss):
        v = 0.01 if variance is None else variance[i]
        known: dict[Metric, float | None] = {"loss_after": value, "loss_variance": v}
        metrics = {name: x for name, x in known.items() if x is not None}
        made.append(replace(trained(i, 1), n_examples=n[i] if n else 100, metrics=metrics))
    return made


def shares(made: list[Made]) -> list[Share]:
    return list(AGENTIC.shares(inputs_of(made)).values())


def weights(made: list[Made]) -> list[float]:
    return [share.weight for share in shares(made)]


def oracle(
    losses: list[float], variances: list[float], p: list[float], *, validated: bool = False
) -> list[float]:
    """The formulas of the module's description, in plain Python, bisection for the filling."""

    def c(values: list[float]) -> list[float]:
        median = statistics.median(values)
        mad = statistics.median(abs(v - median) for v in values)
        scale = max(1.4826 * mad, 0.05 * abs(median), 1e-8)
        clipped = [max(-3.0, min(3.0, (v - median) / scale)) for v in values]
        return [1 / (1 + math.exp(z)) for z in clipped]

    n = len(losses)
    raw = [
        p_i * (0.6 * a + 0.4 * (min(a, b) if validated else b))
        for p_i, a, b in zip(p, c(losses), c(variances), strict=True)
    ]
    low, high = 0.1 / n, max(1 / n, min(0.5, 2 / n))
    least, most = 0.0, high / min(raw)
    for _ in range(200):
        t = (least + most) / 2
        total = sum(min(high, max(low, t * r)) for r in raw)
        least, most = (t, most) if total < 1 else (least, t)
    return [min(high, max(low, most * r)) for r in raw]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(losses, losses, counts), min_size=2, max_size=20))
def test_the_formula(reported: list[tuple[float, float, int]]) -> None:
    loss, variance, n_examples = map(list, zip(*reported, strict=True))
    found = weights(reporting(loss, variance, n_examples))  # type: ignore[arg-type]
    middle = statistics.median(n_examples)
    root = [math.sqrt(min(n_i, 3 * middle)) for n_i in n_examples]
    assert found == pytest.approx(oracle(loss, variance, root), abs=1e-9)
    n = len(found)
    assert sum(found) == pytest.approx(1, abs=1e-12)
    assert all(0.1 / n - 1e-12 <= w <= max(1 / n, min(0.5, 2 / n)) + 1e-12 for w in found)


def test_one_hospital_is_all() -> None:
    (share,) = shares(reporting([None]))
    assert (share.weight, share.explanation) == (1.0, "weight 1.00: the only update")


def test_two_hospitals_count_the_same_whatever_they_say() -> None:
    found = shares(reporting([0.1, 9.0], n=[1, 100_000]))
    assert [s.weight for s in found] == [0.5, 0.5]
    assert "two hospitals count the same" in found[0].explanation


def test_without_spread_only_the_examples_count_by_their_bounded_root() -> None:
    found = weights(reporting([2.0] * 4, n=[100, 100, 400, 100]))
    root = [10, 10, math.sqrt(300), 10]
    assert found == pytest.approx([r / sum(root) for r in root])


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_a_missing_or_impossible_figure_counts_as_three_scales_bad(missing: float | None) -> None:
    found = shares(reporting([2.0, 2.0, 2.0, missing], [0.01, 0.01, 0.01, missing]))
    good, bad = 0.5, 1 / (1 + math.exp(3))
    assert found[3].weight == pytest.approx(bad / (3 * good + bad))
    assert "no reported loss, so counted as 3 scales bad" in found[3].explanation
    assert "no loss variance" in found[3].explanation
    # Nobody reports anything: all are equally bad, and count by their examples.
    assert weights(reporting([missing] * 3, [missing] * 3)) == pytest.approx([1 / 3] * 3)


def test_a_hospital_that_reports_loss_zero_gains_at_most_the_cap() -> None:
    for n in range(3, 21):
        honest = [2.0 + 0.1 * i for i in range(n - 1)]
        found = weights(reporting([0.0, *honest], [0.0] + [0.5] * (n - 1), [10**9] + [1] * (n - 1)))
        assert found[0] <= max(1 / n, min(0.5, 2 / n)) + 1e-12


def test_it_is_told_in_plain_words() -> None:
    found = [s.explanation for s in shares(reporting([1.0, 2.0, 2.1], [0.01, 0.01, 0.9]))]
    assert found[0].endswith("reported loss better than the median, steady; capped at 0.50")
    assert found[1].endswith("reported loss at the median, steady")
    assert found[2].endswith("unsteady")
    assert found[0].startswith("weight 0.50: ")


def validated(
    made: list[Made], loss: Sequence[float], variance: Sequence[float | None]
) -> list[Made]:
    found = [ValidatedLoss(low, steady) for low, steady in zip(loss, variance, strict=True)]
    return [replace(m, validated=one) for m, one in zip(made, found, strict=True)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(losses, losses, losses, losses, counts), min_size=2, max_size=20))
def test_nothing_reported_counts_where_the_coordinator_validates(
    figures: list[tuple[float, float, float, float, int]],
) -> None:
    loss, variance, *reported = map(list, zip(*figures, strict=True))
    found = weights(validated(reporting(*reported), loss, variance))  # type: ignore[arg-type]
    expected = oracle(loss, variance, [1.0] * len(loss), validated=True)
    assert found == pytest.approx(expected, abs=1e-9)
    silent = [replace(m, metrics={}) for m in reporting(loss)]
    assert found == weights(validated(silent, loss, variance))


@pytest.mark.parametrize("n", [3, 4, 8, 20])
def test_a_liar_about_its_figures_gains_nothing_under_validation(n: int) -> None:
    usual = [2.0 + 0.02 * (i % 3) for i in range(n)]
    lying = reporting(
        [0.01] + [2.0] * (n - 1), [1e-6] + [0.05] * (n - 1), [10_000] + [100] * (n - 1)
    )
    assert weights(lying)[0] == pytest.approx(max(1 / n, min(0.5, 2 / n))), (
        "believed, it has the cap"
    )
    found = weights(validated(lying, [2.05, *usual[1:]], [0.05] * n))
    assert found[0] <= 1 / n
    # Even the best of all, in both, is near to what all have.
    found = weights(validated(lying, [1.9, *usual[1:]], [0.045] + [0.05] * (n - 1)))
    assert found[0] <= 1.6 / n


def test_a_bad_update_gains_nothing_by_being_bad_everywhere() -> None:
    made = reporting([2.0] * 4)
    spread = [0.05, 0.06, 0.07]
    unsteady = weights(validated(made, [2.5, 2.0, 2.0, 2.1], [0.08, *spread]))
    steady = weights(validated(made, [2.5, 2.0, 2.0, 2.1], [0.001, *spread]))
    assert steady[0] == pytest.approx(unsteady[0], rel=0.1)
    assert steady[0] < 0.05


def test_validated_losses_are_told_in_plain_words() -> None:
    made = validated(reporting([0.1, 2, 2, 2]), [3, 2, 2, 1.5], [0.01, 0.01, 0.9, 0.01])
    found = [share.explanation for share in shares(made)]
    assert found[0].endswith("validated loss worse than the median, steady over folds")
    assert found[2].endswith("validated loss at the median, unsteady over folds")
    assert found[3].endswith("validated loss better than the median, steady over folds")


def test_without_folds_the_validated_loss_alone_counts() -> None:
    made = reporting([2.0] * 4, [1e-9, 0.5, 0.5, 0.5])
    found = shares(validated(made, [2.0] * 4, [None] * 4))
    assert [share.weight for share in found] == pytest.approx([0.25] * 4)
    assert found[0].explanation == "weight 0.25: validated loss at the median"
    # Of an update that was measured before there were folds, the loss is all that is known.
    partly = shares(validated(made, [3.0, 2.0, 2.0, 2.0], [1e-9, 0.5, 0.5, None]))
    assert partly[0].weight < 0.25
    assert partly[1].weight == partly[3].weight


def test_who_was_not_validated_beside_others_counts_as_bad() -> None:
    made = validated(reporting([0.1, 2.0, 2.0, 2.0]), [2.0] * 4, [0.1] * 4)
    share = shares([replace(made[0], validated=None), *made[1:]])[0]
    assert share.weight < 0.05
    assert "no validated loss, so counted as 3 scales bad" in share.explanation


def test_the_floor_is_named() -> None:
    made = reporting([2.0, 2.0, 2.0, None], [0.1, 0.1, 0.1, None], [10**6, 10**6, 10**6, 1])
    share = shares(made)[3]
    assert share.weight == pytest.approx(0.025)
    assert share.explanation.endswith("raised to the least, 0.025")
    assert [m.hospital for m in made] == [hospital(i) for i in range(4)]
