"""Robust rules against the dense U_i, which the rules themselves never form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import Inputs, get
from coordinator.aggregation._gram import gram
from coordinator.aggregation.geometric_median import median_weights
from coordinator.aggregation.multi_krum import scores
from federation.errors import AdapterError
from tests.aggregating import Made, changes, hospital, inputs_of, trained

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=20, deadline=None)


def several(n: int, seed: int) -> list[Made]:
    return [trained(i, seed + i, turn=2) for i in range(n)]


def adjusted(rule: str, made: list[Made]) -> dict[str, float]:
    shares = get(f"{rule}+stacked").shares(inputs_of(made, 2))
    return {name: share.weight for name, share in shares.items()}


@quick
@given(st.lists(st.integers(1, 2), min_size=1, max_size=5), seeds)
def test_the_gram_matrix_is_that_of_the_changes(ranks: list[int], seed: int) -> None:
    """<U_i, U_j> with mixed ranks; not of the total Delta W, of which the parent is a part."""
    made = [trained(i, seed + i, turn=2, rank=r) for i, r in enumerate(ranks)]
    dense = changes(made, 2)
    assert np.allclose(gram(inputs_of(made, 2)), dense @ dense.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factors", ["A", "B"])
def test_a_frozen_factor_is_the_parents(factors: str) -> None:
    made = [trained(i, i, turn=2, factors=factors) for i in range(3)]  # type: ignore[arg-type]
    dense = changes(made, 2)
    assert np.allclose(gram(inputs_of(made, 2)), dense @ dense.T, rtol=1e-9)


def test_small_changes_of_a_large_adapter_keep_their_digits() -> None:
    made = [trained(i, i, turn=2, noise=1e-4) for i in range(3)]
    dense = changes(made, 2)
    assert np.allclose(gram(inputs_of(made, 2)), dense @ dense.T, rtol=1e-6)


def test_updates_of_different_tensors_are_refused() -> None:
    both, only_b = trained(0, 1, turn=2), trained(1, 1, turn=2, factors="B")
    with pytest.raises(AdapterError, match="in one update but not in another"):
        gram(inputs_of([both, only_b], 2))
    extra = replace(both, tensors={**both.tensors, "z": np.ones(1, np.float32)})
    with pytest.raises(AdapterError, match="'z', which the parent does not"):
        gram(inputs_of([extra], 2))


@quick
@given(seeds)
def test_norm_clip_scales_to_the_median_norm(seed: int) -> None:
    made = several(5, seed)
    made[2] = replace(made[2], tensors={n: 9 * t for n, t in made[2].tensors.items()})
    sizes = np.linalg.norm(changes(made, 2), axis=1)
    expected = 0.2 * np.minimum(1, np.median(sizes) / sizes)
    assert list(adjusted("norm-clip", made).values()) == pytest.approx(list(expected), rel=1e-9)
    shares = get("norm-clip").shares(inputs_of(made, 2))
    assert "; clipped: its change is " in shares["h02"].explanation


def test_norm_clip_lets_a_still_round_be() -> None:
    """Nobody changed anything: there is nothing to divide by."""
    parent = trained(0, 1, turn=2, noise=0)
    made = [replace(parent, hospital=hospital(i)) for i in range(3)]
    assert list(adjusted("norm-clip", made).values()) == pytest.approx([1 / 3] * 3)


@quick
@given(st.integers(5, 9), seeds)
def test_multi_krum_scores_by_the_nearest_neighbours(n: int, seed: int) -> None:
    """Blanchard's n - f - 2 of them, by plain loops over the dense changes."""
    made, f = several(n, seed), (n - 3) // 2
    dense = changes(made, 2)
    expected: list[float] = []
    for i in range(n):
        squares = sorted(float(((dense[i] - dense[j]) ** 2).sum()) for j in range(n) if j != i)
        expected.append(sum(squares[: n - f - 2]))
    products = dense @ dense.T
    squares = np.diag(products)
    distances = squares[:, None] + squares[None, :] - 2 * products
    assert list(scores(distances, f)) == pytest.approx(expected)
    kept = sorted(range(n), key=lambda i: expected[i])[: n - f]
    found = adjusted("multi-krum", made)
    assert [i for i in range(n) if found[hospital(i)] > 0] == sorted(kept)
    assert sum(found.values()) == pytest.approx(1)


def test_multi_krum_names_whom_it_leaves_out() -> None:
    made = several(5, 1)
    flipped = {n: -5 * t for n, t in made[3].tensors.items()}
    made[3] = replace(made[3], tensors=flipped, n_examples=10**6)
    shares = get("multi-krum+stacked").shares(inputs_of(made, 2))
    assert shares["h03"].weight == 0
    assert "left out by multi-krum: squared distance" in shares["h03"].explanation
    assert [shares[hospital(i)].weight for i in (0, 1, 2, 4)] == pytest.approx([0.25] * 4)


@quick
@given(st.integers(3, 9), seeds)
def test_the_geometric_median_has_the_least_sum_of_distances(n: int, seed: int) -> None:
    dense = changes(several(n, seed), 2)
    b = median_weights(dense @ dense.T)
    assert b.sum() == pytest.approx(1)

    def cost(z: np.ndarray) -> float:
        return float(np.linalg.norm(dense - z, axis=1).sum())

    z, stream = b @ dense, np.random.default_rng(seed)
    assert all(
        cost(z) <= cost(z + step * stream.normal(size=z.shape)) + 1e-9
        for step in (1e-1, 1e-2, 1e-3)
        for _ in range(20)
    )
    assert all(cost(z) <= cost(point) + 1e-9 for point in dense)


def test_the_geometric_median_of_a_line_is_its_middle() -> None:
    line = np.array([[0.0], [1.0], [1000.0]])
    assert (median_weights(line @ line.T) @ line)[0] == pytest.approx(1.0, abs=1e-3)


def test_robust_rules_do_not_listen_to_a_sample_count_that_lies() -> None:
    def weights(made: list[Made]) -> Mapping[str, float]:
        return adjusted("geometric-median", made)

    honest = several(4, 1)
    lying = [replace(honest[0], n_examples=10**9), *honest[1:]]
    assert weights(lying) == weights(honest)


def test_a_value_that_is_not_finite_is_refused() -> None:
    made = several(3, 1)
    made[1].tensors[next(iter(made[1].tensors))][0, 0] = np.nan
    inputs: Inputs = inputs_of(made, 2)
    with pytest.raises(AdapterError, match="not finite"):
        gram(inputs)
