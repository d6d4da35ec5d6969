"""The thin SVD against numpy's of the whole product, and truncation to a hospital's own rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.adapter import AdapterSchema, ModuleShape, initial_adapter, tensor_name
from federation.errors import AdapterError
from federation.low_rank import ROW_LENGTH, thin_svd, truncated

SCHEMA = AdapterSchema(
    modules=(
        ModuleShape(path="m.a", inputs=12, outputs=9),
        ModuleShape(path="m.b", inputs=7, outputs=10),
    ),
    rank=6,
    alpha=12.0,
)
A, B = tensor_name("m.a", "A"), tensor_name("m.a", "B")
sizes = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_it_is_the_svd_of_the_product(m: int, k: int, n: int, seed: int) -> None:
    stream = np.random.default_rng(seed)
    left, right = stream.normal(size=(m, k)), stream.normal(size=(k, n))
    svd = thin_svd(left, right)
    product = left @ right
    assert np.allclose((svd.u * svd.sigma) @ svd.vt, product, atol=1e-12 * np.abs(product).max())
    oracle = np.linalg.svd(product, compute_uv=False)[: len(svd.sigma)]
    assert np.allclose(svd.sigma[: len(oracle)], oracle, atol=1e-12 * oracle[0])
    assert np.allclose(svd.vt @ svd.vt.T, np.eye(len(svd.vt)), atol=1e-12)
    assert (svd.vt[np.arange(len(svd.vt)), np.abs(svd.vt).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(AdapterError, match="not finite"):
        thin_svd(np.full((3, 2), value), np.ones((2, 3)))


def delta_w(adapter: dict[str, np.ndarray], rank: int) -> np.ndarray:
    found: np.ndarray = SCHEMA.alpha / rank * adapter[B].astype(np.float64) @ adapter[A]
    return found


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_truncated_adapter_is_the_nearest_of_its_rank(rank: int) -> None:
    stream = np.random.default_rng(3)
    adapter = {n: stream.normal(size=s).astype(np.float32) for n, s in SCHEMA.shapes().items()}
    cut = truncated(iter(adapter.items()), SCHEMA, rank)
    found = dict(cut.tensors)
    assert {n: t.shape for n, t in found.items()} == SCHEMA.shapes("AB", rank)
    assert all(t.dtype == np.float32 for t in found.values())
    whole = delta_w(adapter, SCHEMA.rank)
    sigma = np.linalg.svd(whole, compute_uv=False)
    lost = float(np.square(sigma[rank:]).sum())
    error = float(np.linalg.norm(delta_w(found, rank) - whole))
    assert error == pytest.approx(np.sqrt(lost), rel=1e-5)
    assert cut.discarded["m.a"] == pytest.approx(lost / np.square(sigma).sum(), rel=1e-9)
    assert cut.discarded.keys() == {"m.a", "m.b"}


def test_the_first_adapter_of_a_federation_stays_trainable_at_any_rank() -> None:
    cut = truncated(initial_adapter(SCHEMA, 1), SCHEMA, 3)
    found = dict(cut.tensors)
    assert not found[B].any()
    assert np.linalg.norm(found[A], axis=1) == pytest.approx([ROW_LENGTH] * 3, rel=1e-6)
    assert set(cut.discarded.values()) == {0.0}
