"""FedAvg against its formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import Inputs, Update, get
from federation.adapter import AdapterSchema, ModuleShape
from federation.errors import AdapterError

A, B = "base_model.model.m.lora_A.weight", "base_model.model.m.lora_B.weight"
SCHEMA = AdapterSchema(modules=(ModuleShape(path="m", inputs=6, outputs=5),), rank=3, alpha=3.0)
FEDAVG = get("fedavg")


def updates(counts: list[int], seed: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    stream = np.random.default_rng(seed)
    return [
        (
            n,
            stream.normal(size=(3, 6)).astype(np.float32),
            stream.normal(size=(5, 3)).astype(np.float32),
        )
        for n in counts
    ]


def inputs(parts: list[tuple[int, np.ndarray, np.ndarray]]) -> Inputs:
    def update(i: int, n: int, a: np.ndarray, b: np.ndarray) -> Update:
        return Update(f"h{i:02d}", 3, n, {}, lambda: iter([(A, a), (B, b)]))

    return Inputs.of(SCHEMA, lambda: iter(()), [update(i, *part) for i, part in enumerate(parts)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_the_covariance_identity(counts: list[int], seed: int) -> None:
    """sum p_i B_i A_i - Bbar Abar = sum p_i (B_i - Bbar)(A_i - Abar), aggregation.md."""
    parts = updates(counts, seed)
    shares = FEDAVG.shares(inputs(parts))
    p = [shares[f"h{i:02d}"].weight for i in range(len(parts))]
    assert p == pytest.approx([n / sum(counts) for n in counts], rel=1e-15)
    found = dict(FEDAVG.merge(inputs(parts), {f"h{i:02d}": w for i, w in enumerate(p)}).tensors)
    a_bar, b_bar = found[A].astype(np.float64), found[B].astype(np.float64)
    mean_of_products = sum(
        w * b.astype(np.float64) @ a.astype(np.float64)
        for w, (_, a, b) in zip(p, parts, strict=True)
    )
    covariance = sum(w * (b - b_bar) @ (a - a_bar) for w, (_, a, b) in zip(p, parts, strict=True))
    assert np.allclose(mean_of_products - b_bar @ a_bar, covariance, atol=2e-6)


def test_the_mean_is_the_float64_oracle_to_the_last_bit() -> None:
    parts = updates([3, 7, 11], 5)
    weights = {"h00": 3 / 21, "h01": 7 / 21, "h02": 11 / 21}
    found = dict(FEDAVG.merge(inputs(parts), weights).tensors)
    for name, factor in ((A, 1), (B, 2)):
        oracle = np.zeros(found[name].shape)
        for weight, part in zip(weights.values(), parts, strict=True):
            oracle = oracle + weight * np.asarray(part[factor], np.float64)
        assert found[name].tobytes() == oracle.astype(np.float32).tobytes()


def test_it_is_exact_where_all_a_are_equal() -> None:
    shared = np.ones((3, 6), np.float32)
    parts = [(n, shared, b) for n, _, b in updates([3, 5], 1)]
    found = dict(FEDAVG.merge(inputs(parts), {"h00": 0.375, "h01": 0.625}).tensors)
    expected = (0.375 * parts[0][2].astype(np.float64) + 0.625 * parts[1][2]) @ shared
    assert np.allclose(found[B].astype(np.float64) @ found[A], expected, rtol=1e-6)


def test_the_explanation_is_for_people() -> None:
    share = FEDAVG.shares(inputs(updates([2310, 6230], 1)))["h00"]
    assert share.explanation == "weight 0.27: 2,310 of 8,540 training examples"


def test_updates_that_do_not_match_are_refused() -> None:
    def update(name: str, tensors: list[tuple[str, np.ndarray]]) -> Update:
        return Update(name, 3, 1, {}, lambda: iter(tensors))

    one = np.ones((1, 1), np.float32)
    weights = {"h00": 0.5, "h01": 0.5}
    for second in ([], [(A, one)], [(A, one), (B, one), ("z", one)]):
        both = [update("h00", [(A, one), (B, one)]), update("h01", second)]
        with pytest.raises(AdapterError):
            list(FEDAVG.merge(Inputs.of(SCHEMA, lambda: iter(()), both), weights).tensors)
