"""Stacking against dense float64 linear algebra: mixed ranks, the cut, what it reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import get
from federation.adapter import AdapterSchema, ModuleShape, tensor_name
from federation.low_rank import ROW_LENGTH
from tests.aggregating import (
    SCHEMA,
    Made,
    assert_close,
    best_of_rank,
    delta_w,
    inputs_of,
    parent_of,
    trained,
    weighted_sum,
    whole,
)

STACKED = get("stacked")
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=20, deadline=None)
TALL = AdapterSchema(modules=(ModuleShape(path="m", inputs=40, outputs=30),), rank=8, alpha=16.0)


def merge(made: list[Made], weights: dict[str, float]) -> dict[str, np.ndarray]:
    return dict(STACKED.merge(inputs_of(made, 2), weights).tensors)


@quick
@given(st.lists(st.integers(1, 2), min_size=2, max_size=5), seeds)
def test_mixed_ranks_give_the_best_approximation_of_the_exact_mean(
    ranks: list[int], seed: int
) -> None:
    made = [trained(i, seed + i, turn=2, rank=r) for i, r in enumerate(ranks)]
    weights = {m.hospital: 1 / len(made) for m in made}
    exact = weighted_sum(made, weights, 2)
    expected = {path: best_of_rank(matrix, SCHEMA.rank) for path, matrix in exact.items()}
    assert_close(delta_w(merge(made, weights)), expected)


def test_nothing_is_lost_where_the_ranks_fit() -> None:
    """Two hospitals of rank 3 and 5 in a federation of rank 8: exact under 1e-6 in float32."""
    made = [trained(i, i, turn=2, rank=r, schema=TALL) for i, r in enumerate((3, 5))]
    merged = STACKED.merge(inputs_of(made, 2, TALL), {"h00": 0.3, "h01": 0.7})
    found = delta_w(dict(merged.tensors), TALL.rank, TALL)["m"]
    each = [delta_w(m.tensors, m.rank, TALL)["m"] for m in made]
    expected = 0.3 * each[0] + 0.7 * each[1]
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    assert merged.discarded["m"] < 1e-12


@quick
@given(seeds)
def test_the_error_is_the_discarded_energy(seed: int) -> None:
    """||Delta W - cut||_F = sqrt(sum of discarded sigma^2), and the record says how much it is."""
    made = [trained(i, seed + i, turn=2) for i in range(3)]
    weights = {"h00": 0.2, "h01": 0.5, "h02": 0.3}
    merged = STACKED.merge(inputs_of(made, 2), weights)
    found = delta_w(dict(merged.tensors))
    assert merged.discarded.keys() == found.keys()
    for path, matrix in weighted_sum(made, weights, 2).items():
        sigma = np.linalg.svd(matrix, compute_uv=False)
        lost = float(np.square(sigma[SCHEMA.rank :]).sum())
        assert merged.discarded[path] == pytest.approx(lost / np.square(sigma).sum(), abs=1e-9)
        error = np.linalg.norm(found[path] - matrix)
        assert error == pytest.approx(np.sqrt(lost), abs=1e-5 * float(sigma[0]))


@quick
@given(seeds)
def test_it_does_not_see_the_gauge(seed: int) -> None:
    """B -> B G, A -> G^-1 A leaves Delta W, and so the result, as it is."""
    made = [trained(i, seed + i, turn=2) for i in range(3)]
    stream = np.random.default_rng(seed)
    turned: list[Made] = []
    for m in made:
        g = np.eye(2) + 0.5 * np.triu(stream.normal(size=(2, 2)), 1)
        inverse = np.linalg.inv(g)
        tensors = {
            name: (inverse @ t if ".lora_A." in name else t @ g).astype(np.float32)
            for name, t in m.tensors.items()
        }
        turned.append(replace(m, tensors=tensors))
    weights = {"h00": 0.2, "h01": 0.5, "h02": 0.3}
    # Float32 rounds G^-1 A, and a small gap between singular values makes that larger.
    assert_close(delta_w(merge(turned, weights)), delta_w(merge(made, weights)), 1e-3)


def test_a_keeps_the_length_it_is_initialised_with_even_where_b_is_zero() -> None:
    """Else a direction with both factors zero could never be trained again."""
    one = trained(0, 1, turn=2)
    still = {n: np.zeros_like(t) if ".lora_B." in n else t for n, t in one.tensors.items()}
    merged = STACKED.merge(inputs_of([replace(one, tensors=still)], 2), {"h00": 1.0})
    found = dict(merged.tensors)
    for module in SCHEMA.modules:
        a = found[tensor_name(module.path, "A")].astype(np.float64)
        assert np.allclose(a @ a.T, ROW_LENGTH**2 * np.eye(2), atol=1e-6)
        assert not found[tensor_name(module.path, "B")].any()
    assert set(merged.discarded.values()) == {0.0}


def test_a_lone_hospital_of_low_rank_leaves_the_other_directions_trainable() -> None:
    one = trained(0, 1, turn=2, rank=1)
    found = merge([one], {"h00": 1.0})
    assert_close(delta_w(found), whole(one, 2))
    lengths = np.linalg.norm(found[tensor_name("m", "A")], axis=1)
    assert lengths == pytest.approx([ROW_LENGTH] * 2, rel=1e-6)


def test_layers_narrower_than_the_rank_work() -> None:
    narrow = AdapterSchema(
        modules=(
            ModuleShape(path="few_in", inputs=2, outputs=9),
            ModuleShape(path="few_out", inputs=9, outputs=2),
        ),
        rank=4,
        alpha=4.0,
    )
    made = [trained(i, i, turn=2, rank=4, schema=narrow) for i in range(3)]
    for name in ("stacked", "fedsvd"):
        aggregator = get(name)
        weights = dict.fromkeys(("h00", "h01", "h02"), 1 / 3)
        live = narrow.shapes(aggregator.combiner.factors(1))
        sent = [replace(m, tensors={n: t for n, t in m.tensors.items() if n in live}) for m in made]
        found = dict(aggregator.merge(inputs_of(sent, 2, narrow), weights).tensors)
        assert {n: t.shape for n, t in found.items()} == narrow.shapes()
        whole_ones = [{**parent_of(2, narrow), **m.tensors} for m in sent]
        for path, matrix in delta_w(found, 4, narrow).items():
            expected = sum(delta_w(w, 4, narrow)[path] for w in whole_ones) / 3
            assert np.allclose(matrix, expected, rtol=1e-5, atol=1e-6)
